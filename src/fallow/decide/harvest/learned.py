"""Our own predictor: the usual rise at this hour, and a margin learned from its own past errors.

Three forms of it are computed, and each server uses the one that would have cost it least:

- *steady*: level and half of the usual rise, and a margin in points of capacity. The level is between current use and
  the mean of the last two hours; the usual rise is how far above its level the primary went at this time of day on up
  to seven days before. Half, because what happened on some days at this hour happens more or less.
- *clockwork*: the same with the whole rise, for jobs that always start at the same time.
- *restless*: the level alone, and a margin in deviations of the last two hours. It widens at once when use begins to
  swing, and narrows only as the swing leaves these two hours.

All were computable at every step of the last week, so their errors are known. The margin is the one that would have
cost least over these errors: every point above the peak costs a point that is not lent, every step below costs as
`Cost` says. Errors around the same time of day count more: a nightly batch job asks for a margin at night only.

Learning a margin from past errors is what conformal prediction does (Gibbs and Candes, "Adaptive conformal inference
under distribution shift", 2021). It asks for a fixed share of errors; here a cost decides: a server whose rare spikes
are huge is not kept empty all week for them, and where spikes cost nothing to cover, they are covered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fallow.decide.harvest.cost import Cost, Errors, mean_use
from fallow.decide.harvest.history import Floats, History
from fallow.decide.harvest.predict import GAP, MARGIN, Predictor
from fallow.decide.harvest.windows import held, lagged, moving_mean_and_sd, peak_ahead

DAYS = 7
_LEVEL_SECONDS = 2 * 3600
_RENEW_SECONDS = 3600  # margins are learned anew every full hour
_POINTS = 0.1  # a unit of scale that does not move
_QUIET = 0.02  # of capacity: deviations below are measurement
_ERRORS_A_HORIZON = 4
_PRIOR_HORIZONS = 3.0  # weight of what a short history cannot show


class _Form(NamedTuple):
    """What is expected and the unit of its margin, by (servers, steps), and how wrong it was."""

    expected: Floats
    scale: Floats
    errors: Floats


@dataclass(frozen=True)
class LearnedMargin(Predictor):
    """Level, usual rise and least-cost margin.

    `now` is the weight of current use in the level, `rise` that of the usual rise in the steady form; errors within
    about `near_seconds` of the same time of day count up to 1 + `near` times.
    """

    cost: Cost = field(default_factory=Cost)
    now: float = 0.35
    rise: float = 0.5
    near: float = 10.0
    near_seconds: float = 3600.0

    @property
    def name(self) -> str:
        """As `learned margin`."""
        return "learned margin"

    def raw(self, history: History, horizon: int, last: int) -> Floats:
        """See `Predictor`."""
        last = min(last, history.steps)
        forms = tuple(self._forms(history, horizon))
        foretold = np.full((history.servers, last), np.nan)
        first = history.steps - last
        for start, end in _hours(history, first):
            known = start - horizon
            if known <= 0:
                continue
            begin = max(known - DAYS * history.day, 0)
            # Peaks of neighbouring steps are mostly the same peak: a few errors a horizon say as much as all.
            apart = max(horizon // _ERRORS_A_HORIZON, 1)
            some = slice(begin + (known - 1 - begin) % apart, known, apart)
            weights = self._weights(history, start, some) * apart
            use = mean_use(history.usage[:, begin:known])
            hour, least = slice(max(start, first), end), np.full(history.servers, np.inf)
            for form in forms:
                past = Errors(form.errors[:, some], form.scale[:, some], weights, use)
                margin, cost = self.cost.least(past, (MARGIN, _PRIOR_HORIZONS * horizon))
                cheaper = (cost < least)[:, None]
                here = form.expected[:, hour] + margin[:, None] * form.scale[:, hour]
                there = foretold[:, hour.start - first : end - first]
                foretold[:, hour.start - first : end - first] = np.where(cheaper, here, there)
                least = np.minimum(least, cost)
        return np.where(np.isfinite(foretold), np.fmax(foretold, held(history.usage, GAP)[:, first:]), np.nan)

    def _forms(self, history: History, horizon: int) -> Iterator[_Form]:
        """Yield the steady, the clockwork and the restless form, for every step from nothing later than it."""
        peaks = peak_ahead(history.usage, horizon)
        mean, sd = moving_mean_and_sd(history.usage, max(_LEVEL_SECONDS // history.step_seconds, 2))
        level = self.now * held(history.usage, GAP) + (1 - self.now) * mean
        usual, points, deviations = _usual(peaks - mean, history.day), np.full_like(level, _POINTS), _QUIET + sd
        for expected, scale in (
            (level + self.rise * usual, points),
            (level + usual, points),
            (level, deviations),
        ):
            yield _Form(expected, scale, (peaks - expected) / scale)

    def _weights(self, history: History, start: int, some: slice) -> Floats:
        """Return how much the errors of some steps count for the hour from step `start` on."""
        half, middle = history.day // 2, start + _hour(history) // 2
        steps = np.arange(some.start, some.stop, some.step)
        apart = np.abs((steps - middle + half) % history.day - half) * history.step_seconds
        weights: Floats = 1 + self.near * np.exp(-0.5 * (apart / self.near_seconds) ** 2)
        return weights


def _usual(risen: Floats, day: int) -> Floats:
    """Return the mean of what was at the same time of day on the days before; 0 where no day is known."""
    total, counts = np.zeros_like(risen), np.zeros_like(risen)
    for days in range(1, DAYS + 1):
        before = lagged(risen, days * day)
        known = np.isfinite(before)
        total += np.where(known, before, 0.0)
        counts += known
    usual: Floats = total / np.maximum(counts, 1.0)
    return usual


def _hour(history: History) -> int:
    return max(_RENEW_SECONDS // history.step_seconds, 1)


def _hours(history: History, first: int) -> Iterator[tuple[int, int]]:
    """Yield the full hours that cover the steps from `first` on, as (start, end); a start may lie before `first`."""
    if not history.steps:
        return
    into = int(history.clock[first]) % _hour(history)
    for start in range(first - into, history.steps, _hour(history)):
        yield start, min(start + _hour(history), history.steps)
