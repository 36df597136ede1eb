"""What policies make of totals: shares for many deployments, out of bounds, weights and what there is already."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fallow.decide.federation.divide import Counts, Division, Weights, keep, within
from fallow.decide.federation.rooms import Mask

_HOLDER = 1e-7  # what holding all of the total adds to a weight: it tells equals apart, and nobody else


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What deployments ask for: rows are deployments, columns clusters.

    `current` is what stays wherever it may; `liked` what there is, whose holders are preferred among equals. `ceilings`
    are 0 where a cluster may not be used. `tiers` is the place of a cluster among the fallback groups. `groups` numbers
    the values of the label to spread over, of which at least `min_groups` (0: any number) get replicas.
    """

    totals: Counts
    weights: Weights
    floors: Counts
    ceilings: Counts
    current: Counts
    liked: Counts
    tiers: Counts
    groups: Counts
    min_groups: Counts
    aggregate: Mask  # by row
    duplicate: Mask  # by row
    turn: int = 0  # how often these were divided before, and others took the room

    def rows(self, chosen: NDArray[np.int64] | Mask) -> "Asked":
        """Return some of the rows, by number in their order or by a mask."""
        if chosen.dtype != np.bool_ and len(chosen) == len(self.totals):
            return self
        arrays = {name: getattr(self, name)[chosen] for name in self.__dataclass_fields__ if name != "turn"}
        return Asked(**arrays, turn=self.turn)


def shares_of(asked: Asked) -> Counts:
    """Return the share of every cluster; what does not fit is missing."""
    weights = asked.weights * (1.0 + _HOLDER * asked.liked / np.maximum(asked.totals, 1)[:, None])
    asked = _bounded(replace(asked, weights=weights, floors=_spread(asked)))
    shares = np.minimum(asked.totals[:, None], asked.ceilings)
    rows = np.flatnonzero(~asked.duplicate)
    if len(rows):
        shares[rows] = _tiered(asked.rows(rows))
    return shares


def _bounded(asked: Asked) -> Asked:
    """Return what is asked with floors that ceilings allow; where they exceed the total, it is divided up to them."""
    floors = np.minimum(asked.floors, asked.ceilings)
    too_many = ((floors.sum(axis=1) > asked.totals) & ~asked.duplicate)[:, None]
    return replace(asked, floors=np.where(too_many, 0, floors), ceilings=np.where(too_many, floors, asked.ceilings))


def _tiered(asked: Asked) -> Counts:
    """Fill the fallback groups in their order, and empty them in the opposite one."""
    begun = within(asked.current, asked.floors, asked.ceilings)
    several = asked.tiers.max(axis=1, initial=0) > 0
    shares = begun.copy()
    rows = np.flatnonzero(~several & (begun.sum(axis=1) != asked.totals))
    if len(rows):
        shares[rows] = _one_tier(asked.rows(rows))
    rows = np.flatnonzero(several & (begun.sum(axis=1) != asked.totals))
    if len(rows):
        shares[rows] = _all_tiers(asked.rows(rows), begun[rows])
    return shares


def _all_tiers(asked: Asked, shares: Counts) -> Counts:
    fewer = shares.sum(axis=1) > asked.totals
    last = int(asked.tiers.max())
    for step in range(last + 1):
        turn = np.where(fewer, last - step, step)[:, None] == asked.tiers
        floors = np.where(turn | ~fewer[:, None], asked.floors, shares)
        shares = _one_tier(
            replace(
                asked,
                totals=np.maximum(asked.totals, floors.sum(axis=1)),
                current=shares,
                floors=floors,
                ceilings=np.where(turn, asked.ceilings, shares),
            )
        )
    return shares


def _one_tier(asked: Asked) -> Counts:
    ceilings = np.where(asked.aggregate[:, None], _fewest(asked), asked.ceilings) if asked.aggregate.any() else None
    return keep(
        Division(
            totals=asked.totals,
            weights=asked.weights,
            floors=asked.floors,
            ceilings=asked.ceilings if ceilings is None else ceilings,
            current=asked.current,
        )
    )


def _fewest(asked: Asked) -> Counts:
    """Return ceilings that leave no more clusters open than are needed for the total, those that hold it first."""
    begun = within(asked.current, asked.floors, asked.ceilings)
    fewer = begun.sum(axis=1) > asked.totals
    room = asked.ceilings - begun
    lacking = asked.totals - begun.sum(axis=1)
    # Who holds some already costs no cluster more; those who do not are opened for as much as they take.
    opened = _prefix(room, (begun > 0).astype(np.int64), lacking, asked.turn)
    fresh = ~begun.any(axis=1)
    holders = _prefix(room, (asked.liked > 0).astype(np.int64), lacking, asked.turn)
    as_few = fresh & (holders.sum(axis=1) <= opened.sum(axis=1))
    opened = np.where(as_few[:, None], holders, opened)
    left = _prefix(begun, np.zeros_like(begun), asked.totals, 0)
    return np.where(fewer[:, None], np.where(left, begun, asked.floors), np.where(opened, asked.ceilings, begun))


def _prefix(amounts: Counts, first: Counts, wanted: Counts, turn: int) -> Mask:
    """Return the fewest clusters whose amounts add up to what is wanted: those of `first`, then the largest.

    All deployments would take the same large cluster, and one after the other find it full. So from the second turn on
    each takes another of those that are large enough for it.
    """
    enough = np.minimum(amounts, np.maximum(wanted, 0)[:, None])
    rows, columns = amounts.shape
    apart = -amounts if not turn else (np.arange(columns)[None, :] + turn * 7 + np.arange(rows)[:, None]) % columns
    order = np.lexsort((apart, -enough, -first), axis=1)
    sorted_amounts = np.take_along_axis(amounts, order, axis=1)
    before = np.cumsum(sorted_amounts, axis=1) - sorted_amounts
    found = np.zeros(amounts.shape, dtype=np.bool_)
    np.put_along_axis(found, order, (before < wanted[:, None]) & (sorted_amounts > 0), axis=1)
    return found


def _spread(asked: Asked) -> Counts:
    """Return floors that put a replica into as many groups as the policy asks for, those that hold some first."""
    rows = np.flatnonzero(asked.min_groups > 0)
    if not len(rows):
        return asked.floors
    floors, part = asked.floors.copy(), asked.rows(rows)
    columns, ranks = [], []
    for group in range(int(part.groups.max()) + 1):
        usable = (part.groups == group) & (part.ceilings > 0)
        # Who gets some by a floor anyway comes first, then who holds some.
        held = np.where(usable, part.current * 2.0 + part.liked + (part.floors > 0) * 2.0**20, 0.0)
        worth = np.where(usable, held * 2.0**40 + part.weights - part.tiers * 2.0**20, -np.inf)
        columns.append(worth.argmax(axis=1))
        ranks.append(np.where(usable.any(axis=1), held.sum(axis=1) * 2.0**40 + worth.max(axis=1), -np.inf))
    best, chosen = np.stack(columns, axis=1), np.argsort(-np.stack(ranks, axis=1), axis=1, kind="stable")
    worthy = np.take_along_axis(np.stack(ranks, axis=1), chosen, axis=1) > -np.inf
    wanted = np.minimum(part.min_groups, part.totals)
    for place in range(chosen.shape[1]):
        take = worthy[:, place] & (place < wanted)
        column = best[np.arange(len(rows)), chosen[:, place]]
        floors[rows[take], column[take]] = np.maximum(floors[rows[take], column[take]], 1)
    return floors
