"""Divides totals of replicas over clusters, for many deployments at once.

Shares are found by Webster's method (Sainte-Laguë): seats go one by one to the highest `weight / (2 * share + 1)`; with
equal quotients to the smaller share, then to the cluster that comes first. It is the divisor method that favours
neither large nor small, and, as any divisor method, it never takes a seat from anybody when the total grows (M. L.
Balinski and H. P. Young, "Fair Representation", 1982). Seats are not given one by one here: the divisor is found by
Newton's method within a bracket, and by bisection, for all deployments side by side, and only what then lacks is given
one by one.

All arrays have a row a deployment and a column a cluster.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]

_TRIES = 96  # after so many, half of them bisections, quotients that are still not told apart are given one by one
_FEW = 2  # replicas that are given one by one more quickly than a better divisor is found
_FEW_EQUALS = 8  # the same where a better divisor may not exist
_EQUAL = 1e-12  # quotients as near as this are equal


@dataclass(frozen=True, kw_only=True)
class Division:
    """What is to be divided, and within which bounds.

    `totals` has one number a row. A share lies between `floors` and `ceilings` (what a policy says, and what fits);
    clusters that may not be used have a ceiling of 0. Weights are finite and not negative; who has none gets replicas
    only by a floor, or because it has them.
    """

    totals: Counts
    weights: Weights
    floors: Counts
    ceilings: Counts
    current: Counts


def keep(asked: Division) -> Counts:
    """Return shares that differ from the current ones by as few replicas as possible.

    Where more are wanted than there are, nobody loses one, and where fewer are wanted nobody gains one; what has to
    leave because its cluster's ceiling fell is divided anew. A row whose total does not fit gets what fits.
    """
    floors, ceilings = _bounds(asked)
    begun = within(asked.current, floors, ceilings)
    surplus = (begun.sum(axis=1) > asked.totals)[:, None]
    return _fill(asked.totals, asked.weights, np.where(surplus, floors, begun), np.where(surplus, begun, ceilings))


def afresh(asked: Division) -> Counts:
    """Return shares as weights and bounds want them, whatever there is now."""
    return _fill(asked.totals, asked.weights, *_bounds(asked))


def _bounds(asked: Division) -> tuple[Counts, Counts]:
    """Return floors and ceilings that a total can keep: it outweighs floors, and ceilings outweigh it."""
    floors = np.minimum(asked.floors, asked.ceilings)
    too_many = (floors.sum(axis=1) > asked.totals)[:, None]
    return np.where(too_many, 0, floors), np.where(too_many, floors, asked.ceilings)


def _fill(totals: Counts, weights: Weights, low: Counts, high: Counts) -> Counts:
    """Return shares between `low` and `high` that add up to `totals`, or as near as the bounds let them.

    What those with a weight cannot take goes to those without, as if they were equal: a total counts for more.
    """
    weightless = weights <= 0
    shares = _give(_rounded(totals, weights, low, np.where(weightless, low, high)), totals, weights, high)
    if (lacking := (shares.sum(axis=1) < totals) & (weightless & (shares < high)).any(axis=1)).any():
        equal = np.where(weightless, 1.0, 0.0)
        rest = _rounded(totals[lacking], equal[lacking], shares[lacking], high[lacking])
        shares[lacking] = _give(rest, totals[lacking], equal[lacking], high[lacking])
    return shares


def _rounded(totals: Counts, weights: Weights, low: Counts, high: Counts) -> Counts:
    """Return the largest shares of Webster's method that do not exceed the totals, or nearly.

    A share is its weight times a number, rounded; the number is the reciprocal of the divisor.
    """
    most = np.where(weights > 0, high, low)
    whole = most.sum(axis=1) <= totals
    shares: Counts = np.where(whole[:, None], most, low)
    # At one divisor all of equal weight get one more at once.
    few = max(_FEW, min(shares.shape[1] - 1, _FEW_EQUALS))
    rows = np.flatnonzero(~whole & (totals - low.sum(axis=1) > few))
    if not len(rows):
        return shares
    totals, weights, low, high = totals[rows], weights[rows], low[rows], high[rows]
    lower = np.zeros(len(rows))
    upper = (totals + 1.0) / np.where(weights > 0, weights, np.inf).min(axis=1)
    middle = totals / weights.sum(axis=1)  # it is this one where no bound holds
    for turn in range(_TRIES):
        found = _at(weights, middle, low, high)
        lacking = totals - found.sum(axis=1)
        fits = lacking >= 0
        shares[rows[fits]] = found[fits]
        left = (lacking < 0) | (lacking > few)
        if not left.any():
            break
        lower, upper = np.where(fits, middle, lower), np.where(fits, upper, middle)
        halves = (lower + upper) / 2.0
        if turn % 2:
            middle = halves
        else:
            slope = np.where((low < found) & (found < high), weights, 0.0).sum(axis=1)
            middle = middle + (lacking - few / 2.0) / np.where(slope > 0, slope, np.inf)
            middle = np.where((lower < middle) & (middle < upper), middle, halves)
        if not left.all():
            rows, lower, upper, middle = rows[left], lower[left], upper[left], middle[left]
            totals, weights, low, high = totals[left], weights[left], low[left], high[left]
    return shares


def _at(weights: Weights, multiplier: NDArray[np.float64], low: Counts, high: Counts) -> Counts:
    quotas = np.minimum(weights * multiplier[:, None], 2.0**40)
    # One hair below the half: who is just at it is told apart one by one.
    rounded = np.ceil(quotas - 0.5).astype(np.int64)
    return within(rounded, low, high)


def within(counts: Counts, low: Counts | int, high: Counts | int) -> Counts:
    """Return counts between two bounds; of small arrays `np.clip` takes three times as long."""
    found: Counts = np.minimum(np.maximum(counts, low), high)
    return found


def _give(shares: Counts, totals: Counts, weights: Weights, high: Counts) -> Counts:
    """Give what still lacks to those with a weight, one by one, and return the shares."""
    shares = shares.copy()
    while True:
        open_ = (shares < high) & (weights > 0)
        rows = np.flatnonzero((shares.sum(axis=1) < totals) & open_.any(axis=1))
        if not len(rows):
            return shares
        quotients = np.where(open_[rows], weights[rows] / (2.0 * shares[rows] + 1.0), -1.0)
        best = quotients.max(axis=1, keepdims=True)
        equal = np.where(quotients >= best * (1.0 - _EQUAL), shares[rows], np.iinfo(np.int64).max)
        shares[rows, equal.argmin(axis=1)] += 1
