"""Servers that lend, their virtual machines and what they say, for tests of decisions about them."""

from typing import Any

from records import NOW, member

from fallow.decide.harvest.heard import HeardServer
from fallow.model.members import Facts, Member, Role
from fallow.model.servers import Lending, ServerReport
from fallow.model.vms import Vm, VmState, VmUse

GIB = 2**30


def server(name: str = "srv1", **changes: Any) -> Member:
    return member(name, **({"id": f"s-{name}", "role": Role.SERVER} | changes))


def vm(name: str, on: str = "srv1", **changes: Any) -> Vm:
    """Return a virtual machine, as which the node called `name` has joined."""
    values: dict[str, Any] = {
        "id": f"v-{name}", "name": f"vm-{name}", "created_at": NOW, "updated_at": NOW, "revision": 1,
        "server_id": f"s-{on}", "cpus": 4.0, "memory_bytes": 8 * GIB, "disk_bytes": 0, "image": "default",
        "node_id": f"n-{name}", "state": VmState.RUNNING,
    }  # fmt: skip
    return Vm(**(values | changes))


def node(name: str, cpus: float = 4.0, memory_bytes: int = 8 * GIB, **changes: Any) -> Member:
    facts = Facts(architecture="amd64", cpus=cpus, memory_bytes=memory_bytes)
    return member(name, **({"facts": facts} | changes))


def report(**changes: Any) -> ServerReport:
    """Return what a server of 10 processors says that lends 4 of them."""
    values: dict[str, Any] = {
        "cpus": 10.0, "memory_bytes": 32 * GIB, "primary_cpus": 2.0, "offer_cpus": 4.0, "offer_memory_bytes": 16 * GIB,
        "limit_cpus": 6.0, "lends": True,
    }  # fmt: skip
    return ServerReport(**(values | changes))


def heard(*, on: str = "srv1", age_seconds: float = 0.5, **changes: Any) -> dict[str, HeardServer]:
    return {f"s-{on}": HeardServer(report=report(**changes), age_seconds=age_seconds)}


def use(name: str, **changes: Any) -> VmUse:
    return VmUse(**({"vm_id": f"v-{name}", "state": VmState.RUNNING} | changes))


def lending(on: str = "srv1", **changes: Any) -> Lending:
    return Lending(**({"id": f"s-{on}", "created_at": NOW, "updated_at": NOW, "revision": 1} | changes))
