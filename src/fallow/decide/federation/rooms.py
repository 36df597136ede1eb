"""Room in clusters, as arrays: what each is told to run, and how many more of each shape it may be given.

A member says how many more of a shape would fit beside all it has taken in; what it was told since is kept beside that.
Whatever a member says is held within bounds: no answer makes a
number negative or endless.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fallow.decide.federation.divide import Counts, within
from fallow.decide.federation.migrate import fewest_of, held, obeyed
from fallow.decide.federation.shapes import Ratios, asked_by, divided, largest, question_of, slots_taken
from fallow.decide.federation.stuck import is_held
from fallow.decide.placement.request import NANO, Request, going, reservation
from fallow.decide.placement.standing import needed
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.members import Member
from fallow.model.rooms import MOST, Room, RoomQuestion, RoomSummary
from fallow.model.shares import Share

Mask = NDArray[np.bool_]
UNCAPPED = 2**40  # more than any bound of a share


@dataclass(frozen=True, kw_only=True)
class Rooms:
    """Rows are `deployments`, columns `clusters`; `free`, `unanswered` and `outdated` have a row a shape instead.

    `told` is what each cluster is told to run, `uncounted` how many it may have begun since it counted its room, and
    `caps` what it can get at the most because it could not place more. So many as are `covered` it may be told to run
    without taking more room than that. `outdated` are uncounted ones of what is being deleted, and those that may be
    of an older shape than their deployment has now, by the room of the largest; `uncounted` has all others.
    `slots` is `shapes.slots_taken` of `shapes`, and `shape_of` says which of them a deployment has; those of one shape
    stand side by side. `nodes` is how many nodes each cluster has.
    """

    clusters: tuple[Member, ...]
    deployments: tuple[Deployment, ...]
    shapes: tuple[RoomQuestion, ...]
    shape_of: Counts
    slots: Ratios
    nodes: Counts
    told: Counts
    caps: Counts
    covered: Counts
    uncounted: Counts
    outdated: Counts
    free: Counts
    unanswered: Mask

    def by_shape(self, counts: Counts, shape_of: Counts) -> Counts:
        """Return sums over the rows of one shape; `shape_of` tells that of each of them."""
        found = np.zeros(self.free.shape, dtype=np.int64)
        if len(shape_of):
            starts = np.flatnonzero(np.diff(shape_of, prepend=-1))
            found[shape_of[starts]] = np.add.reduceat(counts, starts, axis=0)
        return found


def rooms_of(snapshot: Snapshot, now: float) -> Rooms:
    """Return the room in every cluster, clusters by name, deployments by the size of what they ask, large ones first.

    In that order they are given room: what is small still fits beside what is large, and seldom the other way round.
    """
    clusters = tuple(sorted(snapshot.clusters.values(), key=lambda cluster: (cluster.name, cluster.id)))
    asked = [(question_of(found), found) for found in divided(snapshot)]
    asked.sort(key=lambda pair: (*_size(pair[0]), pair[0].key, pair[1].created_at, pair[1].id))
    rows = {found.id: row for row, (_, found) in enumerate(asked)}
    columns = {cluster.id: column for column, cluster in enumerate(clusters)}
    orders = _orders(snapshot, now, rows, columns)
    questions = (*(question for question, _ in asked), *(found.asked for found in orders.outdated))
    by_key = {question.key: question for question in questions}
    number = {key: index for index, key in enumerate(by_key)}
    shapes = tuple(by_key.values())
    shape_of = np.array([number[question.key] for question, _ in asked], dtype=np.int64)
    answers = [snapshot.rooms.get(cluster.id) for cluster in clusters]
    free, unanswered = _answers(shapes, answers)
    outdated = np.zeros(free.shape, dtype=np.int64)
    for found in orders.outdated:
        outdated[number[found.asked.key], found.column] += found.count
    return Rooms(
        clusters=clusters,
        deployments=tuple(found for _, found in asked),
        shapes=shapes,
        shape_of=shape_of,
        slots=slots_taken(shapes),
        nodes=np.array([_nodes(room) for room in answers], dtype=np.int64),
        told=orders.told,
        caps=orders.caps,
        covered=orders.covered,
        uncounted=orders.uncounted,
        outdated=within(outdated, 0, MOST),
        free=free,
        unanswered=unanswered,
    )


def _nodes(room: Room | None) -> int:
    """Return how many nodes a cluster has; any number where it does not tell."""
    return room.summary.nodes if room is not None and room.summary.nodes else UNCAPPED


def _size(asked: RoomQuestion) -> tuple[float, float]:
    return (-asked.resources.cpus, -asked.resources.memory_bytes)


def _answers(shapes: Sequence[RoomQuestion], rooms: Sequence[Room | None]) -> tuple[Counts, Mask]:
    """Return how many more of each shape clusters have room for, and which did not say so themselves."""
    free = np.zeros((len(shapes), len(rooms)), dtype=np.int64)
    unanswered = np.zeros((len(shapes), len(rooms)), dtype=np.bool_)
    for column, room in enumerate(rooms):
        answers = room.answers if room is not None else {}
        for row, asked in enumerate(shapes):
            answer = answers.get(asked.key)
            if answer is not None:
                free[row, column] = min(max(answer.more, 0), MOST)
            else:
                unanswered[row, column] = True
                free[row, column] = guessed(asked, room.summary) if room is not None else 0
    return free, unanswered


def guessed(asked: RoomQuestion, summary: RoomSummary) -> int:
    """Return how many more would fit by what a cluster has free in all, when it was not asked about this shape."""
    request = Request(*reservation(asked.resources), asked.ports, asked.placement)
    found = _fits(
        request,
        summary.nodes - summary.lent_nodes,
        summary.free_cpus - summary.lent_free_cpus,
        summary.free_memory_bytes - summary.lent_free_memory_bytes,
    )
    if asked.placement.service_class != "standard":
        # What asks for less than a server counts takes that much there.
        need = needed(request)
        least = Request(need.cpus, need.memory, asked.ports, asked.placement)
        found += _fits(least, summary.lent_nodes, summary.lent_free_cpus, summary.lent_free_memory_bytes)
    return min(found, MOST)


def _fits(request: Request, nodes: int, cpus: float, memory_bytes: int) -> int:
    """Return how many of a request fit on so many nodes that have so much free together."""
    if nodes <= 0:
        return 0
    bounds = [MOST]
    if request.cpus:
        bounds.append(round(cpus * NANO) // request.cpus)
    if request.memory_bytes:
        bounds.append(memory_bytes // request.memory_bytes)
    if request.fixed_ports:
        bounds.append(nodes)
    if asked := request.policy.max_per_node:
        bounds.append(nodes * asked)
    return max(min(bounds), 0)


@dataclass(frozen=True, slots=True)
class _Outdated:
    """Replicas that one cluster may have begun of a shape that is asked for no more."""

    asked: RoomQuestion
    column: int
    count: int


@dataclass(frozen=True, slots=True)
class _Orders:
    told: Counts
    caps: Counts
    covered: Counts
    uncounted: Counts
    outdated: Sequence[_Outdated]


def _orders(snapshot: Snapshot, now: float, rows: Mapping[str, int], columns: Mapping[str, int]) -> _Orders:
    shape = (len(rows), len(columns))
    told, uncounted = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    covered = np.zeros(shape, dtype=np.int64)
    caps = np.full(shape, UNCAPPED, dtype=np.int64)
    outdated = []
    for share in snapshot.shares.values():
        row, column = rows.get(share.deployment_id), columns.get(share.cluster_id)
        deployment = snapshot.deployments.get(share.deployment_id)
        if column is None or deployment is None or deployment.origin is not None:
            continue
        began = _uncounted(snapshot, share)
        older = _older_shapes(snapshot, share, deployment) if began else ()
        if began and (older or row is None):
            outdated.append(_Outdated(largest((question_of(deployment), *older)), column, began))
        elif row is not None:
            uncounted[row, column] = began
        if row is None:
            continue
        told[row, column] = held(share) if share.keep and obeyed(share) else share.replicas
        grown = any(largest((question_of(deployment), each)) != each for each in older)
        covered[row, column] = _highest(share) if began and not grown else 0
        if is_held(share, now):
            caps[row, column] = share.reported.placed if share.reported is not None else 0
    if HERE_ID in columns:
        for row, count in _undivided(snapshot, rows):
            told[row, columns[HERE_ID]] = count
    told = within(told, 0, MOST)
    return _Orders(told, caps, np.maximum(told, within(covered, 0, MOST)), within(uncounted, 0, MOST), outdated)


def _counted(snapshot: Snapshot, share: Share) -> int | None:
    """Return the order that a cluster had taken in when it counted its room; None: none of this deployment."""
    room = snapshot.rooms.get(share.cluster_id)
    return room.orders.get(share.deployment_id) if room is not None else None


def _uncounted(snapshot: Snapshot, share: Share) -> int:
    """Return how many replicas a cluster may have begun that were not there yet when it counted its room.

    It may have, though it was told otherwise since.
    """
    counted = _counted(snapshot, share)
    if counted is not None and counted >= share.order:
        return 0
    if counted is None or share.reported is None or counted < share.reported.revision:
        return _highest(share)
    return _highest(share) - fewest_of(share)


def _older_shapes(snapshot: Snapshot, share: Share, deployment: Deployment) -> Sequence[RoomQuestion]:
    """Return the shapes of older generations that a cluster may have begun replicas of since it counted its room.

    That is of each that an order may have been for which it had not taken in by then: from the one on that was the
    newest at the revision of the order it had counted.
    """
    counted, found = _counted(snapshot, share), []
    for generation in range(deployment.generation, 1, -1):
        newer = snapshot.templates.get(f"{deployment.id}.{generation}")
        older = snapshot.templates.get(f"{deployment.id}.{generation - 1}")
        if newer is None or older is None or (counted is not None and newer.revision <= counted):
            break
        found.append(asked_by(older.container, older.placement, deployment.id))
    return found


def _highest(share: Share) -> int:
    """Return the most that a cluster may have begun; of an older record, which does not tell, what it is told."""
    return max(share.replicas, share.highest)


def _undivided(snapshot: Snapshot, rows: Mapping[str, int]) -> Iterable[tuple[int, int]]:
    """Yield the rows of deployments that ran here, whole, before there were other clusters, and how many do."""
    for id_, row in rows.items():
        if id_ not in snapshot.divisions and id_ not in snapshot.shares_by_deployment:
            replicas = snapshot.replicas_by_deployment.get(id_, ())
            count = sum(bool(found.node_id) and not found.ended and not going(found) for found in replicas)
            if count:
                yield row, min(count, snapshot.deployments[id_].replicas_here)
