"""How far nodes are what a request would rather have: one number a node, more is better.

Each preference gives a node between nothing and its weight: all of it to those that a selector picks, or the share that
the node has of the most that any of the nodes has. The sum is counted in tenths of all weights together, so that a
difference too small to matter leaves the choice to the load.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallow.decide.placement.columns import Columns, Floats, Mask
from fallow.model.deployments import Preference

STEPS = 10


def preference(columns: Columns, wishes: Sequence[Preference], among: Mask) -> Floats:
    """Return each node's sum; only nodes of `among` are compared with each other."""
    total = np.zeros(len(among), dtype=np.float64)
    for wish in wishes:
        total += wish.weight * _share(columns, wish, among)
    return np.round(total * STEPS / sum(wish.weight for wish in wishes))


@dataclass(frozen=True, slots=True)
class Most:
    """A node that has the most of what a preference asks about."""

    amounts: Floats
    row: int

    def held_by(self, row: int) -> bool:
        """Say whether another one has as much."""
        return bool(self.amounts[row] == self.amounts[self.row])


def mosts(columns: Columns, wishes: Sequence[Preference], among: Mask) -> tuple[Most, ...]:
    """Return, for each wish that compares amounts, the node of `among` that all others are compared with."""
    found = []
    for amounts in (columns.amounts(wish.key).amounts for wish in wishes if wish.order != "match"):
        known = among & ~np.isnan(amounts)
        if known.any():
            found.append(Most(amounts, int(np.where(known, amounts, -np.inf).argmax())))
    return tuple(found)


def ranks(liked: Floats, scores: Floats) -> Floats:
    """Return places in an order, 0 is best: the more liked first, among equals the lower score, then the first."""
    placed = np.empty(len(liked), dtype=np.float64)
    placed[np.lexsort((scores, -liked))] = np.arange(len(liked), dtype=np.float64)
    return placed


def _share(columns: Columns, wish: Preference, among: Mask) -> Floats:
    if wish.order == "match":
        return columns.all_of(wish.selector).astype(np.float64)
    amounts = columns.amounts(wish.key).amounts
    known = among & ~np.isnan(amounts)
    most = float(amounts[known].max()) if known.any() else 0.0
    if most <= 0.0:
        return known.astype(np.float64) if wish.order == "least" else np.zeros(len(among), dtype=np.float64)
    share = np.where(known, amounts / most, 0.0)
    return share if wish.order == "most" else np.where(known, 1.0 - share, 0.0)
