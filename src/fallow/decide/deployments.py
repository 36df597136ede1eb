"""How many replicas there should be, which of them go, and which are replaced before they go.

A slot is a replica's number in its deployment. At any time a slot has one owner, and beside it at most one
replacement that takes over once it is healthy (make before break). Replicas that are leaving no longer own their slot,
but its number is not given away until they have ended.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from heapq import heapify, heappop, heappush

from fallow.decide.events import event
from fallow.decide.federation.drains import lingering
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.plan import Plan, Step
from fallow.decide.slots import LIVE, Slots, from_the_future, moved
from fallow.decide.snapshot import Snapshot
from fallow.decide.updates import (
    MADE_WAY,
    gives_way,
    held_up,
    judge,
    makes_way,
    may_create_renewed,
    next_portion,
    proven,
    renewed_in_place,
    steps_allowed,
    stopped_first,
    usual_generation,
)
from fallow.decide.variables import Heard
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.members import MemberState, Scheduling
from fallow.model.meta import Reason, Record

CHANGES_AT_ONCE = 2000  # of one deployment; the rest follows in the next run, which can take back what is not begun
FORGOTTEN_AT_ONCE = 100  # records of one deployment in one commit; a store may not take many more


def reconcile(
    snapshot: Snapshot,
    now: float,
    new_id: Callable[[], str],
    heard: Heard | None = None,
    servers: HeardServers | None = None,
) -> Plan:
    """Return what brings every deployment one step nearer to what is wanted. The same input gives no further step.

    `heard` is what nodes said last that they use, `servers` what servers that lend said last: by them it is foretold
    where replicas of an update will be.
    """
    steps: list[Step] = list(_lost(snapshot, now, new_id))
    waits: list[float] = []
    lost = {record.id for step in steps for record in step.puts}
    for deployment in snapshot.deployments.values():
        replicas = snapshot.replicas_by_deployment.get(deployment.id, [])
        if lost and any(replica.id in lost for replica in replicas):
            continue  # replaced once that is stored: were only the losses dropped, a slot would have two owners
        if _settled(deployment, replicas, snapshot.draining):
            continue
        if misdated := list(from_the_future(replicas, now)):
            steps.extend(misdated)
            continue
        view = Slots(
            deployment=deployment,
            members=snapshot.members,
            templates=snapshot.templates,
            replicas=replicas,
            now=now,
            new_id=new_id,
            snapshot=snapshot,
            heard=heard or {},
            servers=servers or {},
        )
        steps.extend(_finish_deletion(snapshot, view) if deployment.deleting else _changes(view))
        waits.extend(view.waits)
    return Plan(steps=steps, wake_after_seconds=min(waits, default=None))


def _settled(deployment: Deployment, replicas: Iterable[Replica], draining: Set[str]) -> bool:
    """Say whether all is proven, each slot has one replica of what is wanted, and none has to move: soon seen."""
    live = [replica for replica in replicas if replica.state in LIVE]
    return (
        not deployment.deleting
        and deployment.good_generation == deployment.generation
        and (deployment.update is None or not deployment.update.under_way)
        and len(live) == deployment.replicas_here == len({replica.slot for replica in live})
        and all(map(deployment.wants, {replica.generation for replica in live}))
        and draining.isdisjoint(replica.node_id for replica in live)
        and all(replica.move is None for replica in live)
    )


def _lost(snapshot: Snapshot, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Give up replicas whose node is dead or gone."""
    for node_id, replicas in snapshot.replicas_by_node.items():
        node = snapshot.members.get(node_id)
        if node is not None and node.state is not MemberState.DEAD:
            continue
        why = "its node is dead" if node is not None else "its node was removed"
        for replica in replicas:
            yield Step(puts=(moved(replica, ReplicaState.LOST, now, Reason(code="NodeLost", text=why)),))
        told = event(
            new_id(), now, "loop:deployments", "member", node_id, node.name if node is not None else node_id,
            "ReplicasLost", f"lost {_named([replica.id for replica in replicas])}: {why}", "warning",
        )  # fmt: skip
        yield Step(puts=(told,))


def _finish_deletion(snapshot: Snapshot, view: Slots) -> Iterator[Step]:
    """Retire everything; forget the deployment once nothing of it is left."""
    live = [replica for replicas in view.slots.values() for replica in replicas]
    reason = Reason(code="Deleted", text="its deployment is deleted")
    for replica in live:
        yield view.retire(replica, reason)
    yield from _tell(view)
    if all(replica.ended for replica in view.replicas) and not lingering(snapshot, view.deployment.id):
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


def _changes(view: Slots) -> Iterator[Step]:
    """Let go what may not wait any longer; otherwise count first, then renew: a slot that goes needs no replacement."""
    if overdue := _overdue(view):
        yield from _evicted(view, overdue)  # what is missing then is made anew once that is stored
        return
    status, another_generation = judge(view)
    if status is not None and another_generation:
        yield status
        return
    surplus = len(view.slots) - view.deployment.replicas_here
    for slot in _surplus(view, surplus):
        for replica in view.slots.pop(slot):
            yield view.retire(replica, Reason(code="ScaledDown", text="fewer replicas are wanted"))
    if surplus < 0:
        yield from _create_missing(view, -surplus)
    yield from _settle_moves(view)
    yield from _begin_moves(view)
    yield from _tell(view)
    if status is not None:
        yield status  # last, since the steps before it hold only for the deployment as it was


def _overdue(view: Slots) -> list[Replica]:
    """Return the replicas whose server waits no longer for their replacements."""
    return [
        replica
        for replicas in view.slots.values()
        for replica in replicas
        if replica.move is not None and replica.move_by and view.reached(replica.move_by)
    ]


def _evicted(view: Slots, replicas: list[Replica]) -> Iterator[Step]:
    """Retire replicas, and warn of those that nobody serves in place of."""
    bare: dict[str, list[str]] = defaultdict(list)
    for replica in replicas:
        move = replica.move or Reason(code="Moved", text="it has to move")
        others = [found for found in view.slots[replica.slot] if found.id != replica.id]
        yield view.retire(replica, move)
        if replica.healthy and not any(found.healthy for found in others):
            pending = next((found.reason.text for found in others if found.reason is not None), "")
            bare[f"{move.text}; {pending or 'no replacement is healthy yet'}"].append(replica.id)
    yield from _tell(view)
    path = view.deployment.path
    for why, ids in bare.items():
        told = event(
            view.new_id(), view.now, "loop:deployments", "deployment", view.deployment.id, path, "EvictedUnreplaced",
            f"{_named(ids)} of {path} must stop before a replacement serves: {why}", "warning",
        )  # fmt: skip
        yield Step(puts=(told,))


def _surplus(view: Slots, count: int) -> list[int]:
    """Return the slots that go because they are `count` more than is wanted; of those that serve `keep` stay."""
    if count <= 0:
        return []
    serving = {slot for slot, replicas in view.slots.items() if any(found.healthy for found in replicas)}
    idle = len(view.slots) - len(serving)
    return _victims(view, min(count, idle + max(0, len(serving) - view.deployment.keep), CHANGES_AT_ONCE))


def _victims(view: Slots, count: int) -> list[int]:
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


def _badness(view: Slots, replica: Replica) -> tuple[bool, ...]:
    """Return why a replica would not be missed, the weightiest reason first."""
    node = view.members.get(replica.node_id)
    unwell = node is None or node.state is not MemberState.READY or node.scheduling is not Scheduling.ACTIVE
    leaves = unwell or replica.move is not None
    return replica.state is ReplicaState.PENDING, not replica.healthy, leaves, view.outdated(replica)


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


def _create_missing(view: Slots, count: int) -> Iterator[Step]:
    """Create replicas in the lowest free slots; a slot that failed for good stays empty and counts as filled.

    What an update stops first is made anew only when it has stopped.
    """
    taken = {replica.slot for replica in view.replicas if not replica.ended} | view.failed_slots
    count = min(count - len(view.failed_slots - set(view.slots)) - stopped_first(view), CHANGES_AT_ONCE)
    renewed = may_create_renewed(view)
    slot = 0
    while count > 0:
        if slot not in taken:
            generation = view.deployment.generation if renewed > 0 else usual_generation(view)
            yield Step(puts=(view.new_replica(slot, generation),), guards=(view.deployment,))
            renewed -= 1
            count -= 1
        slot += 1


def _settle_moves(view: Slots) -> Iterator[Step]:
    """Where a slot has two live replicas, retire the one that is no longer needed."""
    for replicas in view.slots.values():
        if len(replicas) < 2:
            continue
        new = replicas[-1]
        for old in replicas[:-1]:
            if _takes_over(view, new, old):
                yield view.retire(old, Reason(code="Replaced", text=f"{new.id} has taken over"), new)
                continue
            why = _not_needed(view, new, old)
            if why:
                yield view.retire(new, Reason(code="NotNeeded", text=why), old)
                break


def _takes_over(view: Slots, new: Replica, old: Replica) -> bool:
    """Say whether the old replica may go: nothing is lost with it, or the new one serves in its place."""
    if view.outdated(old) and not view.outdated(new):
        return old.state is ReplicaState.PENDING or proven(view, new)
    unwanted = _superseded(view, new, old) or (view.outdated(new) and not view.outdated(old))
    return new.healthy and not (unwanted and old.healthy)


def _superseded(view: Slots, new: Replica, old: Replica) -> bool:
    """Say whether the replacement is of a generation that nobody wants: neither now nor until the update is proven."""
    return view.outdated(new) and new.generation not in (old.generation, usual_generation(view))


def _not_needed(view: Slots, new: Replica, old: Replica) -> str:  # noqa: PLR0911 - a list of reasons
    """Return why the new one of two replicas need not be; empty when it is needed, and while only it serves."""
    if new.healthy and not old.healthy:
        return ""
    if view.outdated(new) and not view.outdated(old):
        return f"{old.id} is as it is wanted again"
    if not view.leaves_its_node(old) and not view.outdated(old):
        return f"{old.id} may stay after all"
    if not view.leaves_its_node(old) and (new.generation == old.generation or renewed_in_place(view, new)):
        return f"{old.id} need not move any more"
    if view.leaves_its_node(new) or _superseded(view, new, old):
        return "it would have to move on at once"
    renewal = view.outdated(old) and not view.outdated(new)
    if renewal and view.leaves_its_node(old) and not new.healthy and not steps_allowed(view.deployment):
        return "its update is paused, and the node is emptied without it"
    return ""


def _begin_moves(view: Slots) -> Iterator[Step]:
    """Create replacements beside replicas that have to go: all of a draining node's, a portion of the outdated ones."""
    usual = usual_generation(view)
    outdated = []
    for slot in sorted(view.slots):
        (owner, *more) = view.slots[slot]
        if slot in view.failed_slots:
            continue
        if more:
            if (vain := makes_way(view, view.slots[slot])) is not None:
                yield view.retire(vain, Reason(code=MADE_WAY, text="there is no room, and the next is the update's"))
            elif view.outdated(owner) and held_up(view, view.slots[slot]):
                outdated.append(owner)
        elif view.outdated(owner) and owner.state is ReplicaState.PENDING and owner.generation != usual:
            yield view.retire(owner, Reason(code="Outdated", text="a newer generation is wanted"))
        elif view.leaves_its_node(owner) and owner.state is not ReplicaState.PENDING:
            if gives_way(view, owner):
                continue
            replacement = view.new_replica(slot, _generation_of_move(view, owner, usual), owner.id)
            yield Step(puts=(replacement,), guards=(view.deployment, owner))
        elif view.outdated(owner):
            outdated.append(owner)
    yield from next_portion(view, outdated)


def _generation_of_move(view: Slots, owner: Replica, usual: int) -> int:
    """Return what a replica that has to go is replaced by; while nothing may be renewed, by more of what it is."""
    if not view.outdated(owner):
        return view.deployment.generation
    renewed = view.deployment.wants(usual)
    stays = renewed and not steps_allowed(view.deployment) and view.template(owner.generation) is not None
    return owner.generation if stays else usual


def _tell(view: Slots) -> Iterator[Step]:
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
