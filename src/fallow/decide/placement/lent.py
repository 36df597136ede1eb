"""Columns of servers: nodes on lent capacity share the room of the server that they are on.

A fleet without such nodes has none of this. Which node is on which server is read off the virtual machines alone, each
of which is linked to the member that joined with its token: never off labels, nor what a node says.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement import phrases
from fallow.decide.placement.request import Request
from fallow.decide.placement.standing import Lenders, Need, capacity_of, needed, report_of, vm_trouble
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member
from fallow.model.vms import Vm

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
PLENTY = 2**62  # room of nodes that are on no server


class Lent:
    """The nodes on lent capacity, in order of their servers, and what those servers may still take.

    `rows` are rows of the node table; `server_of` is the number of each row's server, -1 for nodes of their own.
    """

    def __init__(
        self, nodes: Sequence[Member], vms: dict[int, Vm], snapshot: Snapshot, heard: HeardServers, now: float
    ) -> None:
        lenders = Lenders(snapshot, heard, now)
        numbers: dict[str, int] = {}
        for vm in vms.values():
            numbers.setdefault(vm.server_id, len(numbers))
        self.standings = [lenders.standing(id_) for id_ in numbers]
        self.server_of: Ints = np.full(len(nodes), -1, dtype=np.int64)
        rows = np.fromiter(vms, dtype=np.int64, count=len(vms))
        servers = np.array([numbers[vm.server_id] for vm in vms.values()], dtype=np.int64)
        self.server_of[rows] = servers
        by_server = np.argsort(servers, kind="stable")
        self.rows: Ints = rows[by_server]
        self.servers: Ints = servers[by_server]  # of `rows`
        self.capacity = [capacity_of(nodes[row], vm, report_of(heard, vm)) for row, vm in vms.items()]
        self.capacity_rows = rows
        self._vm_troubles = {
            row: trouble for row, vm in vms.items() if (trouble := vm_trouble(vm, report_of(heard, vm)))
        }
        self._free_cpus: Ints = np.array([found.cpus.free for found in self.standings], dtype=np.int64)
        self._free_memory: Ints = np.array([found.memory.free for found in self.standings], dtype=np.int64)
        self._first_cpus, self._first_memory = self._free_cpus.copy(), self._free_memory.copy()
        self.mask: Mask = self.server_of >= 0

    def admission(self) -> Iterator[tuple[Mask, Callable[[Mask], str]]]:
        """Yield which rows may get anything as far as one kind of refusal goes, and what to say of the others."""
        if self._vm_troubles:
            passes: Mask = np.ones(len(self.mask), dtype=np.bool_)
            passes[list(self._vm_troubles)] = False
            yield passes, self._say_vm
        kinds = dict.fromkeys(found.kind for found in self.standings if found.kind)
        for kind in kinds:
            refused = np.array([found.kind == kind for found in self.standings], dtype=np.bool_)
            passes = np.ones(len(self.mask), dtype=np.bool_)
            passes[self.rows] = ~refused[self.servers]
            yield passes, self._say_kind

    def rooms(self, request: Request) -> Iterator[tuple[Ints, Callable[[Mask], str]]]:
        """Yield, for the processor and for memory, how many of a request each row's server has room for."""
        need = needed(request)
        for free, one in ((self._free_cpus, need.cpus), (self._free_memory, need.memory)):
            yield self._by_row(free // one), lambda nodes: self._say_room(nodes, need)

    def fits(self, row: int, request: Request) -> bool:
        """Say whether the server of one row has room for one of a request; a node of its own always has."""
        server = self.server_of[row]
        if server < 0:
            return True
        need = needed(request)
        return bool(self._free_cpus[server] >= need.cpus and self._free_memory[server] >= need.memory)

    def take(self, row: int, request: Request) -> None:
        """Reserve room for one replica on the server of one row."""
        server = self.server_of[row]
        if server >= 0:
            need = needed(request)
            self._free_cpus[server] -= need.cpus
            self._free_memory[server] -= need.memory

    def take_many(self, rows: Ints, given: Ints, request: Request) -> None:
        """Reserve room for `given[i]` replicas on the server of `rows[i]`."""
        servers = self.server_of[rows]
        lent = servers >= 0
        need = needed(request)
        np.subtract.at(self._free_cpus, servers[lent], given[lent] * need.cpus)
        np.subtract.at(self._free_memory, servers[lent], given[lent] * need.memory)

    def divided(self, room: Ints, request: Request, held: Ints, order: Callable[[Ints], Floats], pack: bool) -> Ints:
        """Return `room` with what several rows of one server have together held to what that server has.

        No replica is lost by it: the sum over a server's rows becomes the server's room, or stays below it. Spreading
        fills the rows that hold fewest, packing the first by `order` (smaller is better).
        """
        need = needed(request)
        budgets = np.maximum(np.minimum(self._free_cpus // need.cpus, self._free_memory // need.memory), 0)
        wanted = np.bincount(self.servers, weights=room[self.rows], minlength=len(budgets)).astype(np.int64)
        over = wanted > budgets
        if not over.any():
            return room
        tight = over[self.servers]
        rows, segments = self.rows[tight], self.servers[tight]
        shares = _packed if pack else _levelled
        room = room.copy()
        room[rows] = shares(held[rows], room[rows], segments, budgets, order(rows))
        return room

    def _by_row(self, by_server: Ints) -> Ints:
        found = np.full(len(self.mask), PLENTY, dtype=np.int64)
        found[self.rows] = by_server[self.servers]
        return found

    def _among(self, nodes: Mask) -> list[int]:
        """Return the servers of some nodes, each once, in the order of the rows."""
        return list(dict.fromkeys(self.server_of[np.flatnonzero(nodes & self.mask)].tolist()))

    def _say_kind(self, nodes: Mask) -> str:
        found = self._among(nodes)
        return phrases.servers_more(self.standings[found[0]].text, len(found) - 1)

    def _say_vm(self, nodes: Mask) -> str:
        return next(self._vm_troubles[row] for row in np.flatnonzero(nodes).tolist() if row in self._vm_troubles)

    def _say_room(self, nodes: Mask, need: Need) -> str:
        """Tell of the server that comes nearest, with what this placement has given it already."""
        found = self._among(nodes)
        best = max(found, key=lambda at: min(self._free_cpus[at] / need.cpus, self._free_memory[at] / need.memory))
        taken = Need(
            int(self._first_cpus[best] - self._free_cpus[best]), int(self._first_memory[best] - self._free_memory[best])
        )
        return phrases.servers_more(self.standings[best].refusal(need, taken)[1], len(found) - 1)


def lent_of(nodes: Sequence[Member], snapshot: Snapshot, heard: HeardServers, now: float) -> Lent | None:
    """Return the columns of servers; None when no node is on lent capacity."""
    if not snapshot.vms:
        return None
    by_node = snapshot.vms_by_node
    vms = {row: vm for row, node in enumerate(nodes) if (vm := by_node.get(node.id)) is not None}
    return Lent(nodes, vms, snapshot, heard, now) if vms else None


def _packed(_held: Ints, room: Ints, segments: Ints, budgets: Ints, order: Floats) -> Ints:
    """Return how much of its server's budget each row may use: the first by `order` take all they can."""
    by_order = np.lexsort((order, segments))
    before = np.cumsum(room[by_order]) - room[by_order]
    starts = np.flatnonzero(np.diff(segments[by_order], prepend=-1))
    before -= np.repeat(before[starts], np.diff(starts, append=len(before)))
    shares = np.empty_like(room)
    shares[by_order] = np.clip(budgets[segments[by_order]] - before, 0, room[by_order])
    return shares


def _levelled(held: Ints, room: Ints, segments: Ints, budgets: Ints, order: Floats) -> Ints:
    """Return how much of its server's budget each row may use: all are filled to one level, as spreading does.

    `segments` are in order. Where a level cannot be filled whole, the lowest by `order` go first.
    """
    starts = np.flatnonzero(np.diff(segments, prepend=-1))
    lengths = np.diff(starts, append=len(segments))
    budget = budgets[segments[starts]]
    low = np.minimum.reduceat(np.where(room > 0, held, PLENTY), starts)
    high = low + budget + 1  # one row alone would be above it

    def given_at(level: Ints) -> Ints:
        given: Ints = np.minimum(np.maximum(np.repeat(level, lengths) - held, 0), room)
        return given

    while np.any(high - low > 1):
        middle = (low + high) // 2
        fits = np.add.reduceat(given_at(middle), starts) <= budget
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    given = given_at(low)
    left = budget - np.add.reduceat(given, starts)
    next_ones = (held + given == np.repeat(low, lengths)) & (room > given)
    by_order = np.lexsort((order, ~next_ones, segments))
    place = np.arange(len(by_order)) - np.repeat(starts, lengths)
    more = next_ones[by_order] & (place < np.repeat(left, lengths))
    given[by_order[more]] += 1
    return given
