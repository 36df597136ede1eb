"""How many replicas there should be, which of them go, and which are replaced before they go.

A slot is a replica's number in its deployment. At any time a slot has one owner, and beside it at most one
replacement that takes over once it is healthy (make before break). Replicas that are leaving no longer own their slot,
but its number is not given away until they have ended.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush
from math import ceil

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.meta import Reason, Record

CHANGES_AT_ONCE = 2000  # of one deployment; the rest follows in the next run, which can take back what is not begun
FORGOTTEN_AT_ONCE = 100  # records of one deployment in one commit; a store may not take many more
UPDATE_SURGE = 0.25  # this share of a deployment, at least one replica, is renewed at a time

_LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)


def reconcile(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Plan:
    """Return what brings every deployment one step nearer to what is wanted. The same input gives no further step."""
    steps: list[Step] = list(_lost(snapshot, now, new_id))
    lost = {record.id for step in steps for record in step.puts}
    for deployment in snapshot.deployments.values():
        if not lost and _settled(deployment, snapshot.replicas_by_deployment.get(deployment.id, ()), snapshot.draining):
            continue
        replicas = [
            replica for replica in snapshot.replicas_by_deployment.get(deployment.id, ()) if replica.id not in lost
        ]
        view = _View(deployment=deployment, members=snapshot.members, replicas=replicas, now=now, new_id=new_id)
        steps.extend(_finish_deletion(snapshot, view) if deployment.deleting else _changes(view))
    return Plan(steps=steps)


def _settled(deployment: Deployment, replicas: Iterable[Replica], draining: Set[str]) -> bool:
    """Say whether each slot has one replica of the newest generation, and none has to move: soon seen."""
    live = [replica for replica in replicas if replica.state in _LIVE]
    return (
        not deployment.deleting
        and len(live) == deployment.spec.replicas == len({replica.slot for replica in live})
        and {replica.generation for replica in live} <= {deployment.generation}
        and draining.isdisjoint(replica.node_id for replica in live)
    )


@dataclass(kw_only=True)
class _View:
    """One deployment, its replicas, and what making decisions about it needs."""

    deployment: Deployment
    members: Mapping[str, Member]
    replicas: list[Replica]
    now: float
    new_id: Callable[[], str]
    gone: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # reason -> replicas let go
    slots: dict[int, list[Replica]] = field(init=False)  # live replicas by slot, a replacement last

    def __post_init__(self) -> None:
        self.slots = defaultdict(list)
        live = {replica.id: replica for replica in self.replicas if replica.state in _LIVE}
        # Not by age alone: clocks may jump back between the making of a replica and of its replacement.
        for replica in sorted(live.values(), key=lambda found: (found.replaces in live, found.created_at, found.id)):
            self.slots[replica.slot].append(replica)

    @cached_property
    def failed_slots(self) -> set[int]:
        """Return slots whose replica of this generation has ended for good: trying again would not help."""
        return {
            replica.slot
            for replica in self.replicas
            if replica.state is ReplicaState.FAILED and replica.generation == self.deployment.generation
        }

    def leaves_its_node(self, replica: Replica) -> bool:
        """Say whether the replica's node is being drained."""
        node = self.members.get(replica.node_id)
        return node is not None and node.scheduling is Scheduling.DRAINING

    def outdated(self, replica: Replica) -> bool:
        """Say whether the replica is made from an older generation."""
        return replica.generation < self.deployment.generation


def _lost(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Give up replicas whose node is dead or gone."""
    for node_id, replicas in snapshot.replicas_by_node.items():
        node = snapshot.members.get(node_id)
        if node is not None and node.state is not MemberState.DEAD:
            continue
        why = "its node is dead" if node is not None else "its node was removed"
        for replica in replicas:
            yield Step(puts=(_moved(replica, ReplicaState.LOST, now, Reason(code="NodeLost", text=why)),))
        told = event(
            new_id(), now, "loop:deployments", "member", node_id, node.name if node is not None else node_id,
            "ReplicasLost", f"lost {_named([replica.id for replica in replicas])}: {why}", "warning",
        )  # fmt: skip
        yield Step(puts=(told,))


def _finish_deletion(snapshot: Snapshot, view: _View) -> Iterator[Step]:
    """Retire everything; forget the deployment once nothing of it is left."""
    live = [replica for replicas in view.slots.values() for replica in replicas]
    reason = Reason(code="Deleted", text="its deployment is deleted")
    for replica in live:
        yield _retire(view, replica, reason)
    yield from _tell(view)
    if all(replica.ended for replica in view.replicas):
        templates = [found for found in snapshot.templates.values() if found.deployment_id == view.deployment.id]
        rest: list[Record] = [*templates, *view.replicas]
        while len(rest) > FORGOTTEN_AT_ONCE:
            yield Step(deletes=tuple(rest[-FORGOTTEN_AT_ONCE:]), guards=(view.deployment,))
            del rest[-FORGOTTEN_AT_ONCE:]
        if len(rest) < len(templates) + len(view.replicas):
            return  # the deployment goes with the last of them, once it is known that the others have gone
        told = event(
            view.new_id(), view.now, "loop:deployments", "deployment", view.deployment.id, view.deployment.path,
            "DeploymentDeleted", f"{view.deployment.path} is gone",
        )  # fmt: skip
        yield Step(puts=(told,), deletes=(view.deployment, *rest))


def _changes(view: _View) -> Iterator[Step]:
    """Count first, then renew: a slot that goes away needs no replacement."""
    surplus = len(view.slots) - view.deployment.spec.replicas
    gone = _victims(view, min(surplus, CHANGES_AT_ONCE)) if surplus > 0 else []
    for slot in gone:
        for replica in view.slots.pop(slot):
            yield _retire(view, replica, Reason(code="ScaledDown", text="fewer replicas are wanted"))
    if surplus < 0:
        yield from _create_missing(view, -surplus)
    yield from _settle_moves(view)
    yield from _begin_moves(view)
    yield from _tell(view)


def _victims(view: _View, count: int) -> list[int]:
    """Choose the slots whose loss matters least: not yet running, unwell, on a bad or crowded node, youngest."""
    crowd = Counter(replica.node_id for replicas in view.slots.values() for replica in replicas)
    classes: dict[tuple[bool, ...], dict[str, list[tuple[float, int]]]] = defaultdict(lambda: defaultdict(list))
    for slot, replicas in view.slots.items():
        best = max(replicas, key=lambda found: (found.healthy, found.state is ReplicaState.RUNNING))
        classes[_badness(view, best)][best.node_id].append((best.created_at, slot))
    chosen: list[int] = []
    for badness in sorted(classes, reverse=True):
        chosen.extend(_from_the_most_crowded(classes[badness], crowd, count - len(chosen)))
    return chosen


def _badness(view: _View, replica: Replica) -> tuple[bool, ...]:
    """Return why a replica would not be missed, the weightiest reason first."""
    node = view.members.get(replica.node_id)
    unwell = node is None or node.state is not MemberState.READY or node.scheduling is not Scheduling.ACTIVE
    return replica.state is ReplicaState.PENDING, not replica.healthy, unwell, view.outdated(replica)


def _from_the_most_crowded(by_node: dict[str, list[tuple[float, int]]], crowd: Counter[str], count: int) -> list[int]:
    """Take `count` slots, the youngest of whichever node has the most replicas at that moment; `crowd` is kept true."""
    for found in by_node.values():
        found.sort()
    queue = [(-crowd[node_id], node_id) for node_id in by_node]
    heapify(queue)
    taken: list[int] = []
    while queue and len(taken) < count:
        _, node_id = heappop(queue)
        taken.append(by_node[node_id].pop()[1])
        crowd[node_id] -= 1
        if by_node[node_id]:
            heappush(queue, (-crowd[node_id], node_id))
    return taken


def _create_missing(view: _View, count: int) -> Iterator[Step]:
    """Create replicas in the lowest free slots; a slot that failed for good stays empty and counts as filled."""
    taken = {replica.slot for replica in view.replicas if not replica.ended} | view.failed_slots
    count = min(count - len(view.failed_slots - set(view.slots)), CHANGES_AT_ONCE)
    slot = 0
    while count > 0:
        if slot not in taken:
            yield Step(puts=(_new_replica(view, slot),), guards=(view.deployment,))
            count -= 1
        slot += 1


def _settle_moves(view: _View) -> Iterator[Step]:
    """Where a slot has two live replicas, retire the one that is no longer needed."""
    for replicas in view.slots.values():
        if len(replicas) < 2:
            continue
        new = replicas[-1]
        for old in replicas[:-1]:
            if new.healthy:
                yield _retire(view, old, Reason(code="Replaced", text=f"{new.id} has taken over"))
            elif not view.leaves_its_node(old) and not view.outdated(old):
                yield _retire(view, new, Reason(code="NotNeeded", text=f"{old.id} may stay after all"))
                break
            elif view.leaves_its_node(new) or view.outdated(new):
                yield _retire(view, new, Reason(code="NotNeeded", text="it would have to move on at once"))
                break


def _begin_moves(view: _View) -> Iterator[Step]:
    """Create replacements beside replicas that have to go: all of a draining node's, some of the outdated ones."""
    allowed = max(1, ceil(view.deployment.spec.replicas * UPDATE_SURGE))
    allowed -= sum(len(replicas) > 1 for replicas in view.slots.values())
    for slot in sorted(view.slots):
        (owner, *more) = view.slots[slot]
        if more or slot in view.failed_slots:
            continue
        if owner.state is ReplicaState.PENDING:
            if view.outdated(owner):
                yield _retire(view, owner, Reason(code="Outdated", text="a newer generation is wanted"))
        elif view.leaves_its_node(owner):
            yield Step(puts=(_new_replica(view, slot, owner.id),), guards=(view.deployment, owner))
        elif view.outdated(owner) and allowed > 0:
            allowed -= 1
            yield Step(puts=(_new_replica(view, slot, owner.id),), guards=(view.deployment, owner))


def _new_replica(view: _View, slot: int, replaces: str = "") -> Replica:
    deployment = view.deployment
    return Replica(
        id=f"{deployment.name}-{slot}-{view.new_id()}",
        created_at=view.now,
        updated_at=view.now,
        deployment_id=deployment.id,
        project=deployment.project,
        deployment=deployment.name,
        slot=slot,
        generation=deployment.generation,
        template_id=f"{deployment.id}.{deployment.generation}",
        replaces=replaces,
        state_since=view.now,
    )


def _retire(view: _View, replica: Replica, reason: Reason) -> Step:
    """Let a live replica go: at once when it has no node yet, by way of the gateways otherwise."""
    pending = replica.state is ReplicaState.PENDING
    view.gone[reason.text].append(replica.id)
    after = ReplicaState.STOPPED if pending else ReplicaState.LEAVING
    return Step(puts=(_moved(replica, after, view.now, reason),))


def _tell(view: _View) -> Iterator[Step]:
    """Tell which replicas go, in one event for each reason."""
    path = view.deployment.path
    for why, ids in view.gone.items():
        text = f"{_named(ids)} of {path}: {why}"
        told = event(
            view.new_id(), view.now, "loop:deployments", "deployment", view.deployment.id, path, "ReplicasLeaving", text
        )
        yield Step(puts=(told,))


def _named(ids: list[str]) -> str:
    """Name a few replicas, and count many."""
    return ", ".join(ids) if len(ids) <= 3 else f"{len(ids)} replicas ({', '.join(ids[:3])} ...)"


def _moved(replica: Replica, state: ReplicaState, now: float, reason: Reason) -> Replica:
    return msgspec.structs.replace(
        replica, state=state, state_since=now, updated_at=now, reason=reason, healthy_since=0.0
    )
