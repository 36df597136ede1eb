"""What servers used in the past, in steps of a fixed length: all that predictors get to see.

A value is the *high value* of its step: the 90th percentile of the second samples within it, as `high_value` makes it.
A mean over five minutes hides what a latency-sensitive application feels; a maximum over 300 seconds is often one
second of garbage collection, which the loop that suppresses every second is there for. Public traces know one value a
step only; it stands in the same place.

The newest 29 days are kept, and nothing older: the day that is learned from, the week before it whose errors count,
and three weeks before that to tell one day of the week from another. These are 8,352 values a resource: of processors
and memory of one server 134 kB, and 67 kB on its disk.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP_SECONDS = 300
LONGEST_SECONDS = 29 * 86_400
_MEASURED = 0.5  # of a step's seconds, or the step was not measured


@dataclass(frozen=True, slots=True)
class History:
    """Usage of one resource by the primaries of many servers, oldest step first.

    `usage` is (servers, steps), a fraction of capacity in 0..1, not-a-number where nothing was measured. `ends_at` is
    when the newest step ended, UTC seconds. Make it with `history`, which checks and cleans.
    """

    usage: Floats
    ends_at: float
    step_seconds: int = STEP_SECONDS

    @property
    def servers(self) -> int:
        """Rows."""
        return int(self.usage.shape[0])

    @property
    def steps(self) -> int:
        """Columns."""
        return int(self.usage.shape[1])

    @property
    def day(self) -> int:
        """Steps of a day."""
        return 86_400 // self.step_seconds

    @property
    def clock(self) -> NDArray[np.int64]:
        """Each step's number since 1970: the same step of two days is a whole number of days apart."""
        return round(self.ends_at / self.step_seconds) + np.arange(1 - self.steps, 1)

    def without_newest(self, steps: int) -> "History":
        """Return what was known so many steps earlier."""
        kept = max(self.steps - steps, 0)
        return History(self.usage[:, :kept], self.ends_at - (self.steps - kept) * self.step_seconds, self.step_seconds)

    def newest(self, steps: int) -> "History":
        """Return the newest steps alone."""
        return History(self.usage[:, max(self.steps - steps, 0) :], self.ends_at, self.step_seconds)

    def add(self, values: Floats, ends_at: float) -> "History":
        """Return the history with one more step, (servers,), and without what is older than 29 days.

        Steps that passed unmeasured are filled with not-a-number. A step that is not later than the newest (the clock
        was set back) is merged with the newest by the higher value: nothing seen is forgotten, and no time is invented.
        """
        passed = round((ends_at - self.ends_at) / self.step_seconds)
        column = _clean(values[:, None])
        if passed <= 0:
            merged = self.usage.copy()
            merged[:, -1:] = np.fmax(merged[:, -1:], column)
            return History(merged, self.ends_at, self.step_seconds)
        longest = LONGEST_SECONDS // self.step_seconds
        gap = np.full((self.servers, min(passed, longest) - 1), np.nan)
        usage = np.concatenate([self.usage, gap, column], axis=1)[:, -longest:]
        return History(usage, ends_at, self.step_seconds)


def history(usage: Floats, ends_at: float, step_seconds: int = STEP_SECONDS) -> History:
    """Return a history of (servers, steps); what cannot be a usage counts as not measured, more than all as all.

    Raises ValueError when `usage` has another shape, or a step does not divide a day.
    """
    if usage.ndim != 2:
        raise ValueError(f"usage has {usage.ndim} dimensions; a history is (servers, steps)")
    if step_seconds <= 0 or 86_400 % step_seconds:
        raise ValueError(f"a step of {step_seconds} s does not divide a day")
    return History(_clean(usage), ends_at, step_seconds)


def high_value(seconds: Floats) -> Floats:
    """Return the high value of one step, (servers,), from its second samples, (servers, seconds).

    Not-a-number where less than half of the samples were measured.
    """
    measured = np.isfinite(seconds)
    counts = measured.sum(axis=1)
    ranked = np.sort(np.where(measured, seconds, np.inf), axis=1)
    rank = np.maximum(np.ceil(0.9 * counts).astype(np.int64) - 1, 0)
    high = ranked[np.arange(len(ranked)), rank]
    return np.where(counts >= max(_MEASURED * seconds.shape[1], 1), high, np.nan)


def _clean(usage: Floats) -> Floats:
    sane = np.where(np.isfinite(usage) & (usage >= 0), usage, np.nan).astype(np.float64)
    return np.minimum(sane, 1.0)
