"""Which nodes may take a request, how many each has room for, and what to say of those that may not.

The filters stand in the order in which a node is counted: at the first that rejects it. The earlier ones look at what
stays the same during a placement, the later ones at room, which shrinks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from fallow.decide.placement import phrases
from fallow.decide.placement.memory import remember
from fallow.decide.placement.request import Request
from fallow.decide.placement.table import Ints, Mask, NodeTable
from fallow.model.deployments import PlacementPolicy
from fallow.model.members import Scheduling
from fallow.model.meta import Reason

Trouble = str | Callable[[Mask], str]  # what is wrong with the nodes of a mask


@dataclass(frozen=True, slots=True)
class Filter:
    """`room` is how many replicas it lets each node take."""

    room: Ints
    trouble: Trouble


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many of `nodes` are eligible, and what is wrong with the others: (count, text), nearest miss first."""

    nodes: int
    eligible: int
    misses: tuple[tuple[int, str], ...]

    def text(self) -> str:
        """Return the sum of it: `12 of 40 nodes: not enough memory (...); 20 of 40: role is not web`."""
        word = " nodes" if self.nodes != 1 else " node"
        return "; ".join(
            f"{count} of {self.nodes}{'' if index else word}: {text}" for index, (count, text) in enumerate(self.misses)
        )


class Eligibility:
    """The masks of a table that do not change during a placement, kept by what they depend on."""

    def __init__(self, table: NodeTable) -> None:
        self._table = table
        self._masks: dict[tuple[object, ...], Mask] = {}
        self._in_service: Mask = np.ones(len(table), dtype=np.bool_)
        for passes, _ in _service_filters(table):
            self._in_service &= passes

    def mask(self, policy: PlacementPolicy) -> Mask:
        """Return the nodes in service that have the labels and the architecture `policy` asks for."""
        key = (policy.selector, policy.architectures, policy.resources, policy.service_class == "standard")
        found = self._masks.get(key)
        if found is None:
            found = self._in_service.copy()
            for passes, _ in _policy_filters(self._table, policy):
                found &= passes
            remember(self._masks, key, found)
        return found


def room_for(table: NodeTable, eligible: Mask, request: Request, held: Mapping[int, int], most: int) -> Ints:
    """Return how many replicas of `request`, `most` at the most, each node has room for.

    `held` is how many of the same deployment count on a row already. Rows of one server each have all of its room;
    `assign` divides it.
    """
    room = np.where(eligible, most, 0)
    for found in room_filters(table, request, held):
        np.minimum(room, found.room, out=room)
    return np.maximum(room, 0, out=room)


def verdict(table: NodeTable, request: Request, held: Mapping[int, int]) -> Verdict:
    """Say for every node whether one more replica of `request` may go there, and what the first obstacle is."""
    left = np.ones(len(table), dtype=np.bool_)
    misses: list[tuple[int, str]] = []
    fixed: Iterator[tuple[Mask, Trouble]] = chain(_service_filters(table), _policy_filters(table, request.policy))
    moving = ((found.room >= 1, found.trouble) for found in room_filters(table, request, held))
    for passes, trouble in chain(fixed, moving):
        rejected = left & ~passes
        count = int(np.count_nonzero(rejected))
        if count:
            misses.append((count, trouble if isinstance(trouble, str) else trouble(rejected)))
            left &= passes
    return Verdict(nodes=len(table), eligible=int(np.count_nonzero(left)), misses=tuple(reversed(misses)))


def refusal(table: NodeTable, request: Request, held: Mapping[int, int]) -> Reason:
    """Return why no node takes one more replica of `request`."""
    if not len(table):
        return Reason(code="NoNodes", text="no node has joined yet")
    return Reason(code="Unschedulable", text=verdict(table, request, held).text())


def _service_filters(table: NodeTable) -> Iterator[tuple[Mask, str]]:
    for state, text in phrases.STATES.items():
        yield ~table.in_state(state), text
    yield ~table.wished(Scheduling.CORDONED), phrases.CORDONED
    yield ~table.wished(Scheduling.DRAINING), phrases.DRAINING
    yield table.reachable, phrases.NO_ADDRESS
    yield table.networked, phrases.NO_NETWORK
    yield ~table.stray, phrases.VM_UNKNOWN
    yield ~table.full, phrases.DISK_FULL


def _policy_filters(table: NodeTable, policy: PlacementPolicy) -> Iterator[tuple[Mask, Trouble]]:
    if table.lent is not None and policy.service_class == "standard":
        yield ~table.lent.mask, phrases.STANDARD
    for requirement in policy.selector.requirements:
        yield table.labels.mask(requirement), table.labels.trouble(requirement) or phrases.requirement(requirement)
    if policy.architectures:
        yield table.built_for(policy.architectures), phrases.architecture(policy.architectures)
    for requirement in policy.resources.requirements:
        yield table.known.mask(requirement), table.known.trouble(requirement) or phrases.requirement(requirement)
    if table.lent is not None:
        yield from table.lent.admission()


def room_filters(table: NodeTable, request: Request, held: Mapping[int, int]) -> Iterator[Filter]:
    """Yield the filters that look at room, leaving out those the request has nothing to fear of."""
    if request.cpus:
        cpus = table.free_cpus
        yield Filter(cpus // request.cpus, lambda nodes: phrases.cpus(request.cpus, int(cpus[nodes].max())))
    if request.memory_bytes:
        memory, need = table.free_memory, request.memory_bytes
        yield Filter(memory // need, lambda nodes: phrases.memory(need, int(memory[nodes].max())))
    if table.lent is not None:
        for room, say in table.lent.rooms(request):
            yield Filter(room, say)
    yield from _fixed_port_filters(table, request)
    if request.policy.max_per_node:
        room = np.full(len(table), request.policy.max_per_node, dtype=np.int64)
        for row, count in held.items():
            room[row] -= count
        yield Filter(room, phrases.crowded(request.policy.max_per_node))
    if request.free_ports:
        yield _port_range_filter(table, request)


def _fixed_port_filters(table: NodeTable, request: Request) -> Iterator[Filter]:
    asked: set[tuple[int, int]] = set()
    for key, number, bit in request.fixed_ports:
        if (number, bit) in asked:
            yield Filter(np.zeros(len(table), dtype=np.int64), phrases.twice(number, key))
        else:
            room = ((table.ports.column(number) & bit) == 0).astype(np.int64)
            yield Filter(room, phrases.taken(number, key))
        asked.add((number, bit))


def _port_range_filter(table: NodeTable, request: Request) -> Filter:
    """Count the numbers left when the request's own fixed ports are taken, which may lie in the range too."""
    ports, free = table.ports, table.ports.free
    for number in {number for _, number, _ in request.fixed_ports}:
        free = free - ((ports.first <= number) & (number <= ports.last) & (ports.column(number) == 0))

    def say(rejected: Mask) -> str:
        ranges = {table.nodes[row].lease.host_ports for row in np.flatnonzero(rejected)[:100]}
        return phrases.exhausted(ranges.pop() if len(ranges) == 1 else None)

    return Filter(free // len(request.free_ports), say)
