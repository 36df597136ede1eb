"""The fleet as numpy columns: one row a node, in the order of node ids."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement.columns import Columns, SeeingColumns
from fallow.decide.placement.disk import disk_full
from fallow.decide.placement.lent import lent_of
from fallow.decide.placement.ports import PortBook
from fallow.decide.placement.request import MOST, NANO, Request, reservation
from fallow.decide.placement.standing import NOBODY, capacity_of, is_stray
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Replica, Template
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_STATES = {state: code for code, state in enumerate(MemberState)}
_SCHEDULING = {wish: code for code, wish in enumerate(Scheduling)}
_TIE = 2.0**-40  # what a replica weighs where shares are equal; what a share weighs is 2**-10 where counts are


class NodeTable:
    """Free room, counts and labels of every node; it changes as replicas are given to nodes.

    `free_cpus` is in billionths of a processor, `free_memory` in bytes; both are negative where a node has shrunk.
    `touched` lists the rows in the order in which they changed, for those who keep something made of them. `lent` are
    the columns of the servers whose capacity nodes are on; None: none is.
    """

    def __init__(
        self, snapshot: Snapshot, heard: Heard | None = None, servers: HeardServers | None = None, now: float = 0.0
    ) -> None:
        self.nodes: list[Member] = sorted(snapshot.nodes.values(), key=lambda node: node.id)
        self.rows: dict[str, int] = {node.id: row for row, node in enumerate(self.nodes)}
        self.labels = Columns(self.nodes, snapshot.label_sets)  # all that security may hang on
        self.known = SeeingColumns(self.nodes, snapshot.label_sets, heard or {})
        self.ports = PortBook(
            [node.lease.host_ports for node in self.nodes], [node.lease.address for node in self.nodes]
        )
        self.touched: list[int] = []
        self.lent = lent_of(self.nodes, snapshot, servers or NOBODY, now)
        self._read_nodes(snapshot, heard or {})
        self._read_replicas(snapshot)
        self._score_all()

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self.nodes)

    def in_state(self, state: MemberState) -> Mask:
        """Return which nodes are in `state`."""
        return np.equal(self._states, _STATES[state])

    def wished(self, scheduling: Scheduling) -> Mask:
        """Return which nodes an operator wants to be `scheduling`."""
        return np.equal(self._scheduling, _SCHEDULING[scheduling])

    def built_for(self, architectures: Iterable[str]) -> Mask:
        """Return which nodes have one of the architectures."""
        codes = [self._architecture_codes[name] for name in architectures if name in self._architecture_codes]
        return np.isin(self._architectures, codes)

    def take(self, row: int, request: Request) -> None:
        """Reserve room for one replica on one node. Its ports are taken by `ports.allocate`."""
        self.free_cpus[row] -= request.cpus
        self.free_memory[row] -= request.memory_bytes
        self.counts[row] += 1
        if self.lent is not None:
            self.lent.take(row, request)
        count = self.counts.item(row)
        share = max(
            (self._all_cpus.item(row) - self.free_cpus.item(row)) * self._per_cpu.item(row),
            (self._all_memory.item(row) - self.free_memory.item(row)) * self._per_byte.item(row),
        )
        self.by_share[row] = share + count * _TIE
        self.by_count[row] = count + share * 2.0**-10
        self.touched.append(row)

    def take_many(self, rows: Ints, given: Ints, request: Request) -> None:
        """Reserve room for `given[i]` replicas on node `rows[i]`; no row twice."""
        self.free_cpus[rows] -= given * request.cpus
        self.free_memory[rows] -= given * request.memory_bytes
        self.counts[rows] += given
        if self.lent is not None:
            self.lent.take_many(rows, given, request)
        share = self._share(rows, 0, request)
        self.by_share[rows] = share + self.counts[rows] * _TIE
        self.by_count[rows] = self.counts[rows] + share * 2.0**-10
        self.touched.extend(rows.tolist())

    def score(self, rows: Ints, request: Request) -> Floats:
        """Return the load by which `request` compares nodes."""
        return (self.by_share if request.reserves else self.by_count)[rows]

    def score_with(self, rows: Ints, given: Ints, request: Request) -> Floats:
        """Return that load as it were with `given[i]` more replicas of `request` on node `rows[i]`."""
        share, counts = self._share(rows, given, request), self.counts[rows] + given
        return share + counts * _TIE if request.reserves else counts + share * 2.0**-10

    def _share(self, rows: Ints, given: Ints | int, request: Request) -> Floats:
        """Return the larger of the reserved shares of processor and memory."""
        cpus = self._all_cpus[rows] - self.free_cpus[rows] + given * request.cpus
        memory = self._all_memory[rows] - self.free_memory[rows] + given * request.memory_bytes
        return np.maximum(cpus * self._per_cpu[rows], memory * self._per_byte[rows])

    def _read_nodes(self, snapshot: Snapshot, heard: Heard) -> None:
        nodes, codes = self.nodes, dict[str, int]()
        self._states = np.array([_STATES[node.state] for node in nodes], dtype=np.int8)
        self._scheduling = np.array([_SCHEDULING[node.scheduling] for node in nodes], dtype=np.int8)
        self.reachable: Mask = np.array([bool(node.lease.address) for node in nodes], dtype=np.bool_)
        self.stray: Mask = np.array([is_stray(snapshot, node) for node in nodes], dtype=np.bool_)
        self.networked: Mask = np.array([not node.network_problem for node in nodes], dtype=np.bool_)
        self.full: Mask = np.array([disk_full(node, heard.get(node.id)) for node in nodes], dtype=np.bool_)
        self._architectures = np.array(
            [codes.setdefault(node.facts.architecture, len(codes)) for node in nodes], dtype=np.int32
        )
        self._architecture_codes = codes
        self._all_cpus: Ints = np.array([round(node.facts.cpus * NANO) for node in nodes], dtype=np.int64)
        self._all_memory: Ints = np.array([node.facts.memory_bytes for node in nodes], dtype=np.int64)
        if self.lent is not None:
            granted = np.array(self.lent.capacity, dtype=np.int64)
            self._all_cpus[self.lent.capacity_rows] = granted[:, 0]
            self._all_memory[self.lent.capacity_rows] = granted[:, 1]
        self._per_cpu = _inverse(self._all_cpus)
        self._per_byte = _inverse(self._all_memory)

    def _read_replicas(self, snapshot: Snapshot) -> None:
        cpus, memory, counts = ([0] * len(self.nodes) for _ in range(3))
        reserved: dict[str, tuple[int, int]] = {}
        for node_id, replicas in snapshot.replicas_by_node.items():
            row = self.rows.get(node_id)
            if row is None:
                continue
            counts[row] = len(replicas)
            for replica in replicas:
                held = reserved.get(replica.template_id)
                if held is None:
                    held = reserved[replica.template_id] = reserved_by(replica, snapshot.templates)
                cpus[row] += held[0]
                memory[row] += held[1]
                if replica.host_ports:
                    self.ports.occupy(row, replica.host_ports)
        self.counts: Ints = np.array(counts, dtype=np.int64)
        self.free_cpus: Ints = self._all_cpus - np.array([min(held, MOST) for held in cpus], dtype=np.int64)
        self.free_memory: Ints = self._all_memory - np.array([min(held, MOST) for held in memory], dtype=np.int64)

    def _score_all(self) -> None:
        cpus, memory = self._all_cpus - self.free_cpus, self._all_memory - self.free_memory
        share = np.maximum(cpus * self._per_cpu, memory * self._per_byte)
        self.by_share: Floats = share + self.counts * _TIE
        self.by_count: Floats = self.counts + share * 2.0**-10


def reserved_by(replica: Replica, templates: Mapping[str, Template]) -> tuple[int, int]:
    """Return what a replica holds: (billionths of a processor, bytes); nothing is known without its template."""
    template = templates.get(replica.template_id)
    return reservation(template.container.resources) if template is not None else (0, 0)


def free_room(
    node: Member,
    held: Iterable[Replica],
    templates: Mapping[str, Template],
    vm: Vm | None = None,
    report: ServerReport | None = None,
) -> tuple[int, int]:
    """Return what replicas leave of a node: (billionths of a processor, bytes), negative where it has shrunk.

    `vm` is the virtual machine that it is, `report` what is known of that machine's server.
    """
    cpus, memory = capacity_of(node, vm, report)
    for replica in held:
        reserved = reserved_by(replica, templates)
        cpus -= reserved[0]
        memory -= reserved[1]
    return cpus, memory


def _inverse(whole: Ints) -> Floats:
    """Return 1/x, and 0 for 0: a node that does not tell its capacity has no share of it."""
    return np.divide(1.0, whole, out=np.zeros(len(whole)), where=whole > 0)
