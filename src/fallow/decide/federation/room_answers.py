"""How many more replicas of a shape fit into a cluster now: counted in columns of nodes, as placement itself does.

What has been ordered and has no node yet is laid out first, as the placement loop will a moment later, and counts as
used.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from fallow.decide.placement.assign import Job, assign
from fallow.decide.placement.filters import Eligibility, refusal, room_for
from fallow.decide.placement.place import counted_rows
from fallow.decide.placement.request import Request, replaced_by, request_of, reservation
from fallow.decide.placement.table import Ints, NodeTable
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import ReplicaState, Template
from fallow.model.members import MemberState, Scheduling
from fallow.model.rooms import MOST, RoomAnswer, RoomQuestion, RoomSummary

MAX_WHY = 256  # twenty thousand answers have to fit into a frame

_LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)


def answers_to(
    snapshot: Snapshot, questions: Sequence[RoomQuestion], heard: Heard | None = None
) -> tuple[RoomAnswer, ...]:
    """Return the answers, in the order of the questions. `heard` is what nodes said last that they use."""
    count = _Count(snapshot, heard or {})
    return tuple(count.answer(question) for question in questions)


def summary_of(snapshot: Snapshot) -> RoomSummary:
    """Return what the nodes have that are ready to take something."""
    ready = [
        node
        for node in snapshot.nodes.values()
        if node.state is MemberState.READY and node.scheduling is Scheduling.ACTIVE
    ]
    cpus, memory = sum(node.facts.cpus for node in ready), sum(node.facts.memory_bytes for node in ready)
    used_cpus, used_memory = 0.0, 0
    for node in ready:
        for replica in snapshot.replicas_by_node.get(node.id, ()):
            template = snapshot.templates.get(replica.template_id)
            if template is not None:
                used_cpus += template.container.resources.cpus
                used_memory += template.container.resources.memory_bytes
    return RoomSummary(
        nodes=len(ready),
        cpus=min(float(2**30), cpus),
        free_cpus=round(min(float(2**30), max(0.0, cpus - used_cpus)), 3),
        memory_bytes=min(2**60, memory),
        free_memory_bytes=min(2**60, max(0, memory - used_memory)),
    )


class _Count:
    """The table of nodes with all that is ordered in it, and the answers from that."""

    def __init__(self, snapshot: Snapshot, heard: Heard) -> None:
        self._snapshot = snapshot
        self._table = NodeTable(snapshot, heard)
        self._eligibility = Eligibility(self._table)
        self._replaced = replaced_by(snapshot.replicas.values())
        self._held: dict[str, Counter[int]] = {}
        for template, count in _waiting(snapshot):
            self._lay_out(template, count)

    def answer(self, question: RoomQuestion) -> RoomAnswer:
        """Return how many more of a shape fit."""
        cpus, memory = reservation(question.resources)
        request = Request(cpus, memory, question.ports, question.placement)
        held = self._held_by(question.deployment_id)
        room = self._room(request, held, MOST)
        more = min(MOST, int(room.sum()))
        if more:
            return RoomAnswer(key=question.key, more=more)
        return RoomAnswer(key=question.key, more=0, why=refusal(self._table, request, held).text[:MAX_WHY])

    def _room(self, request: Request, held: Counter[int], most: int) -> Ints:
        """Return the room by row; where nodes share an address, a fixed port is there once for all of them."""
        mask = self._eligibility.mask(request.policy)
        room = room_for(self._table, mask, request, held, most)
        if request.fixed_ports and self._table.ports.shared:
            for rows in {tuple(found) for found in self._table.ports.shared.values()}:
                first = next((row for row in rows if room[row] > 0), None)
                room[[row for row in rows if row != first]] = 0
        return room

    def _lay_out(self, template: Template, count: int) -> None:
        """Take the room that `count` replicas of a template will have a moment later, as far as there is any."""
        request, held = request_of(template), self._held_by(template.deployment_id)
        if not len(self._table):
            return
        room = self._room(request, held, count)
        if not room.any():
            return
        counted = np.zeros(len(self._table), dtype=np.int64)
        for row, number in held.items():
            counted[row] = number
        rows, given = assign(Job(self._table, request, room, counted), count)
        self._table.take_many(rows, given, request)
        for row, number in zip(rows.tolist(), given.tolist(), strict=True):
            held[row] += number
            for _ in range(number if request.ports else 0):
                self._table.ports.allocate(row, request)

    def _held_by(self, deployment_id: str) -> Counter[int]:
        if not deployment_id:
            return Counter()
        if deployment_id not in self._held:
            self._held[deployment_id] = counted_rows(self._snapshot, deployment_id, self._table.rows, self._replaced)
        return self._held[deployment_id]


def _waiting(snapshot: Snapshot) -> Iterable[tuple[Template, int]]:
    """Yield what has no node yet, a template at a time: replicas that are pending, and those not yet made."""
    pending: dict[str, int] = defaultdict(int)
    for replica in snapshot.replicas.values():
        if replica.state is ReplicaState.PENDING:
            pending[replica.template_id] += 1
    for deployment in snapshot.deployments.values():
        if deployment.deleting:
            continue
        replicas = snapshot.replicas_by_deployment.get(deployment.id, ())
        failed = (ReplicaState.FAILED, deployment.generation)  # for good: such a slot stays empty
        slots = len(
            {found.slot for found in replicas if found.state in _LIVE or (found.state, found.generation) == failed}
        )
        if slots < deployment.replicas_here:
            pending[f"{deployment.id}.{deployment.generation}"] += deployment.replicas_here - slots
    for template_id in sorted(pending):
        template = snapshot.templates.get(template_id)
        if template is not None:
            yield template, pending[template_id]
