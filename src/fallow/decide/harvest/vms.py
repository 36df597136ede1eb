"""What becomes of virtual machines: how their server finds them, their node's draining, and how they leave.

One that is not wanted any more goes in the order it came, backwards: its node drains, the agent takes it away with its
disk, its node is removed with its record. See `orders` for what its server is told meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from fallow.decide.events import event
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.harvest.orders import leaves, told
from fallow.decide.harvest.vm_tokens import labels_of, unused_revoked
from fallow.decide.plan import Step
from fallow.decide.removal import Cause, removal
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.vms import Vm, VmState, VmUse, VmWish

_SERVER_DEAD = "its server is dead, so how it is, is not known"
STATE_SECONDS = 2.0  # a server may tell of as many states as it likes: so long one stands here at least
PROBLEM_SECONDS = 30.0  # and so long the words about one that stays
MISSING_SECONDS = 10.0  # an agent that has just started may not have found all of its own again


def life(
    snapshot: Snapshot, servers: HeardServers, missing: Mapping[str, float], now: float, new_id: Callable[[], str]
) -> Iterator[Step]:
    """Yield what follows for every virtual machine from what is heard; at most one step for each.

    `missing` tells for how many seconds each that should be absent has been `away`.
    """
    for vm in snapshot.vms.values():
        server = snapshot.servers.get(vm.server_id)
        if server is None:
            yield _gone(snapshot, vm, now, "with its server", new_id)
        elif told(snapshot, vm) is VmWish.ABSENT and missing.get(vm.id, 0.0) >= MISSING_SECONDS:
            yield _gone(snapshot, vm, now, f"from {server.name}", new_id)
        elif vm.node_id and vm.node_id not in snapshot.members and vm.wanted is not VmWish.ABSENT:
            yield _lost_node(vm, now, new_id)
        elif (step := _followed(snapshot, vm, server, servers, now, new_id)) is not None:
            yield step
    for lending in snapshot.lendings.values():
        if lending.id not in snapshot.servers:
            yield Step(deletes=(lending,))


def _followed(
    snapshot: Snapshot, vm: Vm, server: Member, servers: HeardServers, now: float, new_id: Callable[[], str]
) -> Step | None:
    """Return the one thing that comes first for a virtual machine that stays, or for its node."""
    node = snapshot.members.get(vm.node_id)
    return (
        (_not_replaced(snapshot, vm, node, now) if node is not None else None)
        or (_drained(vm, node, now, new_id) if node is not None else None)
        or (_relabelled(vm, server, node, now, new_id) if node is not None else None)
        or _seen(vm, server, servers, now, new_id)
    )


def _gone(snapshot: Snapshot, vm: Vm, now: float, whence: str, new_id: Callable[[], str]) -> Step:
    """Return what removes a virtual machine with its node; nobody can join with its token any more."""
    said = event(
        new_id(), now, "loop:vms", "vm", vm.id, vm.name, "VmRemoved", f"virtual machine {vm.name} is gone {whence}"
    )
    node = snapshot.members.get(vm.node_id)
    puts = (said, *unused_revoked(snapshot, vm, now))
    if node is None:
        return Step(puts=puts, deletes=(vm,))
    cause = Cause(
        actor="loop:vms", reason="MemberRemoved", because=f"as its virtual machine went {whence}",
        held=len(snapshot.replicas_by_node.get(node.id, ())),
    )  # fmt: skip
    out = removal(snapshot, node, now, cause, new_id)
    return Step(puts=(*out.puts, *puts), deletes=(*out.deletes, vm), guards=out.guards)


def _lost_node(vm: Vm, now: float, new_id: Callable[[], str]) -> Step:
    """Take away a virtual machine whose node was removed: what is in it may not join again."""
    said = event(
        new_id(), now, "loop:vms", "vm", vm.id, vm.name, "VmLeaving",
        f"virtual machine {vm.name} goes: its node was removed", "warning",
    )  # fmt: skip
    return Step(puts=(msgspec.structs.replace(vm, wanted=VmWish.ABSENT, updated_at=now), said))


def _not_replaced(snapshot: Snapshot, vm: Vm, node: Member, now: float) -> Step | None:
    """End a token that was to replace a node, and that nobody needs any more: the node is there after all."""
    unused = unused_revoked(snapshot, vm, now) if node.state is MemberState.READY else ()
    return Step(puts=unused) if unused else None


def _drained(vm: Vm, node: Member, now: float, new_id: Callable[[], str]) -> Step | None:
    """Let a node drain for as long as its virtual machine leaves. What an operator has set stays as it is."""
    if leaves(vm) and node.scheduling is not Scheduling.DRAINING:
        scheduling, words = Scheduling.DRAINING, "drains, as its virtual machine does or stops"
    elif not leaves(vm) and vm.node_drained and node.scheduling is Scheduling.DRAINING:
        scheduling, words = Scheduling.ACTIVE, "is used again, as its virtual machine is"
    elif vm.node_drained and not leaves(vm):  # an operator was quicker
        return Step(puts=(msgspec.structs.replace(vm, node_drained=False, updated_at=now),))
    else:
        return None
    said = event(
        new_id(), now, "loop:vms", "member", node.id, node.name, "MemberChanged", f"{node.role} {node.name} {words}"
    )
    return Step(
        puts=(
            msgspec.structs.replace(node, scheduling=scheduling, updated_at=now),
            msgspec.structs.replace(vm, node_drained=scheduling is Scheduling.DRAINING, updated_at=now),
            said,
        )
    )


def _relabelled(vm: Vm, server: Member, node: Member, now: float, new_id: Callable[[], str]) -> Step | None:
    """Let a node's labels follow where its server is."""
    labels = node.labels | labels_of(server, vm)
    if labels == node.labels:
        return None
    new = ", ".join(f"{key}={value}" for key, value in labels.items() if node.labels.get(key) != value)
    said = event(
        new_id(), now, "loop:vms", "member", node.id, node.name, "MemberChanged",
        f"{node.role} {node.name}: label {new}, as its server {server.name} has",
    )  # fmt: skip
    return Step(puts=(msgspec.structs.replace(node, labels=labels, updated_at=now), said), guards=(server,))


def _seen(vm: Vm, server: Member, servers: HeardServers, now: float, new_id: Callable[[], str]) -> Step | None:
    """Store how its server finds a virtual machine, where that is another than before; not its every word."""
    state, problem = _state(vm, server, servers)
    if state is not vm.state and not _lately(vm.state_since, now, STATE_SECONDS):
        changed = msgspec.structs.replace(vm, state=state, state_since=now, problem=problem, updated_at=now)
        said = event(
            new_id(), now, f"server:{server.name}", "vm", vm.id, vm.name, f"Vm{state.title()}",
            f"virtual machine {vm.name} on {server.name} is {state}" + (f": {problem}" if problem else ""),
            "warning" if state is VmState.FAILED else "info",
        )  # fmt: skip
        return Step(puts=(changed, said))
    if problem != vm.problem and (not vm.problem or not problem or not _lately(vm.updated_at, now, PROBLEM_SECONDS)):
        return Step(puts=(msgspec.structs.replace(vm, problem=problem, updated_at=now),))
    return None


def _lately(at: float, now: float, seconds: float) -> bool:
    """Say whether a moment was less than so long ago; one that lies ahead is from before the clock was set back."""
    return 0 <= now - at < seconds


def _state(vm: Vm, server: Member, servers: HeardServers) -> tuple[VmState, str]:
    heard = servers.get(server.id)
    if server.state is MemberState.DEAD:
        return vm.state, _SERVER_DEAD
    use = use_of(servers, vm) if heard is not None and heard.fresh else None
    if use is not None:
        return use.state, " ".join(use.problem.split())
    return vm.state, "" if vm.problem == _SERVER_DEAD else vm.problem


def away(servers: HeardServers, vm: Vm) -> bool:
    """Say whether a virtual machine that should be absent is so, as its server tells: it has stopped, or is not named.

    One that stands there stopped because it cannot be taken away has a problem.
    """
    heard = servers.get(vm.server_id)
    if heard is None or not heard.fresh:
        return False
    use = use_of(servers, vm)
    return use is None or (use.state is VmState.STOPPED and not use.problem)


def use_of(servers: HeardServers, vm: Vm) -> VmUse | None:
    """Return what a virtual machine's server said last of it."""
    heard = servers.get(vm.server_id)
    return next((use for use in heard.report.vms if use.vm_id == vm.id), None) if heard is not None else None
