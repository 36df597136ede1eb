"""Bind every pending replica to a node, or say why it cannot be."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement.assign import Job, assign
from fallow.decide.placement.filters import Eligibility, refusal, room_for
from fallow.decide.placement.rankings import Rankings
from fallow.decide.placement.request import Request, going, replaced_by, request_of
from fallow.decide.placement.result import Binding, Placement, Rejection
from fallow.decide.placement.standing import NOBODY
from fallow.decide.placement.table import NodeTable
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.meta import Reason

_NO_TEMPLATE = Reason(code="NoTemplate", text="what it is made of is no longer stored")


def place(snapshot: Snapshot, now: float, heard: Heard | None = None, servers: HeardServers | None = None) -> Placement:
    """Decide for every PENDING replica, the longest waiting first; replicas of one template are laid out together.

    `heard` is what nodes said last that they use: measured variables come from it. `servers` is what servers that
    lend said last; without it nothing goes to lent capacity.

    What fits is placed even when the rest of its deployment does not. The same snapshot gives the same placement.
    """
    groups = _pending_groups(snapshot)
    if not groups:
        return Placement()
    run = Run(snapshot, heard or {}, servers or NOBODY, now)
    for template_id, replicas in groups:
        run.place_group(template_id, replicas)
    return Placement(bindings=run.bindings, rejections=run.rejections())


def laid_out(
    snapshot: Snapshot,
    heard: Heard,
    coming: Iterable[tuple[str, list[Replica]]] = (),
    servers: HeardServers = NOBODY,
    now: float = 0.0,
) -> "Run":
    """Return the nodes as they will be once all that is pending has its place, and then what is `coming`.

    That is replicas by their template's id, which are not stored yet.
    """
    run = Run(snapshot, heard, servers, now)
    for template_id, replicas in chain(_pending_groups(snapshot), coming):
        run.place_group(template_id, replicas)
    return run


def counted_rows(snapshot: Snapshot, deployment_id: str, rows: dict[str, int], replaced: set[str]) -> Counter[int]:
    """Return how many replicas of a deployment count on each row: those that neither go nor are being replaced."""
    return Counter(
        rows[replica.node_id]
        for replica in snapshot.replicas_by_deployment.get(deployment_id, ())
        if replica.node_id in rows and not (replica.ended or going(replica) or replica.id in replaced)
    )


def _pending_groups(snapshot: Snapshot) -> list[tuple[str, list[Replica]]]:
    """Return pending replicas by template id, the group with the oldest of them first."""
    groups: dict[str, list[Replica]] = defaultdict(list)
    for replica in snapshot.replicas.values():
        if replica.state is ReplicaState.PENDING and not replica.node_id:
            groups[replica.template_id].append(replica)
    for replicas in groups.values():
        if len(replicas) > 1:
            replicas.sort(key=lambda replica: (replica.created_at, replica.slot, replica.id))
    return sorted(groups.items(), key=lambda group: (group[1][0].created_at, group[0]))


@dataclass(frozen=True, slots=True)
class _Refused:
    template_id: str
    count: int
    request: Request | None
    held: Counter[int]


@dataclass
class Run:
    """The state of one placement: the table as it fills, and what has been decided so far."""

    snapshot: Snapshot
    heard: Heard
    servers: HeardServers = field(default_factory=dict)
    now: float = 0.0
    bindings: list[Binding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.table = NodeTable(self.snapshot, self.heard, self.servers, self.now)
        self.eligibility = Eligibility(self.table)
        self.rankings = Rankings(self.table, self.eligibility)
        self.replaced = replaced_by(self.snapshot.replicas.values())
        self._held: dict[str, Counter[int]] = {}
        self._refused: list[_Refused] = []
        self._hopeless: set[Request] = set()  # room only shrinks: what found none once finds none later

    def place_group(self, template_id: str, replicas: list[Replica]) -> None:
        """Place as many as fit of some replicas of one template."""
        template = self.snapshot.templates.get(template_id)
        if template is None:
            self._refused.append(_Refused(template_id, len(replicas), None, Counter()))
            return
        request = request_of(template)
        held = self.held_by(replicas[0].deployment_id)
        placed = 0
        if len(self.table) and not (self._hopeless and request in self._hopeless):
            if len(replicas) == 1 and not held:
                placed = self._place_one(request, replicas[0], held)
            elif request.fixed_ports and self.table.ports.shared:
                # One at a time: what one takes, no other node of the same address has.
                placed = sum(self._place_many(request, [replica], held) for replica in replicas)
            else:
                placed = self._place_many(request, replicas, held)
        if placed < len(replicas):
            self._refused.append(_Refused(template_id, len(replicas) - placed, request, held))
            if not request.policy.max_per_node:
                self._hopeless.add(request)

    def held_by(self, deployment_id: str) -> Counter[int]:
        """Return how many replicas of a deployment count on each row by now."""
        held = self._held.get(deployment_id)
        if held is None:
            held = counted_rows(self.snapshot, deployment_id, self.table.rows, self.replaced)
            self._held[deployment_id] = held
        return held

    def rejections(self) -> list[Rejection]:
        """Return what was not placed, with the reasons as they are now that everything else is."""
        told: dict[Request, Reason] = {}
        found = []
        for refused in self._refused:
            request = refused.request
            if request is None:
                reason = _NO_TEMPLATE
            elif request.policy.max_per_node:
                reason = refusal(self.table, request, refused.held)
            else:
                reason = told.get(request) or told.setdefault(request, refusal(self.table, request, {}))
            found.append(Rejection(template_id=refused.template_id, count=refused.count, reason=reason))
        return found

    def _place_one(self, request: Request, replica: Replica, held: Counter[int]) -> int:
        """Place the first replica of a deployment: no other counts, so that the best node with room is the place."""
        ranking = self.rankings.of(request)
        row = ranking.best(request, self._surely_fits)
        if row is None:
            room = room_for(self.table, self.eligibility.mask(request.policy), request, held, most=1)
            row = ranking.best_with_room(request, room)
        if row is None:
            return 0
        self.table.take(row, request)
        self._bind(replica, row, request, held)
        return 1

    def _surely_fits(self, row: int, request: Request) -> bool:
        table = self.table
        return bool(
            table.free_cpus[row] >= request.cpus
            and table.free_memory[row] >= request.memory_bytes
            and table.ports.free[row] >= len(request.free_ports)
            and not request.fixed_ports
            and (table.lent is None or table.lent.fits(row, request))
        )

    def _place_many(self, request: Request, replicas: list[Replica], held: Counter[int]) -> int:
        """Place replicas of a deployment of which there are several."""
        mask = self.eligibility.mask(request.policy)
        room = room_for(self.table, mask, request, held, most=len(replicas))
        if not room.any():
            return 0
        counted = np.zeros(len(self.table), dtype=np.int64)
        for row, count in held.items():
            counted[row] = count
        rows, given = assign(Job(self.table, request, room, counted), len(replicas))
        self.table.take_many(rows, given, request)
        waiting = iter(replicas)
        for row, count in zip(rows.tolist(), given.tolist(), strict=True):
            for _ in range(count):
                self._bind(next(waiting), row, request, held)
        return int(given.sum())

    def _bind(self, replica: Replica, row: int, request: Request, held: Counter[int]) -> None:
        node = self.table.nodes[row]
        host_ports = self.table.ports.allocate(row, request) if request.ports else {}
        held[row] += 1
        self.bindings.append(
            Binding(replica_id=replica.id, node_id=node.id, address=node.lease.address, host_ports=host_ports)
        )
