"""How many more replicas of a shape fit into a cluster now: counted in columns of nodes, as placement itself does.

What has been ordered and has no node yet is laid out first, as the placement loop will do a moment later, and counts
as used.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement.assign import Job, divided
from fallow.decide.placement.filters import refusal, room_for
from fallow.decide.placement.place import Run, laid_out
from fallow.decide.placement.request import NANO, Request, reservation
from fallow.decide.placement.standing import Lenders, capacity_of, is_stray, report_of
from fallow.decide.placement.table import Ints, free_room
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.members import MemberState, Scheduling
from fallow.model.rooms import MOST, RoomAnswer, RoomQuestion, RoomSummary

MAX_WHY = 256  # twenty thousand answers have to fit into a frame

_LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)


def answers_to(
    snapshot: Snapshot,
    questions: Sequence[RoomQuestion],
    heard: Heard | None = None,
    servers: HeardServers | None = None,
    now: float = 0.0,
) -> tuple[RoomAnswer, ...]:
    """Return the answers, in the order of the questions.

    `heard` is what nodes said last that they use, `servers` what servers that lend said last.
    """
    run = laid_out(snapshot, heard or {}, _coming(snapshot), servers or {}, now)
    return tuple(_answer(run, question) for question in questions)


def summary_of(snapshot: Snapshot, servers: HeardServers | None = None, now: float = 0.0) -> RoomSummary:
    """Return what the nodes have that are ready to take something; those on one server no more than it lends."""
    lenders = Lenders(snapshot, servers or {}, now)
    cpus, memory, nodes, lent = 0, 0, 0, 0
    free_cpus: dict[str, int] = defaultdict(int)  # by server; empty: on none
    free_memory: dict[str, int] = defaultdict(int)
    for node in snapshot.nodes.values():
        if node.state is not MemberState.READY or node.scheduling is not Scheduling.ACTIVE or is_stray(snapshot, node):
            continue
        vm = snapshot.vms_by_node.get(node.id)
        report = report_of(lenders.heard, vm)
        whole = capacity_of(node, vm, report)
        left = free_room(node, snapshot.replicas_by_node.get(node.id, ()), snapshot.templates, vm, report)
        server = vm.server_id if vm is not None else ""
        nodes, cpus, memory, lent = nodes + 1, cpus + whole.cpus, memory + whole.memory, lent + bool(server)
        free_cpus[server] += left[0]
        free_memory[server] += left[1]
    lending = free_cpus.keys() - {""}
    for server in lending:
        standing = lenders.standing(server)
        most = (0, 0) if standing.kind else (standing.cpus.free, standing.memory.free)
        free_cpus[server] = max(0, min(free_cpus[server], most[0]))
        free_memory[server] = max(0, min(free_memory[server], most[1]))
    return RoomSummary(
        nodes=nodes,
        cpus=min(float(2**30), cpus / NANO),
        free_cpus=_processors(free_cpus.values()),
        memory_bytes=min(2**60, memory),
        free_memory_bytes=_bytes(free_memory.values()),
        lent_nodes=lent,
        lent_free_cpus=_processors(free_cpus[server] for server in lending),
        lent_free_memory_bytes=_bytes(free_memory[server] for server in lending),
    )


def _processors(amounts: Iterable[int]) -> float:
    return round(min(float(2**30), max(0.0, sum(amounts) / NANO)), 3)


def _bytes(amounts: Iterable[int]) -> int:
    return min(2**60, max(0, sum(amounts)))


def _answer(run: Run, question: RoomQuestion) -> RoomAnswer:
    """Return how many more of a shape fit."""
    cpus, memory = reservation(question.resources)
    request = Request(cpus, memory, question.ports, question.placement)
    held = run.held_by(question.deployment_id) if question.deployment_id else {}
    more = min(MOST, int(_room(run, request, held).sum()))
    if more:
        return RoomAnswer(key=question.key, more=more)
    return RoomAnswer(key=question.key, more=0, why=refusal(run.table, request, held).text[:MAX_WHY])


def _room(run: Run, request: Request, held: Mapping[int, int]) -> Ints:
    """Return the room by row; where nodes share an address, a fixed port is there once for all of them."""
    room = room_for(run.table, run.eligibility.mask(request.policy), request, held, MOST)
    shared = run.table.ports.shared
    if request.fixed_ports and shared:
        for rows in {tuple(found) for found in shared.values()}:
            with_room = [row for row in rows if room[row] > 0]
            room[with_room[1:]] = 0
    return divided(Job(run.table, request, room, np.zeros(len(room), dtype=np.int64)))


def _coming(snapshot: Snapshot) -> Iterator[tuple[str, list[Replica]]]:
    """Yield the replicas that deployments want and have not been made yet, a deployment at a time."""
    for id_ in sorted(snapshot.deployments):
        deployment = snapshot.deployments[id_]
        if deployment.deleting or not deployment.replicas_here:
            continue
        failed = (ReplicaState.FAILED, deployment.generation)  # for good: such a slot stays empty
        replicas = snapshot.replicas_by_deployment.get(id_, ())
        slots = {found.slot for found in replicas if found.state in _LIVE or (found.state, found.generation) == failed}
        if len(slots) < deployment.replicas_here:
            one = _unmade(deployment)
            yield one.template_id, [one] * (deployment.replicas_here - len(slots))


def _unmade(deployment: Deployment) -> Replica:
    return Replica(
        id="",
        created_at=0.0,
        updated_at=0.0,
        deployment_id=deployment.id,
        project=deployment.project,
        deployment=deployment.name,
        slot=0,
        generation=deployment.generation,
        template_id=f"{deployment.id}.{deployment.generation}",
    )
