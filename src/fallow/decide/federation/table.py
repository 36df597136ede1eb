"""All that a division looks at, as arrays: a row a deployment, a column a cluster."""

import hashlib
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fallow.decide.federation.candidates import Candidate, Use, candidates, fingerprint_of, known_labels, weight_of
from fallow.decide.federation.divide import Counts, within
from fallow.decide.federation.fence import stopped_after
from fallow.decide.federation.policy import Asked
from fallow.decide.federation.recall import recalled
from fallow.decide.federation.rooms import UNCAPPED, Mask, Rooms, rooms_of
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import ClusterPolicy
from fallow.model.labels import LabelSet
from fallow.model.members import Member

WAIT_SECONDS = 1.0  # for answers about a new shape; then clusters are judged by what they said of themselves last

Rows = NDArray[np.int64]


class Policies:
    """What each distinct policy makes of the clusters: a row a policy, a column a cluster.

    `fenced` are, for each policy, the ids of dead clusters whose replicas are not replaced yet; see `candidates`.
    """

    def __init__(
        self,
        policies: Sequence[ClusterPolicy],
        fenced: Sequence[Collection[str]],
        clusters: Sequence[Member],
        sets: Mapping[str, LabelSet],
    ) -> None:
        self._columns = len(clusters)
        self.candidates = [
            candidates(policy, clusters, sets, held) for policy, held in zip(policies, fenced, strict=True)
        ]
        self.use = self._ints([each.use for each in found] for found in self.candidates)
        self.tiers = self._ints([each.tier for each in found] for found in self.candidates)
        self.mins = self._ints([policy.min.get(each.name, 0) for each in clusters] for policy in policies)
        self.maxs = self._ints([policy.max.get(each.name, UNCAPPED) for each in clusters] for policy in policies)
        self.weights = self._ints([weight_of(policy, each) for each in clusters] for policy in policies).astype(
            np.float64
        )
        self.groups = self._ints(_groups(policy, clusters) for policy in policies)
        spreads = [policy.spread.min_groups if policy.spread is not None else 0 for policy in policies]
        self.min_groups: Counts = np.array(spreads, dtype=np.int64)
        self.weighted: Mask = np.array([policy.divide == "weighted" for policy in policies], dtype=np.bool_)
        self.aggregate: Mask = np.array([policy.divide == "aggregate" for policy in policies], dtype=np.bool_)
        self.duplicate: Mask = np.array([policy.divide == "duplicate" for policy in policies], dtype=np.bool_)
        fenced_ = [[each.fenced for each in found] for found in self.candidates]
        self.fenced: Mask = np.array(fenced_, dtype=np.bool_).reshape(-1, self._columns)
        self.digest = _digest(
            self.use, self.fenced, self.tiers, self.mins, self.maxs, self.weights, self.groups,
            self.min_groups, self.weighted, self.aggregate, self.duplicate,
        )  # fmt: skip

    def _ints(self, rows: Iterable[Sequence[int]]) -> Counts:
        return np.array(list(rows), dtype=np.int64).reshape(-1, self._columns)


class Table:
    """The rooms, what each distinct policy makes of the clusters, and how deployments are divided now.

    `was` is the newest division, or what clusters are told where there is none. `anew` are the rows that are divided as
    if there were nothing, `waiting` those that stay as they are until clusters have said what room they have.
    `policy_of` says which row of `policies` a deployment has. What is the same as in the table `before` is taken over.
    """

    def __init__(
        self, snapshot: Snapshot, now: float, anew: Collection[str] = (), before: "Table | None" = None
    ) -> None:
        self.snapshot = snapshot
        self.now = now
        looked = before is not None and before.snapshot is snapshot and before.now == now
        self.rooms: Rooms = before.rooms if before is not None and looked else rooms_of(snapshot, now)
        self.deployments, self.clusters = self.rooms.deployments, self.rooms.clusters
        self.totals: Counts = np.array([found.spec.replicas for found in self.deployments], dtype=np.int64)
        self.fingerprints: list[str] = (
            before.fingerprints
            if before is not None and _same(before.deployments, self.deployments)
            else [fingerprint_of(found.spec.clusters) for found in self.deployments]
        )
        self._read_policies(before)
        self._read_divisions(anew)
        self.waiting = self._waiting(now)

    def candidates_of(self, row: int) -> tuple[Candidate, ...]:
        """Return what the policy of one deployment makes of the clusters."""
        return self.policies.candidates[self.policy_of.item(row)]

    def digest(self) -> bytes:
        """Return what tells tables apart whose deployments are divided otherwise."""
        rooms = self.rooms
        return self.policies.digest + _digest(
            self.totals, self.policy_of, self.was, self.anew, self.waiting,
            rooms.shape_of, rooms.slots, rooms.nodes, rooms.told, rooms.caps, rooms.covered, rooms.uncounted,
            rooms.outdated, rooms.free,
        )  # fmt: skip

    def ceilings(self, rows: Rows, left: Counts, given: Counts) -> Counts:
        """Return the most that each cluster can run: what it is told, what it was `given` since, and room `left`."""
        use, told = self.policies.use[self.policy_of[rows]], self.rooms.told[rows]
        promised = self.rooms.covered[rows] - told + given[rows]
        more = promised + left[self.rooms.shape_of[rows]]
        kept = np.minimum(np.maximum(self.was[rows] - told, 0), promised)
        found = told + np.where(use == Use.OPEN, more, np.where(use == Use.KEPT, kept, 0))
        return np.minimum(np.where(use == Use.NONE, 0, found), self.rooms.caps[rows])

    def may_come(self) -> Mask:
        """Return where more replicas than clusters are told to run may come."""
        found: Mask = self.policies.use[self.policy_of] >= Use.KEPT
        return found

    def asked(self, rows: Rows, current: Counts, ceilings: Counts, turn: int) -> Asked:
        """Return what some deployments ask for, of which `current` is there already, in which turn."""
        policy = self.policy_of[rows]
        weighted = self.policies.weighted[policy][:, None]
        return Asked(
            totals=self.totals[rows],
            weights=np.where(weighted, self.policies.weights[policy], ceilings.astype(np.float64)),
            floors=np.maximum(self.policies.mins[policy], self._fenced_floors(rows)),
            ceilings=np.where(self.policies.fenced[policy], ceilings, np.minimum(ceilings, self.policies.maxs[policy])),
            current=current,
            liked=self.was[rows],
            tiers=self.policies.tiers[policy],
            groups=self.policies.groups[policy],
            min_groups=self.policies.min_groups[policy],
            aggregate=self.policies.aggregate[policy],
            duplicate=self.policies.duplicate[policy],
            turn=turn,
        )

    def _fenced_floors(self, rows: Rows) -> Counts:
        """Return what dead clusters keep where no fewer are wanted: no spread or minimum of others replaces it."""
        floors = np.where(self.policies.fenced[self.policy_of[rows]], self.was[rows], 0)
        floors[floors.sum(axis=1) > self.totals[rows]] = 0
        return floors

    def _read_policies(self, before: "Table | None") -> None:
        keys: dict[tuple[str, float], int] = {}
        policies: list[ClusterPolicy] = []
        fenced: list[frozenset[str]] = []
        numbers = []
        for found, fingerprint in zip(self.deployments, self.fingerprints, strict=True):
            fence = stopped_after(found)
            if (fingerprint, fence) not in keys:
                keys[fingerprint, fence] = len(policies)
                policies.append(found.spec.clusters)
                fenced.append(frozenset(each.id for each in self.clusters if self.now - each.died_at < fence))
            numbers.append(keys[fingerprint, fence])
        self.policy_of: Counts = np.array(numbers, dtype=np.int64)
        self._keys = [(fingerprint, held) for (fingerprint, _), held in zip(keys, fenced, strict=True)]
        sets = self.snapshot.label_sets
        self.policies: Policies = (
            before.policies
            if before is not None
            and before._keys == self._keys
            and before.snapshot.label_sets is sets
            and _same(before.clusters, self.clusters)
            else Policies(policies, fenced, self.clusters, sets)
        )

    def _read_divisions(self, anew: Collection[str]) -> None:
        self.was = self.rooms.told.copy()
        self.anew: Mask = np.zeros(len(self.deployments), dtype=np.bool_)
        columns = {cluster.id: column for column, cluster in enumerate(self.clusters)}
        rows, places, counts = [], [], []
        for row, found in enumerate(self.deployments):
            division = self.snapshot.divisions.get(found.id)
            if division is None:
                continue
            self.was[row] = 0
            self.anew[row] = division.policy != self.fingerprints[row]
            shares = recalled(self.snapshot, division) if division.drained else division.shares
            for cluster_id, count in shares.items():
                column = columns.get(cluster_id)
                if column is not None:
                    rows.append(row)
                    places.append(column)
                    counts.append(count)
        if rows:
            self.was[rows, places] = within(np.array(counts, dtype=np.int64), 0, UNCAPPED)
        if anew:
            self.anew |= np.array([found.id in anew for found in self.deployments], dtype=np.bool_)

    def _waiting(self, now: float) -> Mask:
        """Return which deployments changed so lately that clusters may not have been asked yet."""
        lately = [row for row, found in enumerate(self.deployments) if 0 <= now - found.updated_at < WAIT_SECONDS]
        waiting: Mask = np.zeros(len(self.deployments), dtype=np.bool_)
        if not lately:
            return waiting
        unknown = self.rooms.unanswered[self.rooms.shape_of[lately]] & (
            self.policies.use[self.policy_of[lately]] == Use.OPEN
        )
        waiting[lately] = unknown.any(axis=1)
        return waiting


def _digest(*arrays: NDArray[Any]) -> bytes:
    found = hashlib.blake2b(digest_size=32)
    for array in arrays:
        found.update(repr(array.shape).encode())
        found.update(array.tobytes())
    return found.digest()


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Say whether these are the very same objects."""
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _groups(policy: ClusterPolicy, clusters: Sequence[Member]) -> list[int]:
    """Return, by cluster, the number of its value of the label to spread over; without the label it is one, too."""
    if policy.spread is None:
        return [-1] * len(clusters)
    known: dict[str | None, int] = {}
    label = policy.spread.label
    values: list[Mapping[str, str]] = [known_labels(cluster) for cluster in clusters]
    return [known.setdefault(found.get(label), len(known)) for found in values]
