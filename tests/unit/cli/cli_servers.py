"""What the API answers about servers and virtual machines, for tests of commands."""

from typing import Any

from fallow.model.members import MemberState, Scheduling
from fallow.model.servers import PrimaryUse, ServerReport, ServerView
from fallow.model.vms import VmState, VmUse, VmView, VmWish

GIB = 2**30


def report(**more: Any) -> ServerReport:
    given: dict[str, Any] = {
        "cpus": 16.0, "memory_bytes": 64 * GIB, "primary_cpus": 4.0, "primary_memory_bytes": 16 * GIB,
        "system_cpus": 0.8, "system_memory_bytes": GIB, "lent_cpus": 2.0, "lent_memory_bytes": 4 * GIB,
        "limit_cpus": 8.0, "limit_memory_bytes": 32 * GIB, "predicted_cpus": 6.4, "predicted_memory_bytes": 24 * GIB,
        "offer_cpus": 4.0, "offer_memory_bytes": 20 * GIB, "throttled": 0.02, "cpu_waiting": 0.01, "lends": True,
        "primaries": (PrimaryUse(name="systemd:db.service", found=True, cpus=4.0),),
    }  # fmt: skip
    return ServerReport(**(given | more))


def server(name: str = "srv1", **more: Any) -> ServerView:
    given: dict[str, Any] = {
        "id": f"s-{name}", "name": name, "state": MemberState.READY, "scheduling": Scheduling.ACTIVE, "pool": "default",
        "cpu_threshold": 0.65, "cpu_ceiling": 0.8, "memory_threshold": 0.8, "memory_ceiling": 0.9,
        "report": report(), "age_seconds": 0.5, "vms": (f"{name}-vm",), "replicas": 3, "requested_cpus": 1.5,
        "offered_cpus": 4.0, "offered_memory_bytes": 20 * GIB, "labels": {"rack": "r7"},
    }  # fmt: skip
    return ServerView(**(given | more))


def vm(name: str = "srv1-vm", server: str = "srv1", **more: Any) -> VmView:
    given: dict[str, Any] = {
        "id": f"vm-{name}", "name": name, "server": server, "isolation": "vm", "cpus": 8.0, "memory_bytes": 8 * GIB,
        "disk_bytes": 20 * GIB, "image": "default", "wanted": VmWish.RUNNING, "automatic": True, "draining": False,
        "state": VmState.RUNNING, "state_since": 1000.0, "node": name, "replicas": 3,
        "use": VmUse(vm_id=f"vm-{name}", state=VmState.RUNNING, cpus=2.0, cpus_limit=6.0, memory_bytes=4 * GIB,
                     memory_limit_bytes=8 * GIB, throttled=0.02),
    }  # fmt: skip
    return VmView(**(given | more))
