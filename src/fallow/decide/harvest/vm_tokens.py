"""Which token a virtual machine may join with: one, for it alone, that takes the place of every one before."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from fallow.decide.events import event
from fallow.decide.harvest.orders import closed
from fallow.decide.joining import free_name
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState, Role
from fallow.model.tokens import JoinToken
from fallow.model.vms import INHERITED_LABELS, SERVER_LABEL, SIZE_LABEL, VM_LABEL, Vm, VmWish


@dataclass(frozen=True, kw_only=True, slots=True)
class NewToken:
    """What is random about a token, and how long it lasts. The secret itself is not here, only what is stored of it."""

    id: str
    secret_sha256: str
    ttl_seconds: float


def refusal(snapshot: Snapshot, server_id: str, vm_id: str) -> str:
    """Return why a server gets no token for a virtual machine now, in words for its operator; empty: it may."""
    server, vm = snapshot.servers.get(server_id), snapshot.vms.get(vm_id)
    if server is None or vm is None or vm.server_id != server_id:
        return "this server has no such virtual machine"
    if vm.wanted is not VmWish.RUNNING:
        return f"{vm.name} is not wanted running"
    why = closed(snapshot, server)
    if why:
        return f"{server.name} lends nothing now: {why}"
    return _joined(vm, snapshot.members.get(vm.node_id)) if vm.node_id else ""


def _joined(vm: Vm, node: Member | None) -> str:
    """Return why nobody takes the place of a virtual machine's node; empty: somebody may.

    That is: its disk is lost, or it may have ended before it heard that it had joined.
    """
    if node is None:
        return f"the node of {vm.name} was removed; it does not join again"
    if node.fence:
        return f"{vm.name} has joined as {node.name}, which is fenced: {node.fence}"
    if node.state not in (MemberState.DEAD, MemberState.JOINING):
        return f"{vm.name} has joined as {node.name}, which is {node.state}; only a dead node is replaced"
    return ""


def token_step(snapshot: Snapshot, vm: Vm, made: NewToken, now: float, new_id: Callable[[], str]) -> Step:
    """Return what stores a new token for a virtual machine that `refusal` has nothing against, and ends the one before.

    Where its node exists, the new token is that node's alone: for the key it has, or another that replaces it.
    """
    server = snapshot.servers[vm.server_id]
    node = snapshot.members.get(vm.node_id)
    token = JoinToken(
        id=made.id,
        created_at=now,
        updated_at=now,
        secret_sha256=made.secret_sha256,
        role=Role.NODE,
        labels={} if node is not None else labels_of(server, vm),
        uses=1,
        expires_at=now + made.ttl_seconds,
        created_by=f"server:{server.name}",
        name="" if node is not None else _free_name(snapshot, vm),
        replaces=node.id if node is not None else "",
    )
    told = event(
        new_id(), now, f"server:{server.name}", "vm", vm.id, vm.name, "VmTokenGranted",
        f"{server.name} has a token for {vm.name}" + (f", to take the place of {node.name}" if node else ""),
    )  # fmt: skip
    changed = msgspec.structs.replace(vm, token_id=token.id, updated_at=now)
    return Step(puts=(changed, token, told, *unused_revoked(snapshot, vm, now)), guards=(server,))


def unused_revoked(snapshot: Snapshot, vm: Vm, now: float) -> tuple[JoinToken, ...]:
    """Return the token of a virtual machine as ended, if somebody could still join with it."""
    token = snapshot.join_tokens.get(vm.token_id)
    if token is None or token.revoked or token.spent >= token.uses:
        return ()
    return (msgspec.structs.replace(token, revoked=True, updated_at=now),)


def labels_of(server: Member, vm: Vm) -> dict[str, str]:
    """Return the assigned labels of a virtual machine's node."""
    inherited = {key: server.labels[key] for key in INHERITED_LABELS if key in server.labels}
    size = f"{round(vm.cpus, 2):g}cpu-{vm.memory_bytes // 2**20}MiB"
    return inherited | {SERVER_LABEL: server.name, VM_LABEL: vm.name, SIZE_LABEL: size}


def _free_name(snapshot: Snapshot, vm: Vm) -> str:
    """Return what its node is called: as the virtual machine, unless another member is called so."""
    taken = {member.name for member in snapshot.members.values()} | snapshot.members.keys()
    return free_name(vm.name, taken.__contains__)[0]
