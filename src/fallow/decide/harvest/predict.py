"""How high a server's primary will go: one interface, and the predictors that others use.

Every predictor is careful in the same way. Little history: the highest seen and a fixed margin. Measurements that
stopped: full, never idle. A prediction is a fraction of capacity in 0..1.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fallow.decide.harvest.history import Floats, History
from fallow.decide.harvest.windows import held, moving_max, moving_mean_and_sd

ENOUGH = 24  # measured steps before a predictor is believed (Bashir et al., "Take it to the limit", EuroSys 2021)
MARGIN = 0.40  # of capacity: Koordinator's default for processors
GAP = 1  # steps that may be missing before a server's measurements count as stopped


class Predictor(Protocol):
    """Foretells the highest high value of a primary within the next steps."""

    @property
    def name(self) -> str:
        """What people call it, with its settings."""

    def raw(self, history: History, horizon: int, last: int) -> Floats:
        """Return (servers, last) predictions, before `peaks` makes them careful; each from nothing later than its step.

        Not-a-number where it cannot tell.
        """

    def peaks(self, history: History, horizon: int, last: int) -> Floats:
        """Return (servers, last): what would have been predicted at the end of each of the `last` newest steps.

        Raises ValueError when `horizon` is not within 1 step and a day.
        """
        if not 1 <= horizon <= history.day:
            raise ValueError(f"a horizon of {horizon} steps; it can be 1 to {history.day}, a day")
        return _careful(self.raw(history, horizon, last), history, last)

    def peak(self, history: History, horizon: int) -> Floats:
        """Return (servers,): the predicted peak of the next `horizon` steps."""
        return self.peaks(history, horizon, 1)[:, 0]


@dataclass(frozen=True)
class FixedMargin(Predictor):
    """Current use and a fixed share of capacity above it (Koordinator's batch resource)."""

    margin: float = MARGIN

    @property
    def name(self) -> str:
        """As `fixed 40`, in points."""
        return f"fixed {self.margin * 100:g}"

    def raw(self, history: History, horizon: int, last: int) -> Floats:
        """See `Predictor`."""
        return held(history.newest(last + GAP).usage, GAP)[:, -last:] + self.margin


@dataclass(frozen=True)
class Sigma(Predictor):
    """Mean and n standard deviations of the newest steps (Bashir et al., EuroSys 2021)."""

    n: float = 5.0
    window: int = 24

    @property
    def name(self) -> str:
        """As `mean+5sd`."""
        return f"mean+{self.n:g}sd"

    def raw(self, history: History, horizon: int, last: int) -> Floats:
        """See `Predictor`."""
        mean, sd = moving_mean_and_sd(history.newest(last + self.window).usage, self.window)
        return (mean + self.n * sd)[:, -last:]


@dataclass(frozen=True)
class Percentile(Predictor):
    """A percentile of the newest steps and a factor above it (Koordinator's peak: 1.1 times the 95th)."""

    p: float = 95.0
    factor: float = 1.1
    window: int = 24

    @property
    def name(self) -> str:
        """As `1.1*p95`."""
        return f"{self.factor:g}*p{self.p:g}"

    def raw(self, history: History, horizon: int, last: int) -> Floats:
        """See `Predictor`. Between two ranks it takes the point in between, as numpy does."""
        usage = history.newest(last + self.window - 1).usage
        before = np.full((history.servers, last + self.window - 1 - usage.shape[1]), np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([before, usage], axis=1), self.window, axis=1)
        ranked = np.sort(windows, axis=2)  # what was not measured comes last
        place = self.p / 100 * np.maximum(np.isfinite(windows).sum(axis=2) - 1, 0)
        low = np.floor(place).astype(np.int64)[..., None]
        below = np.take_along_axis(ranked, low, axis=2)[..., 0]
        above = np.take_along_axis(ranked, np.minimum(low + 1, self.window - 1), axis=2)[..., 0]
        share = place - np.floor(place)
        return self.factor * np.where(share > 0, below + share * (above - below), below)


def _careful(predicted: Floats, history: History, last: int) -> Floats:
    """Keep predictions within 0..1 and away from what is not known."""
    usage = history.usage
    if history.steps < last:
        before = np.full((history.servers, last - history.steps), np.nan)
        usage = np.concatenate([before, usage], axis=1)
        predicted = np.concatenate([before, predicted[:, -history.steps :]], axis=1) if history.steps else before
    now = held(usage[:, -(last + GAP) :], GAP)[:, -last:]
    samples = np.cumsum(np.isfinite(usage), axis=1)[:, -last:]
    short = samples < ENOUGH
    if short.any():
        highest = moving_max(usage, usage.shape[1])[:, -last:]
        predicted = np.where(short, highest + MARGIN, predicted)
    known = np.isfinite(now) & np.isfinite(predicted)
    result: Floats = np.where(known, np.clip(predicted, 0.0, 1.0), 1.0)
    return result
