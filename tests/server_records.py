"""Records of hosting for tests: servers, their virtual machines, and what they report."""

from typing import Any

from records import NOW, member

from fallow.decide.harvest.heard import HeardServer
from fallow.model.members import Facts, Member, Role
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm, VmState, VmUse

GIB = 2**30


def server(name: str = "srv", **changes: Any) -> Member:
    """Return a server with 16 processors."""
    facts = Facts(cpus=16.0, memory_bytes=64 * GIB, architecture="amd64")
    return member(name, **({"id": f"s-{name}", "role": Role.SERVER, "facts": facts} | changes))


def vm(name: str = "a", **changes: Any) -> Vm:
    """Return a virtual machine on the server `srv` that has not been stored."""
    values: dict[str, Any] = {
        "id": f"vm-{name}", "name": name, "created_at": NOW, "updated_at": NOW, "server_id": "s-srv", "cpus": 4.0,
        "memory_bytes": 8 * GIB, "disk_bytes": 20 * GIB, "image": "default",
    }  # fmt: skip
    return Vm(**(values | changes))


def use(vm_id: str = "vm-a", state: VmState = VmState.RUNNING, **changes: Any) -> VmUse:
    return VmUse(vm_id=vm_id, state=state, **changes)


def report(**changes: Any) -> ServerReport:
    """Return what a server says that lends 8 GiB."""
    values: dict[str, Any] = {
        "cpus": 16.0, "memory_bytes": 64 * GIB, "offer_cpus": 8.0, "offer_memory_bytes": 8 * GIB, "lends": True,
        "run": "r1",
    }  # fmt: skip
    return ServerReport(**(values | changes))


def heard(age_seconds: float = 0.5, **changes: Any) -> HeardServer:
    return HeardServer(report=report(**changes), age_seconds=age_seconds)
