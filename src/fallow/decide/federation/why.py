"""Why a cluster has the share it has, and why replicas have no place: plain words, made for those who ask."""

from collections import Counter

import numpy as np

from fallow.decide.federation.candidates import Use
from fallow.decide.federation.divide import Counts
from fallow.decide.federation.table import Table

_MOST = 4  # clusters that are named in one reason


def unplaced(table: Table, shares: Counts) -> Counts:
    """Return, by row, how many replicas have no place; of those that are duplicated, in all clusters together."""
    found: Counts = np.maximum(table.totals - shares.sum(axis=1), 0)
    rows = np.flatnonzero(table.duplicate[table.policy_of])
    if len(rows):
        policy = table.policy_of[rows]
        wanted = np.minimum(table.totals[rows, None], table.maxs[policy])
        usable = table.use[policy] == Use.OPEN
        lacking = np.where(usable, np.maximum(wanted - shares[rows], 0), 0).sum(axis=1)
        found[rows] = np.where(table.use[policy].any(axis=1), lacking, table.totals[rows])
    return found


def unplaced_reason(table: Table, row: int, shares: Counts) -> str:
    """Return why replicas of one deployment have no place: what stands against every cluster, each reason once."""
    deployment = table.deployments[row]
    against = [(cluster.name, _against(table, row, column, shares)) for column, cluster in enumerate(table.clusters)]
    counted = Counter(text for _, text in against)
    parts = []
    for text, count in counted.most_common():
        names = [name for name, other in against if other == text]
        listed = ", ".join(names[:_MOST]) + (f" and {count - _MOST} more" if count > _MOST else "")
        parts.append(f"{listed}: {text}")
    return f"{deployment.spec.replicas} wanted; " + "; ".join(parts)


def rules_of(table: Table, row: int, shares: Counts) -> dict[str, str]:
    """Return, by cluster id, what made its share; clusters that have none and had none are left out."""
    columns = np.flatnonzero((shares > 0) | (table.was[row] > 0)).tolist()
    return {table.clusters[column].id: rule(table, row, column, shares) for column in columns}


def rule(table: Table, row: int, column: int, shares: Counts) -> str:
    """Return what made one cluster's share of one deployment."""
    policy = table.policy_of.item(row)
    spec = table.deployments[row].spec.clusters
    candidate = table.candidates_of(row)[column]
    if candidate.use != Use.OPEN:
        return candidate.why
    share, was = shares.item(column), table.was.item(row, column)
    cap = table.rooms.caps.item(row, column)
    if share >= cap:
        told = table.rooms.told.item(row, column)
        return f"held: {max(told - cap, 0)} of {told} replicas could not be placed there"
    if share == table.maxs.item(policy, column):
        return f"at most {share}, as max says"
    if share and share <= table.mins.item(policy, column):
        return f"at least {table.mins.item(policy, column)}, as min says"
    if share < table.totals.item(row) and _full(table, row, column, share):
        return _room(table, row, column, share)
    return _by_policy(table, row, column, share, was) or spec.divide


def _by_policy(table: Table, row: int, column: int, share: int, was: int) -> str:
    policy = table.policy_of.item(row)
    match table.deployments[row].spec.clusters.divide:
        case "weighted":
            usable = table.use[policy] != Use.NONE
            of = int(table.weights[policy][usable].sum())
            return f"weight {int(table.weights.item(policy, column))} of {of}"
        case "duplicate":
            return "the total in every cluster"
        case "aggregate":
            return "fewest clusters" if share else "fewest clusters: not needed"
        case _:
            if not share and table.tiers.item(policy, column):
                return f"fallback group {table.tiers.item(policy, column) + 1}: not needed"
            return f"by capacity: room for {_ceiling(table, row, column)} in all"


def _ceiling(table: Table, row: int, column: int) -> int:
    return table.rooms.told.item(row, column) + table.rooms.free.item(int(table.rooms.shape_of[row]), column)


def _full(table: Table, row: int, column: int, share: int) -> bool:
    return share >= _ceiling(table, row, column)


def _room(table: Table, row: int, column: int, share: int) -> str:
    shape = table.rooms.shape_of.item(row)
    told = table.rooms.told.item(row, column)
    room = table.snapshot.rooms.get(table.clusters[column].id)
    answer = room.answers.get(table.rooms.shapes[shape].key) if room is not None else None
    why = f" ({answer.why})" if answer is not None and answer.why else ""
    if room is None:
        return "has not said yet what room it has"
    more = max(share - told, 0)
    return f"room for {more} more only{why}" if more else f"no room for more{why}"


def _against(table: Table, row: int, column: int, shares: Counts) -> str:
    """Return what keeps a cluster from taking more."""
    candidate = table.candidates_of(row)[column]
    if candidate.use != Use.OPEN:
        return candidate.why
    share = shares.item(column)
    policy = table.policy_of.item(row)
    if share >= table.rooms.caps.item(row, column):
        return "could not place what it was given"
    if share >= table.maxs.item(policy, column):
        return f"at most {share}, as max says"
    if _full(table, row, column, share):
        return _room(table, row, column, share)
    return "its room is promised to others just now"
