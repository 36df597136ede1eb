"""The loops that tell who is alive, and end the sessions of those who are not.

One process judges, with what all of them hear; every process ends its own sessions.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from fallow.control.hub import Hub, Link
from fallow.control.runner import FOLLOWER_REST, SESSIONS, Controller
from fallow.control.settings import Settings
from fallow.decide.clones import current, superseded
from fallow.decide.members import FAIL_OVER_SECONDS, SESSION_SECONDS, Liveness, fall_together, in_outage, judge
from fallow.decide.plan import Plan, Step
from fallow.decide.removal import Patience, purge
from fallow.decide.snapshot import Snapshot, differing
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member, MemberState

LOOK_SECONDS = 0.5
SELDOM = 49  # times as long as a look at all members took it rests
HELD_UP_SECONDS = 1.0  # between two looks: then this process stood still, and has not read what came meanwhile

_log = structlog.get_logger("fallow.control")


class _Watch:
    """What the loop has been through with one kind of members: clusters, or all others."""

    def __init__(self, settings: Settings, began: float, clusters: bool) -> None:
        self.suspect = settings.cluster_suspect_seconds if clusters else settings.suspect_after_seconds
        self.dead = settings.cluster_dead_seconds if clusters else settings.dead_after_seconds
        self._heartbeat = settings.heartbeat_seconds
        self._clusters = clusters
        self._began = began
        self._outage_at = -math.inf

    def judge(
        self, snapshot: Snapshot, seen: Mapping[str, float], moment: "_Moment", new_id: Callable[[], str]
    ) -> Sequence[Step]:
        """Return the changes of state, and note an outage; `seen`: when each was last heard, by the wall clock."""
        rules = self._rules(moment, len(snapshot.members))
        if in_outage(rules.members(snapshot), seen, moment.now, rules, fall_together(snapshot)):
            if moment.at - self._outage_at > self.dead:
                whom = "clusters" if self._clusters else "members"
                _log.warning(f"most {whom} are silent at once; nobody is declared dead")
            self._outage_at = moment.at
        return judge(snapshot, seen, moment.now, rules, new_id).steps

    def welcome(self, snapshot: Snapshot, hub: Hub, moment: "_Moment", new_id: Callable[[], str]) -> Sequence[Step]:
        """Return the changes of those that are heard and not ready, and of fenced ones: what nobody should wait for."""
        rules = self._rules(moment, len(snapshot.members))
        mine = rules.members(snapshot)
        seen = {id_: moment.now - hub.silence(id_) for id_ in snapshot.unready if id_ in mine}
        among = {
            id_: mine[id_]
            for id_, at in seen.items()
            if moment.now - at <= rules.suspect_after(mine[id_]) or mine[id_].fence
        }
        return judge(snapshot, seen, moment.now, rules, new_id, among).steps if among else ()

    def _rules(self, moment: "_Moment", members: int) -> Liveness:
        return Liveness(
            suspect_after_seconds=self.suspect,
            dead_after_seconds=self.dead,
            watching_since=moment.now - (moment.at - self._began),
            outage_at=moment.now - (moment.at - self._outage_at),
            held_up_at=moment.now - (moment.at - moment.held_up_at),
            heartbeat_seconds=self._heartbeat,
            fail_over_seconds=FAIL_OVER_SECONDS + members * SESSION_SECONDS,
            clusters=self._clusters,
        )


@dataclass(frozen=True, slots=True)
class _Moment:
    """A look: by the wall clock, by the steady one, and when, by the latter, this process last stood still."""

    now: float
    at: float
    held_up_at: float


class _Pace:
    """When to look at all members again, and not only at those that something has happened to.

    Always, while that takes next to no time; with thousands so seldom that it takes a fiftieth of the time, but every
    LOOK_SECONDS. While a fleet joins, something happens to somebody a hundred times a second.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._due_at = -math.inf

    @property
    def seconds_left(self) -> float:
        """Return how long it is until all are due."""
        return max(0.0, self._due_at - self._steady())

    @property
    def due(self) -> bool:
        """Say whether all are due."""
        return not self.seconds_left

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look at all."""
        began = self._steady()
        yield
        ended = self._steady()
        self._due_at = ended + min(LOOK_SECONDS, SELDOM * (ended - began))


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
    pace = _Pace(steady)
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
        some = watches if snapshot.clusters else watches[:1]
        if not pace.due:
            steps = [step for watch in some for step in watch.welcome(snapshot, hub, moment, new_id)]
            return Plan(steps=steps, wake_after_seconds=pace.seconds_left)
        with pace.looking():
            seen = {member_id: now - silence for member_id, silence in hub.silences().items()}
            steps = [step for watch in some for step in watch.judge(snapshot, seen, moment, new_id)]
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


def sessions_controller(hub: Hub, settings: Settings, steady: Callable[[], float] = time.monotonic) -> Controller:
    """Return the loop that ends sessions of members that are removed or dead, or have another key by now.

    With thousands of members those whose record has changed are looked at right away, all others a moment later.
    """
    known: Mapping[str, Member] = {}
    pace = _Pace(steady)

    def decide(snapshot: Snapshot, _now: float) -> Plan:
        nonlocal known
        before, known = known, snapshot.members
        if not pace.due:
            _end_sessions(hub, snapshot, differing(known, before), settings.dead_after_seconds)
            return Plan(wake_after_seconds=pace.seconds_left)
        with pace.looking():
            _end_sessions(hub, snapshot, hub.known(), settings.dead_after_seconds)
        return Plan()

    return Controller(
        name="sessions",
        kinds=frozenset({"members"}),
        every_seconds=LOOK_SECONDS,
        decide=decide,
        rest_factor=FOLLOWER_REST,
    )


def _may_end(member: Member | None, link: Link | None) -> bool:
    """Say whether a member is one of the few that a look at what is open to them is worth."""
    if member is None or member.fence or len(member.runs) > 1 or member.state is MemberState.DEAD:
        return True
    return link is not None and link.key_sha256 != member.key_sha256


def _is_over(member: Member, link: Link) -> bool:
    """Say whether a later start of the agent has taken the member over since a session was opened.

    One that was opened since then has its first word to come: if it comes, two machines use one key.
    """
    return superseded(member.runs, link.instance) and current(member.runs) != link.opened_after


def _end_sessions(hub: Hub, snapshot: Snapshot, ids: Iterable[str], dead_after_seconds: float) -> None:
    """End what is open to nobody of some members: removed ones, and dead ones whose connection never told."""
    members = snapshot.members
    for member_id in sorted(id_ for id_ in ids if _may_end(members.get(id_), hub.link(id_))):
        member, link = members.get(member_id), hub.link(member_id)
        if member is None:
            found = snapshot.revoked_members.get(member_id)
            reason = found.reason if found is not None else "this member was removed; join again with a new token"
            hub.disconnect(member_id, reason, clean=found is not None and not found.keep_containers)
            hub.forget(member_id)
            continue
        if link is not None and link.key_sha256 not in ("", member.key_sha256):
            link.close("this member has another key now: another machine took its place", final=True)
        if member.fence:
            hub.cut(member_id, f"fenced: {member.fence}")
        elif link is not None and _is_over(member, link):
            hub.cut(member_id, "a newer session took its place")
        elif member.state is MemberState.DEAD and dead_after_seconds < hub.silence(member_id) < math.inf:
            hub.cut(member_id, "nothing was heard for too long")
