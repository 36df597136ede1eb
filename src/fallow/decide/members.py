"""Liveness: who is ready, who is suspect, who is dead - told from the last sign of life alone.

Suspect stops new work and routing; dead has replicas replaced. When most members fall silent at once the fault is
taken to be our own, and nobody is declared dead until they are heard again; a server counts there once with all its
virtual machines. Clusters are judged among themselves, by thresholds of their own, and all other members among
themselves.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState, Thresholds
from fallow.model.units import format_duration

_ALIVE = (MemberState.READY, MemberState.SUSPECT)
FAIL_OVER_SECONDS = 15.0  # and a heartbeat: by then an agent has another session; see docs/design/control-plane.md
SESSION_SECONDS = 0.005  # and this for each member: what a session costs the process that takes a crowd in
UPGRADING_SECONDS = 120.0  # an agent that has no session by then has gone back to the version before, or is lost


@dataclass(frozen=True, kw_only=True)
class Liveness:
    """Thresholds, in seconds since the last sign of life, and what the watcher itself has been through.

    `watching_since`: when this process began to listen. Members that it never heard of get `grace_factor` times as
    long. Those it has heard of, but not once `suspect_after_seconds` have passed since, had a session with whoever led
    before, or with another process that tells of them over connections that do not last while the one that leads
    changes: they are dead after `fail_over_seconds` and a heartbeat, at the earliest. But a cluster is suspect all the
    same: that moves nothing, and nobody counts on what it said last.
    `outage_at`: when most members were last silent together; silence counts from there again. `held_up_at`: when this
    process last stood still; who is silent then is dead only after being silent, once more, for as long as makes it
    suspect. `clusters`: whom all this is for, clusters, of which each may have thresholds of its own, or all other
    members. Thresholds of its own that are no longer than `heartbeat_seconds`, which may have been raised since they
    were set, do not count: with them everybody would be silent all the time.
    """

    suspect_after_seconds: float
    dead_after_seconds: float
    watching_since: float
    outage_at: float = 0.0
    held_up_at: float = 0.0
    heartbeat_seconds: float = 0.0
    grace_factor: float = 3.0
    fail_over_seconds: float = FAIL_OVER_SECONDS
    clusters: bool = False

    def members(self, snapshot: Snapshot) -> Mapping[str, Member]:
        """Return those whom it is for."""
        return snapshot.clusters if self.clusters else snapshot.machines

    def suspect_after(self, member: Member) -> float:
        """Return after how long a silence a member is suspect."""
        own = self._own(member)
        return own.suspect_after_seconds if own is not None else self.suspect_after_seconds

    def dead_after(self, member: Member) -> float:
        """Return after how long a silence it is dead."""
        own = self._own(member)
        return own.dead_after_seconds if own is not None else self.dead_after_seconds

    def impatience(self, members: Mapping[str, Member]) -> float:
        """Return the shortest silence after which one of these that is alive is suspect."""
        if not self.clusters:
            return self.suspect_after_seconds
        alive = (found for found in members.values() if found.state in _ALIVE)
        return min(map(self.suspect_after, alive), default=self.suspect_after_seconds)

    def _own(self, member: Member) -> Thresholds | None:
        own = member.thresholds
        return own if own is not None and own.suspect_after_seconds > self.heartbeat_seconds else None


def fall_together(snapshot: Snapshot) -> Mapping[str, str]:
    """Return what the nodes in virtual machines fall silent with: their server, which counts once with all of them.

    So neither the end of one server nor virtual machines that stop as they were told to looks like our own fault.
    """
    return {vm.node_id: vm.server_id for vm in snapshot.vms.values() if vm.node_id}


def in_outage(
    members: Mapping[str, Member],
    last_seen: Mapping[str, float],
    now: float,
    rules: Liveness,
    together: Mapping[str, str] | None = None,
) -> bool:
    """Say whether so many members are silent at once that the fault is more likely ours.

    That is: all that were alive, or at least two and more than half of them. Of those that fall silent `together`, a
    server and its virtual machines, none must be heard; or the end of one machine might look like our own. Where
    thresholds differ the shortest counts for all of them, or who has it would be dead before the others are silent.
    """
    watching, longest, seen = rules.watching_since, rules.impatience(members), last_seen.get
    silent = {id_ for id_, found in members.items() if now - seen(id_, watching) > longest and found.state in _ALIVE}
    if not silent:
        return False
    alive = [id_ for id_, found in members.items() if found.state in _ALIVE]
    count, gone = len(alive), len(silent)
    if together:
        of = {id_: together.get(id_, id_) for id_ in alive}
        heard = {of[id_] for id_ in alive if id_ not in silent}
        count = len(set(of.values()))
        gone = count - len(heard)
    return gone == count or (gone >= 2 and gone * 2 > count)


def judge(
    snapshot: Snapshot,
    last_seen: Mapping[str, float],
    now: float,
    rules: Liveness,
    new_id: Callable[[], str],
    among: Mapping[str, Member] | None = None,
) -> Plan:
    """Return the state changes of members; `last_seen` maps member id to UTC seconds, absent when never heard.

    With `among` only these are looked at: each of them heard lately or fenced, so that no outage matters to it.
    """
    members = rules.members(snapshot) if among is None else among
    heard, longest, ready = last_seen.get, rules.impatience(members), MemberState.READY
    doubtful = [  # hardly any, of all that are looked at twice a second
        member
        for id_, member in members.items()
        if now - heard(id_, -math.inf) > longest or member.state is not ready or member.fence
    ]
    outage = bool(doubtful) and in_outage(members, last_seen, now, rules, fall_together(snapshot))
    steps = []
    for member in doubtful:
        seen = last_seen.get(member.id)
        if member.fence:
            state, reason = MemberState.DEAD, f"fenced: {member.fence}"
        else:
            state, reason = _state_of(member, seen, now, rules, outage)
        if state is member.state:
            continue
        dead = state is MemberState.DEAD
        changed = msgspec.structs.replace(
            member,
            state=state,
            state_since=now,
            state_reason=reason,
            died_at=now if dead and rules.clusters else member.died_at,
            died_at_revision=snapshot.revision if dead and rules.clusters else member.died_at_revision,
            purge_at=member.purge_at if dead else 0.0,
            updated_at=now,
        )
        told = event(
            new_id(), now, "loop:members", "member", member.id, member.name,
            f"{member.role.title()}{state.title()}", reason,
            "info" if state is MemberState.READY else "warning",
        )  # fmt: skip
        steps.append(Step(puts=(changed, told)))
    return Plan(steps=steps)


def _patience(member: Member, now: float, rules: Liveness) -> float:
    """Return after how long a silence a member is dead; longer while its agent is swapped, as we asked."""
    wish = member.agent
    asked = wish is not None and not wish.failed and wish.version != member.agent_version
    if asked and wish is not None and now - wish.since < UPGRADING_SECONDS:
        return max(rules.dead_after(member), UPGRADING_SECONDS)
    return rules.dead_after(member)


def _state_of(member: Member, seen: float | None, now: float, rules: Liveness, outage: bool) -> tuple[MemberState, str]:
    """Return the state `member` should have, and why."""
    suspect_after = rules.suspect_after(member)
    if seen is not None and now - seen <= suspect_after:
        return MemberState.READY, "its session is open"
    if member.state in (MemberState.JOINING, MemberState.DEAD):
        return member.state, member.state_reason
    heard = seen is not None and seen >= rules.watching_since + suspect_after
    factor = 1.0 if heard else rules.grace_factor
    patience = _patience(member, now, rules)
    if seen is None:
        patience *= factor
    elif not heard:
        patience = max(patience, rules.fail_over_seconds + rules.heartbeat_seconds)
    silence = now - max(seen or 0.0, rules.watching_since)
    heard_again = rules.held_up_at - (rules.dead_after(member) - suspect_after)
    counted = now - max(seen or 0.0, rules.watching_since, rules.outage_at, heard_again)
    if silence <= suspect_after * (1.0 if rules.clusters else factor):
        return member.state, member.state_reason
    if member.state is MemberState.READY:  # also when we were held up for so long that it might be dead
        return MemberState.SUSPECT, f"no sign of life for {format_duration(silence)}"
    if counted > patience and not outage:
        return MemberState.DEAD, f"no sign of life for {format_duration(silence)}; its replicas are replaced"
    return member.state, member.state_reason
