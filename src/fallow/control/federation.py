"""The loop of a host: it divides deployments over clusters, and moves replicas from one to another."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from fallow.control.runner import Controller
from fallow.decide.federation.division import Divider, Target
from fallow.decide.federation.reconcile import Divide, reconcile
from fallow.decide.federation.resting import Resting
from fallow.decide.federation.words import SILENT_SECONDS, Words, said_all
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.members import MemberState

LOOK_SECONDS = 10.0  # what time alone brings is noticed by then
REST_FACTOR = 9.0  # so many times as long as a division took, reports alone make no other


class Divisions:
    """Divides as often as it has to. `steady` gives seconds that nobody sets.

    Another wish, another cluster or another state of one makes another division at once. Reports of shares and of room,
    of which there are many while replicas start, do so after a rest, so that a tenth of the time is enough for it.
    """

    def __init__(self, divide: Divide | None = None, steady: Callable[[], float] = time.monotonic) -> None:
        self._divide = divide if divide is not None else Divider()
        self._steady = steady
        self._made: dict[bool, _Made] = {}
        self.due_in = math.inf  # seconds until an answer that was given since `begin` may be another

    def begin(self) -> None:
        """Begin another run of the loop."""
        self.due_in = math.inf

    def divide(self, snapshot: Snapshot, now: float, anew: Collection[str] = ()) -> Mapping[str, Target]:
        """Return targets as `divide_all` does, from now or from a moment ago."""
        began = self._steady()
        seen = _Seen.of(snapshot, anew)
        made = self._made.get(bool(anew))
        if made is not None and made.seen.same(seen) and began < made.until:
            self.due_in = min(made.until - began, self.due_in)
            return made.targets
        targets = self._divide(snapshot, now, anew)
        ended = self._steady()
        # For what clusters say of a new shape.
        waits = len(targets) < len(snapshot.deployments) or any(found.waits for found in targets.values())
        until = ended if waits else ended + (ended - began) * REST_FACTOR
        self._made[bool(anew)] = _Made(targets, seen, until)
        return targets


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a division was made of, but for reports."""

    deployments: Mapping[str, object]
    divisions: Mapping[str, object]
    label_sets: Mapping[str, object]
    clusters: Mapping[str, int]  # revisions
    anew: tuple[str, ...]

    @classmethod
    def of(cls, snapshot: Snapshot, anew: Collection[str]) -> "_Seen":
        clusters = {id_: cluster.revision for id_, cluster in snapshot.clusters.items()}
        return cls(snapshot.deployments, snapshot.divisions, snapshot.label_sets, clusters, tuple(anew))

    def same(self, other: "_Seen") -> bool:
        return (
            self.deployments is other.deployments
            and self.divisions is other.divisions
            and self.label_sets is other.label_sets
            and self.clusters == other.clusters
            and self.anew == other.anew
        )


@dataclass(frozen=True, slots=True)
class _Made:
    targets: Mapping[str, Target]
    seen: _Seen
    until: float


class _Listening:
    """What a process hears of clusters while it leads; see `federation_controller`."""

    def __init__(self, steady: Callable[[], float], spoke_since: Callable[[str, float], bool]) -> None:
        self._steady = steady
        self._spoke_since = spoke_since
        self._began = steady()
        self._mute_since: dict[str, float] = {}  # clusters that are ready, and have yet to say all there is to say

    def words(self, snapshot: Snapshot) -> Words:
        """Return how far what clusters said counts by now."""
        now, ready = self._steady(), [each for each in snapshot.clusters.values() if each.state is MemberState.READY]
        mute = [each.id for each in ready if not said_all(each)]
        self._mute_since = {id_: self._mute_since.get(id_, now) for id_ in mute}
        return Words(
            unheard=frozenset(
                each.id for each in ready if each.id != HERE_ID and not self._spoke_since(each.id, self._began)
            ),
            mute=frozenset(id_ for id_, since in self._mute_since.items() if now - since > SILENT_SECONDS),
        )


def federation_controller(
    new_id: Callable[[], str],
    steady: Callable[[], float] = time.monotonic,
    spoke_since: Callable[[str, float], bool] = lambda *_: True,
) -> Controller:
    """Return the loop; `steady` gives seconds that nobody sets, `spoke_since` says who was heard on a session by then.

    A run follows the deployments that something has changed for; every `LOOK_SECONDS`, and at first, all of them.
    What a cluster said to whoever led before counts for nothing until this process has heard it, too: it may be gone
    since then, and it takes a while until that is seen.
    """
    listening = _Listening(steady, spoke_since)
    divisions = Divisions(steady=steady)
    resting = Resting()
    all_due = -math.inf

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal all_due
        divisions.begin()
        if steady() >= all_due:
            resting.forget()
            all_due = steady() + LOOK_SECONDS
        words = listening.words(snapshot)
        plan = reconcile(snapshot, now, new_id, divisions.divide, resting, words)
        wake = min(divisions.due_in, max(0.0, all_due - steady()))
        if plan.wake_after_seconds is not None:
            wake = min(wake, plan.wake_after_seconds)
        return replace(plan, wake_after_seconds=wake)

    return Controller(
        name="federation",
        kinds=frozenset({"members", "deployments", "divisions", "shares", "rooms", "label-sets"}),
        every_seconds=LOOK_SECONDS,
        decide=decide,
    )
