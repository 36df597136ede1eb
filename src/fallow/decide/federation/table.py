"""All that a division looks at, as arrays: a row a deployment, a column a cluster."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fallow.decide.federation.candidates import Candidate, Use, candidates, fingerprint_of, known_labels, weight_of
from fallow.decide.federation.divide import Counts
from fallow.decide.federation.fence import stopped_after
from fallow.decide.federation.policy import Asked
from fallow.decide.federation.recall import recalled
from fallow.decide.federation.rooms import UNCAPPED, Mask, rooms_of
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import ClusterPolicy
from fallow.model.members import Member

WAIT_SECONDS = 1.0  # for answers about a new shape; then clusters are judged by what they said of themselves last

Rows = NDArray[np.int64]


class Table:
    """The rooms, what each distinct policy makes of the clusters, and how deployments are divided now.

    `was` is the newest division, or what clusters are told where there is none. `anew` are the rows that are divided as
    if there were nothing, `waiting` those that stay as they are until clusters have said what room they have.
    """

    def __init__(self, snapshot: Snapshot, now: float, anew: Collection[str] = ()) -> None:
        self.snapshot = snapshot
        self.rooms = rooms_of(snapshot, now)
        self.deployments = self.rooms.deployments
        self.clusters = self.rooms.clusters
        self.totals: Counts = np.array([found.spec.replicas for found in self.deployments], dtype=np.int64)
        self.fingerprints = [fingerprint_of(found.spec.clusters) for found in self.deployments]
        self._read_policies(now)
        self._read_divisions(anew)
        self.waiting = self._waiting(now)

    def candidates_of(self, row: int) -> tuple[Candidate, ...]:
        """Return what the policy of one deployment makes of the clusters."""
        return self.candidates[self.policy_of.item(row)]

    def ceilings(self, rows: Rows, left: Counts, given: Counts) -> Counts:
        """Return the most that each cluster can run: what it is told, what it was `given` since, and room `left`."""
        use, told = self.use[self.policy_of[rows]], self.rooms.told[rows]
        promised = self.rooms.covered[rows] - told + given[rows]
        more = promised + left[self.rooms.shape_of[rows]]
        kept = np.minimum(np.maximum(self.was[rows] - told, 0), promised)
        found = told + np.where(use == Use.OPEN, more, np.where(use == Use.KEPT, kept, 0))
        return np.minimum(np.where(use == Use.NONE, 0, found), self.rooms.caps[rows])

    def may_come(self) -> Mask:
        """Return where more replicas than clusters are told to run may come."""
        found: Mask = self.use[self.policy_of] >= Use.KEPT
        return found

    def asked(self, rows: Rows, current: Counts, ceilings: Counts, turn: int) -> Asked:
        """Return what some deployments ask for, of which `current` is there already, in which turn."""
        policy = self.policy_of[rows]
        weighted = self.weighted[policy][:, None]
        return Asked(
            totals=self.totals[rows],
            weights=np.where(weighted, self.weights[policy], ceilings.astype(np.float64)),
            floors=self.mins[policy],
            ceilings=np.minimum(ceilings, self.maxs[policy]),
            current=current,
            liked=self.was[rows],
            tiers=self.tiers[policy],
            groups=self.groups[policy],
            min_groups=self.min_groups[policy],
            aggregate=self.aggregate[policy],
            duplicate=self.duplicate[policy],
            turn=turn,
        )

    def _read_policies(self, now: float) -> None:
        known: dict[tuple[str, float], int] = {}
        policies: list[ClusterPolicy] = []
        fenced: list[Collection[str]] = []
        numbers = []
        for found, fingerprint in zip(self.deployments, self.fingerprints, strict=True):
            fence = stopped_after(found)
            if (fingerprint, fence) not in known:
                known[fingerprint, fence] = len(policies)
                policies.append(found.spec.clusters)
                fenced.append({each.id for each in self.clusters if now - each.died_at < fence})
            numbers.append(known[fingerprint, fence])
        self.policy_of: Counts = np.array(numbers, dtype=np.int64)
        sets, clusters = self.snapshot.label_sets, self.clusters
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

    def _ints(self, rows: Iterable[Sequence[int]]) -> Counts:
        return np.array(list(rows), dtype=np.int64).reshape(-1, len(self.clusters))

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
        self.was[rows, places] = np.clip(counts, 0, UNCAPPED)
        if anew:
            self.anew |= np.array([found.id in anew for found in self.deployments], dtype=np.bool_)

    def _waiting(self, now: float) -> Mask:
        """Return which deployments changed so lately that clusters may not have been asked yet."""
        lately = [row for row, found in enumerate(self.deployments) if 0 <= now - found.updated_at < WAIT_SECONDS]
        waiting: Mask = np.zeros(len(self.deployments), dtype=np.bool_)
        unknown = self.rooms.unanswered[self.rooms.shape_of[lately]] & (self.use[self.policy_of[lately]] == Use.OPEN)
        waiting[lately] = unknown.any(axis=1)
        return waiting


def _groups(policy: ClusterPolicy, clusters: Sequence[Member]) -> list[int]:
    """Return, by cluster, the number of its value of the label to spread over; without the label it is one, too."""
    if policy.spread is None:
        return [-1] * len(clusters)
    known: dict[str | None, int] = {}
    label = policy.spread.label
    values: list[Mapping[str, str]] = [known_labels(cluster) for cluster in clusters]
    return [known.setdefault(found.get(label), len(known)) for found in values]
