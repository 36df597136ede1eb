"""The host's loop: from what is stored to the next step of every deployment towards its division.

Level-triggered: it may run twice, late or after a crash, and does the same. What a cluster is told is stored first;
whoever holds its session sends it. See docs/design/federation.md.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from fallow.decide.federation import founding
from fallow.decide.federation.division import Target, divide_all
from fallow.decide.federation.drains import forgotten
from fallow.decide.federation.fence import fenced_off, stopped_after
from fallow.decide.federation.following import Following
from fallow.decide.federation.migrate import Told, retold
from fallow.decide.federation.rebalancing import Course, course, standing
from fallow.decide.federation.resting import Resting
from fallow.decide.federation.words import ALL_HEARD, Words
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.members import MemberState

STEPS_AT_ONCE = 2000  # of one plan; the rest follows in the next
UNDECIDED_SECONDS = 0.25  # until to look again after what waits for clusters to say what room they have

# Targets by deployment id; those named are divided afresh.
Divide = Callable[[Snapshot, float, Collection[str]], Mapping[str, Target]]


def reconcile(
    snapshot: Snapshot,
    now: float,
    new_id: Callable[[], str],
    divide: Divide = divide_all,
    resting: Resting | None = None,
    words: Words = ALL_HEARD,
) -> Plan:
    """Return what brings every deployment one step nearer to its division; nothing where there is only this cluster.

    Those that are `resting` are not followed; it is put right for all others. `words`: see there.
    """
    if founding.alone(snapshot):
        return Plan(steps=tuple(islice(founding.dissolved(snapshot, now, new_id), STEPS_AT_ONCE)))
    if HERE_ID not in snapshot.clusters:
        return Plan(steps=(founding.founded(snapshot, now, new_id),))
    waits: list[float] = [UNDECIDED_SECONDS] if words.unheard else []
    courses = _courses(snapshot, now, divide)
    resting = resting if resting is not None else Resting()
    resting.begin(snapshot, words)
    look = _Look(snapshot=snapshot, now=now, new_id=new_id, words=words)
    steps = tuple(islice(_steps(look, courses, resting, waits), STEPS_AT_ONCE))
    if len(steps) == STEPS_AT_ONCE:
        waits.append(0.0)
    return Plan(steps=steps, wake_after_seconds=min(waits, default=None))


def _courses(snapshot: Snapshot, now: float, divide: Divide) -> Mapping[str, Course]:
    """Return where deployments go, by id; one is missing for as long as that waits for what clusters say."""
    targets = divide(snapshot, now, ())
    restless = [
        found.id
        for found in snapshot.deployments.values()
        if found.spec.clusters.rebalance is not None and found.origin is None and not found.deleting
    ]
    # Of a cluster that is silent for a moment nobody knows what it has room for: until that is clear nothing is begun.
    unclear = any(found.state is MemberState.SUSPECT for found in snapshot.clusters.values())
    ideals = divide(snapshot, now, restless) if restless and not unclear else {}
    courses = {
        id_: course(
            snapshot.divisions.get(id_), target, ideals.get(id_), snapshot.deployments[id_].spec.clusters.rebalance, now
        )
        if not unclear and not _waits_for_fence(snapshot, snapshot.deployments[id_], now)
        else standing(snapshot.divisions.get(id_), target)
        for id_, target in targets.items()
    }
    # Each step has room beside all targets, but not beside another step.
    for id_ in [id_ for id_, found in courses.items() if found.step][1:]:
        courses[id_] = replace(standing(snapshot.divisions.get(id_), targets[id_]), wait=UNDECIDED_SECONDS)
    return courses


def _waits_for_fence(snapshot: Snapshot, deployment: Deployment, now: float) -> bool:
    """Say whether a dead cluster may still run some of a deployment, which runs nowhere else until that has stopped."""
    dead = (found for found in snapshot.clusters.values() if found.state is MemberState.DEAD)
    return stopped_after(deployment) > 0 and not all(fenced_off(deployment, found, now) for found in dead)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What all deployments are followed by; see `Following`."""

    snapshot: Snapshot
    now: float
    new_id: Callable[[], str]
    words: Words

    def follow(self, deployment: Deployment, course: Course) -> Following:
        return Following(
            snapshot=self.snapshot,
            deployment=deployment,
            course=course,
            now=self.now,
            new_id=self.new_id,
            words=self.words,
        )


def _steps(look: _Look, courses: Mapping[str, Course], resting: Resting, waits: list[float]) -> Iterator[Step]:
    """Yield what each deployment needs, whole or not at all; add to `waits` in how many seconds more is due."""
    snapshot, now = look.snapshot, look.now
    written: set[str] = set()
    for deployment in snapshot.deployments.values():
        if deployment.origin is not None:
            continue  # it is a share itself
        if deployment.deleting:
            yield from _ended(snapshot, deployment, now)
            continue
        found = courses.get(deployment.id)
        if found is None or found.target.waits:
            waits.append(UNDECIDED_SECONDS)
        if found is None:
            continue
        if deployment.share is None:
            yield founding.adopted(snapshot, deployment, found.target.fingerprint, now)
            continue
        if resting.rests(snapshot, deployment, found):
            continue
        following = look.follow(deployment, found)
        step = following.step()
        resting.note(snapshot, deployment, found, rests=step is None and not following.waits)
        if step is not None:
            written.update(record.id for record in step.puts)
            yield step
        waits.extend(following.waits)
    yield from forgotten(snapshot, now, look.new_id, written, look.words)


def _ended(snapshot: Snapshot, deployment: Deployment, now: float) -> Iterator[Step]:
    """Tell every cluster to run nothing more of a deployment, the silent ones too; here its own loop does it."""
    for share in snapshot.shares_by_deployment.get(deployment.id, ()):
        if share.cluster_id == HERE_ID:
            yield Step(deletes=(share,))
        elif share.most:
            yield Step(puts=(retold(share, Told(0), snapshot.revision, now),), guards=(deployment,))
