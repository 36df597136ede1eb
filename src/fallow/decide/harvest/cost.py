"""What a prediction costs: capacity that is not lent, and a primary that is met by lent work when it comes back."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fallow.decide.harvest.history import Floats


class Errors(NamedTuple):
    """Past errors of a prediction: by how much the true peak was above it (below: negative), (servers, steps).

    `errors` are in units of `scale`, itself a share of capacity; `weights` (steps,) say how much each step counts;
    `use` (servers,) is what the primary uses on average.
    """

    errors: Floats
    scale: Floats
    weights: Floats
    use: Floats


@dataclass(frozen=True, slots=True)
class Cost:
    """Prices in points of capacity that lie idle.

    `violation`: of one step whose peak was above its prediction, on a server that its primary uses whole. It is less
    by the share that the primary uses: what is hurt is the primary's work, and there is more of it on a busy server.
    `overshoot`: of every point by which the peak was above; at least 1, or it would pay to lend everything.

    Raises ValueError for a negative violation or an overshoot below 1.
    """

    violation: float = 2.0
    overshoot: float = 3.0

    def __post_init__(self) -> None:
        if self.violation < 0 or self.overshoot < 1:
            raise ValueError(f"prices {self.violation:g} and {self.overshoot:g}: at least 0 and 1")

    def of(self, predicted: Floats, peaks: Floats, use: Floats) -> Floats:
        """Return each server's mean cost of (servers, steps) predictions, (servers,), over the steps with a peak.

        `use` (servers,) is what the primary uses on average. Not-a-number for a server without any peak.
        """
        known = np.isfinite(peaks)
        over = np.where(known, np.maximum(peaks - predicted, 0.0), 0.0)
        costs = predicted + self.violation * use[:, None] * (over > 0) + self.overshoot * over
        with np.errstate(invalid="ignore"):
            mean: Floats = np.where(known, costs, 0.0).sum(axis=1) / known.sum(axis=1)
        return mean

    def least(self, past: Errors, prior: tuple[float, float]) -> tuple[Floats, Floats]:
        """Return the margin that would have cost least, in units of scale, and its mean cost, (servers,) each.

        `prior` is an error, as a share of capacity, that is taken to have been seen with such a weight: for what a
        short history cannot show. Only errors are candidates: between two of them the cost is linear.
        """
        known = np.isfinite(past.errors) & np.isfinite(past.scale)
        share, weight = prior
        typical = np.where(known, past.scale, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        typical = np.where(typical > 0, typical, 1.0)[:, None]
        margins = np.concatenate([np.where(known, past.errors, -np.inf), share / typical], axis=1)
        counts = np.concatenate([np.where(known, past.weights, 0.0), np.full_like(typical, weight)], axis=1)
        sizes = np.concatenate([np.where(known, past.scale, 0.0), typical], axis=1) * counts
        order = np.argsort(-margins, axis=1)  # the highest first: all before it in its row would have been violations
        margins, counts, sizes = (np.take_along_axis(each, order, axis=1) for each in (margins, counts, sizes))
        costs = self._of_margins(margins, counts, sizes, past.use)
        rows, best = np.arange(len(margins)), np.argmin(costs, axis=1)
        return margins[rows, best], costs[rows, best]

    def _of_margins(self, margins: Floats, counts: Floats, sizes: Floats, use: Floats) -> Floats:
        """Return the mean cost of each margin, (servers, steps), which are in falling order."""
        finite = np.where(np.isfinite(margins), margins, 0.0)
        errors = finite * sizes
        above = np.cumsum(counts, axis=1) - counts
        over = np.cumsum(errors, axis=1) - errors - finite * (np.cumsum(sizes, axis=1) - sizes)
        idle = finite * sizes.sum(axis=1, keepdims=True)
        costs = (idle + self.violation * use[:, None] * above + self.overshoot * over) / counts.sum(
            axis=1, keepdims=True
        )
        result: Floats = np.where(np.isfinite(margins), costs, np.inf)
        return result


def mean_use(usage: Floats) -> Floats:
    """Return each server's mean use, (servers,); all of it where nothing was measured."""
    measured = np.isfinite(usage)
    counts = measured.sum(axis=1)
    mean = np.where(measured, usage, 0.0).sum(axis=1) / np.maximum(counts, 1)
    return np.where(counts > 0, mean, 1.0)
