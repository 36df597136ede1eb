"""The loops that tell who is alive, and end the sessions of those who are not.

One process judges, with what all of them hear; every process ends its own sessions.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from fallow.control.hub import Hub, Link
from fallow.control.runner import FOLLOWER_REST, SESSIONS, Controller
from fallow.control.settings import Settings
from fallow.decide.clones import current, superseded
from fallow.decide.members import Liveness, fall_together, in_outage, judge
from fallow.decide.plan import Plan, Step
from fallow.decide.removal import Patience, purge
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member, MemberState

LOOK_SECONDS = 0.5
HELD_UP_SECONDS = 1.0  # between two looks: then this process stood still, and has not read what came meanwhile

_log = structlog.get_logger("fallow.control")


class _Watch:
    """What the loop has been through with one kind of members: clusters, or all others."""

    def __init__(self, settings: Settings, began: float, clusters: bool) -> None:
        self.suspect = settings.cluster_suspect_seconds if clusters else settings.suspect_after_seconds
        self.dead = settings.cluster_dead_seconds if clusters else settings.dead_after_seconds
        self._clusters = clusters
        self._began = began
        self._outage_at = -math.inf

    def judge(
        self, snapshot: Snapshot, seen: Mapping[str, float], moment: "_Moment", new_id: Callable[[], str]
    ) -> Sequence[Step]:
        """Return the changes of state, and note an outage; `seen`: when each was last heard, by the wall clock."""
        now, at = moment.now, moment.at
        counted_from = moment.held_up_at - (self.dead - self.suspect)
        rules = Liveness(
            suspect_after_seconds=self.suspect,
            dead_after_seconds=self.dead,
            watching_since=now - (at - self._began),
            outage_at=now - (at - max(self._outage_at, counted_from)),
            clusters=self._clusters,
        )
        if in_outage(rules.members(snapshot), seen, now, rules, fall_together(snapshot)):
            if at - self._outage_at > self.dead:
                whom = "clusters" if self._clusters else "members"
                _log.warning(f"most {whom} are silent at once; nobody is declared dead")
            self._outage_at = at
        return judge(snapshot, seen, now, rules, new_id).steps


@dataclass(frozen=True, slots=True)
class _Moment:
    """A look: by the wall clock, by the steady one, and when, by the latter, this process last stood still."""

    now: float
    at: float
    held_up_at: float


def members_controller(
    hub: Hub, settings: Settings, new_id: Callable[[], str], steady: Callable[[], float] = time.monotonic
) -> Controller:
    """Return the loop, which counts as watching from now on; `steady` gives seconds that nobody sets.

    After it was held up it counts silences anew, as far as a member has to be silent for as long again as makes it
    suspect before it is dead: what others heard of it comes a moment later. Our own nodes, as a cluster, are heard for
    as long as we are here.
    """
    began = looked_at = steady()
    held_up_at = -math.inf
    watches = _Watch(settings, began, False), _Watch(settings, began, True)

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal looked_at, held_up_at
        at = steady()
        if at - looked_at > HELD_UP_SECONDS:
            held_up_at = at
        looked_at = at
        if HERE_ID in snapshot.clusters:
            hub.heard(HERE_ID)
        moment = _Moment(now, at, held_up_at)
        seen = {member_id: now - silence for member_id, silence in hub.silences().items()}
        machines, clusters = watches
        steps = [*machines.judge(snapshot, seen, moment, new_id)]
        if snapshot.clusters:
            steps += clusters.judge(snapshot, seen, moment, new_id)
        return Plan(steps=steps)

    return Controller(name="members", kinds=frozenset({"members", SESSIONS}), every_seconds=LOOK_SECONDS, decide=decide)


def purge_controller(
    hub: Hub, settings: Settings, new_id: Callable[[], str], steady: Callable[[], float] = time.monotonic
) -> Controller:
    """Return the loop that removes the long dead, with a warning before; never while most are silent at once."""
    calm = steady()

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal calm
        at = steady()
        rules = Liveness(
            suspect_after_seconds=settings.suspect_after_seconds,
            dead_after_seconds=settings.dead_after_seconds,
            watching_since=now,
        )
        seen = {member_id: now - silence for member_id, silence in hub.silences().items()}
        if in_outage(snapshot.machines, seen, now, rules, fall_together(snapshot)) or _all_dead(snapshot):
            calm = at
        patience = Patience(purge_after_seconds=settings.purge_after_seconds, calm_since=now - (at - calm))
        return purge(snapshot, now, patience, new_id)

    return Controller(name="purge", kinds=frozenset(), every_seconds=_every(settings), decide=decide)


def _every(settings: Settings) -> float:
    """Return how often to look at the dead: soon enough for any purge time, and no oftener than makes sense."""
    return min(30.0, max(0.5, settings.purge_after_seconds / 20))


def _all_dead(snapshot: Snapshot) -> bool:
    """Say whether nobody is left who could tell that we can be reached."""
    return not any(found.state is MemberState.READY for found in snapshot.machines.values())


def sessions_controller(hub: Hub, settings: Settings) -> Controller:
    """Return the loop that ends sessions of members that are removed or dead, or have another key by now."""

    def decide(snapshot: Snapshot, _now: float) -> Plan:
        _end_sessions(hub, snapshot, hub.silences(), settings.dead_after_seconds)
        return Plan()

    return Controller(
        name="sessions", kinds=frozenset({"members"}), every_seconds=0.5, decide=decide, rest_factor=FOLLOWER_REST
    )


def _is_over(member: Member, link: Link) -> bool:
    """Say whether a later start of the agent has taken the member over since a session was opened.

    One that was opened since then has its first word to come: if it comes, two machines use one key.
    """
    return superseded(member.runs, link.instance) and current(member.runs) != link.opened_after


def _end_sessions(hub: Hub, snapshot: Snapshot, silences: Mapping[str, float], dead_after_seconds: float) -> None:
    """End what is open to nobody: sessions of removed members, and of dead ones whose connection never told."""
    revoked = snapshot.revoked_members
    for session in hub.links():
        holder = snapshot.members.get(session.member_id)
        if holder is not None and session.key_sha256 not in ("", holder.key_sha256):
            session.close("this member has another key now: another machine took its place", final=True)
    known = hub.connected() | silences.keys()
    for member_id in sorted((known & snapshot.doubtful.keys()) | (known - snapshot.members.keys())):
        member = snapshot.members.get(member_id)
        if member is None:
            found = revoked.get(member_id)
            reason = found.reason if found is not None else "this member was removed; join again with a new token"
            hub.disconnect(member_id, reason, clean=found is not None and not found.keep_containers)
            hub.forget(member_id)
            continue
        link = hub.link(member_id)
        if member.fence:
            hub.cut(member_id, f"fenced: {member.fence}")
        elif link is not None and _is_over(member, link):
            hub.cut(member_id, "a newer session took its place")
        elif member.state is MemberState.DEAD and silences.get(member_id, 0.0) > dead_after_seconds:
            hub.cut(member_id, "nothing was heard for too long")
