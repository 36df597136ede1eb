"""Virtual machines that operators make, change and delete by hand."""

import math

import msgspec

from fallow.decide.harvest.heard import HeardServer
from fallow.decide.harvest.pools import pool_of
from fallow.decide.harvest.views import Load, load_of
from fallow.decide.joining import free_name
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, Scheduling
from fallow.model.meta import is_name
from fallow.model.server_pools import LendingPolicy
from fallow.model.units import format_bytes
from fallow.model.vms import Vm, VmChange, VmRequest, VmWish

LEAST_MEMORY = 256 * 2**20  # of a virtual machine: less does not hold an engine and an agent
MOST_VMS = 64  # on a server
_MAX_STEM = 36  # of a name made from the server's, before `-vm` and a number


class VmRefused(Exception):  # noqa: N818 - an answer, not a fault
    """What was asked of a virtual machine cannot be; says why and what to do next."""

    def __init__(self, code: str, title: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.title = title
        self.detail = detail
        self.hint = hint


def new_vm(
    snapshot: Snapshot, server: Member, request: VmRequest, heard: HeardServer | None, now: float, id_: str
) -> Vm:
    """Return the virtual machine that somebody asks for. Raises VmRefused."""
    there = snapshot.vms_by_server.get(server.id, [])
    if server.scheduling is Scheduling.DRAINING:
        raise VmRefused(
            "draining", "The server is drained", f"{server.name} lends nothing any more",
            f"fallow server undrain {server.name}",
        )  # fmt: skip
    if len(there) >= MOST_VMS:
        raise VmRefused(
            "too-many", "Too many virtual machines", f"{server.name} has {len(there)}, and may have no more"
        )
    policy = pool_of(snapshot, server)[1]
    cpus, memory = _size(
        server, request, policy, heard, sum(vm.memory_bytes for vm in there if vm.wanted is not VmWish.ABSENT)
    )
    _check_capacity(server, heard, cpus, memory)
    return Vm(
        id=id_,
        created_at=now,
        updated_at=now,
        name=_name(snapshot, server, request.name),
        server_id=server.id,
        isolation=policy.isolation,
        cpus=cpus,
        memory_bytes=memory,
        disk_bytes=request.disk_bytes or policy.vms.disk_bytes,
        image=request.image or policy.vms.image,
        state_since=now,
    )


def asked_before(snapshot: Snapshot, server: Member, request: VmRequest) -> Vm | None:
    """Return the virtual machine that the same request, with a name of its own, has made already."""
    wished = {
        name: value for name in ("cpus", "memory_bytes", "disk_bytes", "image") if (value := getattr(request, name))
    }
    for vm in snapshot.vms_by_server.get(server.id, ()):
        if request.name and vm.name == request.name and vm.wanted is not VmWish.ABSENT:
            return vm if all(getattr(vm, name) == value for name, value in wished.items()) else None
    return None


def _name(snapshot: Snapshot, server: Member, wished: str) -> str:
    names = {vm.name for vm in snapshot.vms.values()}
    if wished:
        if not is_name(wished):
            raise VmRefused(
                "bad-request", "Not a usable name", f"{wished[:80]!r}",
                "take lower case letters, digits and dashes, at most 40, a letter first",
            )  # fmt: skip
        if wished in names:
            raise VmRefused(
                "name-taken", "Name taken", f"there is a virtual machine {wished} already",
                f"fallow vm show {wished} shows it; fallow vm resize changes it",
            )  # fmt: skip
        return wished
    names |= {member.name for member in snapshot.members.values()}  # its node is to be called as it is
    return free_name(f"{server.name[:_MAX_STEM].rstrip('-')}-vm", names.__contains__)[0]


def _size(
    server: Member, request: VmRequest, policy: LendingPolicy, heard: HeardServer | None, taken: int
) -> tuple[float, int]:
    """Return processors and bytes: as asked for, else as the policy says, else what the server lends and has left."""
    report = heard.report if heard is not None else None
    cpus = request.cpus or policy.vms.cpus
    memory = request.memory_bytes or policy.vms.memory_bytes
    known = report.cpus if report is not None and report.cpus else server.facts.cpus
    if not cpus:
        cpus = float(max(1, math.floor(known * policy.cpu_threshold)))
    if not memory:
        if heard is None or not heard.fresh:
            raise VmRefused(
                "size-unknown", "Its size cannot be told",
                f"{server.name} has not told of late how much memory it can lend",
                "give --memory, or wait until it does",
            )  # fmt: skip
        memory = heard.report.offer_memory_bytes - taken
        if memory < LEAST_MEMORY:
            raise VmRefused(
                "no-room", "Too little is left",
                f"{server.name} offers {format_bytes(heard.report.offer_memory_bytes)} of memory, "
                f"and its virtual machines have {format_bytes(taken)} of it",
                "give --memory, or make another one smaller: fallow vm resize",
            )  # fmt: skip
    return cpus, memory


def _check_capacity(server: Member, heard: HeardServer | None, cpus: float, memory: int) -> None:
    """Raise VmRefused for what a server does not have at all, or what holds no node."""
    if memory < LEAST_MEMORY:
        raise VmRefused(
            "bad-request", "Too little memory", f"{format_bytes(memory)} hold no engine and no agent",
            f"give at least {format_bytes(LEAST_MEMORY)}",
        )  # fmt: skip
    report = heard.report if heard is not None else None
    has_cpus = report.cpus if report is not None and report.cpus else server.facts.cpus
    has_memory = report.memory_bytes if report is not None and report.memory_bytes else server.facts.memory_bytes
    if has_cpus and cpus > has_cpus:
        raise VmRefused(
            "larger-than-server", "Larger than its server", f"{server.name} has {has_cpus:g} processors, not {cpus:g}"
        )
    if has_memory and memory > has_memory:
        raise VmRefused(
            "larger-than-server", "Larger than its server",
            f"{server.name} has {format_bytes(has_memory)} of memory, not {format_bytes(memory)}",
        )  # fmt: skip


def changed_vm(snapshot: Snapshot, vm: Vm, change: VmChange, heard: HeardServer | None) -> Vm:
    """Return a virtual machine as somebody wishes it. Raises VmRefused.

    A size that is given by hand is kept: the policy does not change it any more.
    """
    if vm.wanted is VmWish.ABSENT:
        raise VmRefused(
            "leaving", "It is being deleted", f"{vm.name} goes, with its disk", "make another: fallow vm create"
        )
    server = snapshot.members.get(vm.server_id)
    cpus = vm.cpus if change.cpus is None else change.cpus
    memory = vm.memory_bytes if change.memory_bytes is None else change.memory_bytes
    sized = change.cpus is not None or change.memory_bytes is not None
    if (cpus, memory) != (vm.cpus, vm.memory_bytes):
        _check_placed(vm, load_of(snapshot, (vm,)), cpus, memory)
        if server is not None:
            _check_capacity(server, heard, cpus, memory)
    return msgspec.structs.replace(
        vm,
        cpus=cpus,
        memory_bytes=memory,
        fixed=vm.fixed or sized,
        wanted=vm.wanted if change.wanted is None else VmWish(change.wanted),
        draining=vm.draining if change.draining is None else change.draining,
    )


def deleted_vm(vm: Vm) -> Vm:
    """Return a virtual machine that is to go with its disk, once what it holds has moved."""
    return msgspec.structs.replace(vm, wanted=VmWish.ABSENT, draining=True)


def change_words(before: Vm, after: Vm) -> str:
    """Return what is new in a virtual machine, in words; empty: nothing."""
    words = []
    if after.cpus != before.cpus:
        words.append(f"{after.cpus:g} processors, were {before.cpus:g}")
    if after.memory_bytes != before.memory_bytes:
        words.append(f"{format_bytes(after.memory_bytes)} of memory, were {format_bytes(before.memory_bytes)}")
    if after.fixed and not before.fixed and not words:
        words.append("its size is kept")
    if after.wanted is not before.wanted:
        words.append(f"wanted {after.wanted}, was {before.wanted}")
    if after.draining is not before.draining:
        words.append("draining" if after.draining else "not drained any more")
    return ", ".join(words)


def _check_placed(vm: Vm, load: Load, cpus: float, memory: int) -> None:
    """Raise VmRefused for a size below what is placed already."""
    if cpus < load.cpus or memory < load.memory_bytes:
        raise VmRefused(
            "holds-replicas", "Smaller than what it holds",
            f"the {load.replicas} replicas on {vm.name} ask for {load.cpus:g} processors and "
            f"{format_bytes(load.memory_bytes)} of memory",
            f"fallow vm drain {vm.name} first, or choose a larger size",
        )  # fmt: skip
