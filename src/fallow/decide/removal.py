"""Removing members: by an operator, or because they have been dead for long. The one place that makes the step.

With the member its key goes on record as revoked, so that the machine is turned away for good wherever it calls, and
told what to do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from fallow.decide.events import event
from fallow.decide.leases import release
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState, Revocation
from fallow.model.units import format_duration

WARNED_SECONDS = 3600.0  # before a member is purged
REVOKED_SECONDS = 400 * 86400.0  # so long a machine that was away is told why; then its key is simply unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Who removes a member, and what is said of it; `because` goes on the sentence that a machine is told."""

    actor: str
    reason: str  # of the event
    because: str
    keep_containers: bool = False
    held: int = 0  # replicas


def removal(snapshot: Snapshot, member: Member, now: float, cause: Cause, new_id: Callable[[], str]) -> Step:
    """Return what removes a member, whole or not at all."""
    told = event(
        new_id(), now, cause.actor, "member", member.id, member.name, cause.reason,
        f"{member.role} {member.name} is removed {cause.because}"
        + (f" while it holds {cause.held} replicas" if cause.held else "")
        + (" (its containers are left to it)" if cause.keep_containers else ""),
        "info" if cause.actor.startswith("api:") else "warning",
    )  # fmt: skip
    before = snapshot.revocations.get(member.key_sha256)
    revoked = Revocation(
        id=member.key_sha256, created_at=now, updated_at=now, member_id=member.id, name=member.name, role=member.role,
        reason=f"this member ({member.name}) was removed {cause.because}; join with a new token to use it again",
        keep_containers=cause.keep_containers, revision=before.revision if before is not None else 0,
    )  # fmt: skip
    return Step(puts=(revoked, told, *release(snapshot, member, now)), deletes=(member,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """When the dead are removed, in seconds; 0: never. `calm_since`: since when we listen, and have heard most."""

    purge_after_seconds: float
    calm_since: float

    @property
    def warned_seconds(self) -> float:
        """Return for how long the warning stands before a member is removed."""
        return min(WARNED_SECONDS, self.purge_after_seconds / 2)


def purge(snapshot: Snapshot, now: float, patience: Patience, new_id: Callable[[], str]) -> Plan:
    """Return warnings of members that have been dead for nearly so long, and removals of those that were warned of.

    Nobody is warned of or removed before we have listened, without an outage of our own, for as long as a warning
    stands: who could not reach us has had that time. A fenced member is alive, so it stays. Clusters are never removed
    so: they may hold what nobody else has. A node in a virtual machine goes when that does: it may be stopped for long;
    and a server stays while one of its virtual machines lives, though its agent does not.
    """
    if patience.purge_after_seconds <= 0 or now - patience.calm_since < patience.warned_seconds:
        return Plan()
    steps, in_vms = [], snapshot.vms_by_node
    for member in snapshot.machines.values():
        if member.state not in (MemberState.DEAD, MemberState.JOINING) or member.fence:
            continue
        if member.id in in_vms or _lives_on(snapshot, member):
            continue
        gone = now - member.state_since
        if member.purge_at and now >= member.purge_at and gone >= patience.purge_after_seconds:
            what = "dead" if member.state is MemberState.DEAD else "joined without ever being connected"
            because = f"after it had been {what} for {format_duration(gone)}"
            title = f"{member.role.title()}Purged"
            cause = Cause(actor="loop:purge", reason=title, because=because)
            steps.append(removal(snapshot, member, now, cause, new_id))
        elif not member.purge_at and gone >= patience.purge_after_seconds - patience.warned_seconds:
            steps.append(_warned(member, now, patience, new_id))
    return Plan(steps=steps)


def _lives_on(snapshot: Snapshot, server: Member) -> bool:
    """Say whether a virtual machine of a server lives."""
    nodes = (snapshot.members.get(vm.node_id) for vm in snapshot.vms_by_server.get(server.id, ()))
    return any(node is not None and node.state in (MemberState.READY, MemberState.SUSPECT) for node in nodes)


def _warned(member: Member, now: float, patience: Patience, new_id: Callable[[], str]) -> Step:
    at = max(now + patience.warned_seconds, member.state_since + patience.purge_after_seconds)
    told = event(
        new_id(), now, "loop:purge", "member", member.id, member.name, f"{member.role.title()}PurgeDue",
        f"{member.role} {member.name} is removed in {format_duration(at - now)} unless it comes back: it has been "
        f"{member.state} for {format_duration(now - member.state_since)}",
        "warning",
    )  # fmt: skip
    return Step(puts=(msgspec.structs.replace(member, purge_at=at, updated_at=now), told))
