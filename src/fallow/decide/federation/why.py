"""Why a cluster has the share it has, and why replicas have no place: plain words, made for those who ask."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fallow.decide.federation.candidates import Use
from fallow.decide.federation.divide import Counts
from fallow.decide.federation.table import Rows, Table
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment

_MOST = 4  # clusters that are named in one reason

# What decided a share, the first that holds: the policy's view of the cluster, what it could not place, a bound that
# the policy sets, room; where none of these, how the policy divides.
_CLOSED, _HELD, _MAX, _FULL, _MIN, _DIVIDED = range(6)
_AGAINST = {
    _HELD: "could not place all it was told",
    _MAX: "as many as max allows",
    _FULL: "no room for more",
    _MIN: "its room is promised to others just now",
    _DIVIDED: "its room is promised to others just now",
}


def unplaced(table: Table, shares: Counts) -> Counts:
    """Return, by row, how many replicas have no place; of those that are duplicated, in all clusters together."""
    found: Counts = np.maximum(table.totals - shares.sum(axis=1), 0)
    rows = np.flatnonzero(table.policies.duplicate[table.policy_of])
    if len(rows):
        policy = table.policy_of[rows]
        wanted = np.minimum(table.totals[rows, None], table.policies.maxs[policy])
        lacking = np.where(table.policies.use[policy] == Use.OPEN, np.maximum(wanted - shares[rows], 0), 0).sum(axis=1)
        found[rows] = np.where(table.policies.use[policy].any(axis=1), lacking, table.totals[rows])
    return found


def passed_over(snapshot: Snapshot, deployment: Deployment, now: float) -> list[str]:
    """Return why clusters run nothing of a deployment: each reason once, with the clusters it holds for.

    Other deployments are left out of account; what is promised to them is not seen.
    """
    division = snapshot.divisions.get(deployment.id)
    if division is None or not snapshot.clusters:
        return []
    alone = replace(
        snapshot,
        deployments={deployment.id: deployment},
        divisions={division.id: division},
        shares={share.id: share for share in snapshot.shares_by_deployment.get(deployment.id, ())},
    )
    table = Table(alone, now)
    rows = np.arange(len(table.deployments))
    rules = next(Reasons(table, rows, table.was, everywhere=True).rules(), {})
    by_text: dict[str, list[str]] = {}
    for cluster in table.clusters:
        if cluster.id in rules and not division.shares.get(cluster.id):
            by_text.setdefault(rules[cluster.id], []).append(cluster.name)
    return [f"none in {listed_names(names)}: {text}" for text, names in by_text.items()]


def listed_names(names: Sequence[str]) -> str:
    """Return the first few of some names."""
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


class Reasons:
    """The words for some rows of a table, which have the given shares; `everywhere`: also where nothing is or was."""

    def __init__(self, table: Table, rows: Rows, shares: Counts, *, everywhere: bool = False) -> None:
        self._table = table
        self._rows = rows
        self._shares = shares
        self._most = table.rooms.told[rows] + table.rooms.free[table.rooms.shape_of[rows]]
        self._codes = self._coded()
        self._seen = np.ones_like(shares) if everywhere else shares + table.was[rows]
        self._weights: dict[int, list[str]] = {}
        self._closed: dict[int, list[str]] = {}

    def rules(self) -> Iterator[dict[str, str]]:
        """Yield, row by row and by cluster id, what made each share."""
        clusters = [cluster.id for cluster in self._table.clusters]
        for place, row in enumerate(self._rows.tolist()):
            columns = np.flatnonzero(self._seen[place])
            told = zip(
                columns.tolist(), self._codes[place, columns].tolist(), self._shares[place, columns].tolist(),
                strict=True,
            )  # fmt: skip
            yield {clusters[column]: self._rule(place, row, column, code, share) for column, code, share in told}

    def unplaced(self) -> Iterator[str]:
        """Yield, row by row, why no cluster takes more: each reason once, with the clusters it holds for."""
        for place, row in enumerate(self._rows.tolist()):
            parts = list(self._closed_to(self._table.policy_of.item(row)))
            by_text: dict[str, list[int]] = {}
            for code, text in _AGAINST.items():
                columns = np.flatnonzero(self._codes[place] == code).tolist()
                if columns:
                    by_text.setdefault(text, []).extend(columns)
            for text, columns in by_text.items():
                why = self._said(row, columns[0]) if text == _AGAINST[_FULL] else ""
                parts.append(f"{self._named(columns)}: {text}{why}")
            yield "; ".join(parts) or "there is no cluster"

    def _coded(self) -> Counts:
        table, rows, shares = self._table, self._rows, self._shares
        policy, totals = table.policy_of[rows], table.totals[rows, None]
        return np.select(
            [
                table.policies.use[policy] != Use.OPEN,
                (shares >= table.rooms.caps[rows]) & (shares < totals),
                (shares >= table.policies.maxs[policy]) & (shares < totals),
                (shares >= self._most) & (shares < totals),
                (shares > 0) & (shares <= table.policies.mins[policy]),
            ],
            [_CLOSED, _HELD, _MAX, _FULL, _MIN],
            _DIVIDED,
        ).astype(np.int64)

    def _rule(self, place: int, row: int, column: int, code: int, share: int) -> str:
        table = self._table
        if code == _DIVIDED:
            return self._divided(place, row, column, share)
        if code == _CLOSED:
            return table.candidates_of(row)[column].why
        if code == _HELD:
            told = table.rooms.told.item(row, column)
            return f"held: {max(told - table.rooms.caps.item(row, column), 0)} of {told} replicas could not be placed"
        if code == _FULL:
            more = max(share - table.rooms.told.item(row, column), 0)
            return (f"room for {more} more only" if more else "no room for more") + self._said(row, column)
        return f"{'at most' if code == _MAX else 'at least'} {share}, by {'max' if code == _MAX else 'min'}"

    def _divided(self, place: int, row: int, column: int, share: int) -> str:
        """Return how the policy divides, in view of one cluster."""
        table = self._table
        policy = table.policy_of.item(row)
        tier = table.policies.tiers.item(policy, column)
        if not share and tier:
            return f"fallback group {tier + 1}: not needed"
        match table.deployments[row].spec.clusters.divide:
            case "weighted":
                return self._weighted(policy)[column]
            case "duplicate":
                return "the total in every cluster"
            case "aggregate":
                return "fewest clusters" if share else "fewest clusters: not needed"
            case _:
                return f"by capacity: room for {self._most.item(place, column)} in all"

    def _weighted(self, policy: int) -> list[str]:
        if policy not in self._weights:
            weights, usable = self._table.policies.weights[policy], self._table.policies.use[policy] != Use.NONE
            total = int(weights[usable].sum())
            self._weights[policy] = [f"weight {int(weight)} of {total}" for weight in weights.tolist()]
        return self._weights[policy]

    def _closed_to(self, policy: int) -> list[str]:
        """Return why clusters are closed to a policy, the clusters first."""
        if policy not in self._closed:
            by_text: dict[str, list[int]] = {}
            for column, candidate in enumerate(self._table.policies.candidates[policy]):
                if candidate.use != Use.OPEN:
                    by_text.setdefault(candidate.why, []).append(column)
            self._closed[policy] = [f"{self._named(columns)}: {text}" for text, columns in by_text.items()]
        return self._closed[policy]

    def _said(self, row: int, column: int) -> str:
        """Return what a cluster itself says of its room, in brackets."""
        room = self._table.snapshot.rooms.get(self._table.clusters[column].id)
        if room is None:
            return " (it has not said yet what room it has)"
        answer = room.answers.get(self._table.rooms.shapes[self._table.rooms.shape_of.item(row)].key)
        return f" ({answer.why})" if answer is not None and answer.why else ""

    def _named(self, columns: Sequence[int]) -> str:
        return listed_names([self._table.clusters[column].name for column in columns])
