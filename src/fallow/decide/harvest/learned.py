"""Our own predictor: the usual rise at this hour, and a margin learned from its own past errors.

Up to four forms of it are computed, and each server uses the one that would have cost it least:

- *steady*: level and half of the usual rise, and a margin in points of capacity. The level is between current use and
  the mean of the last two hours; the usual rise is how far above its level the primary went at this time of day on up
  to seven days before. Half, because what happened on some days at this hour happens more or less.
- *clockwork*: the same with the whole rise, for jobs that always start at the same time.
- *restless*: the level alone, and a margin in deviations of the last two hours. It widens at once when use begins to
  swing, and narrows only as the swing leaves these two hours.
- *weekly*: the level and the most that it rose at this hour of the same day of up to three weeks before, and a margin
  in units of how unsure that is. It counts where at least two weeks are known before the days that it is compared on,
  and only if it is cheaper by a tenth. The other three know eight days, and no week.

All were computable at every step of the last week, so their errors are known. The margin is the one that would have
cost least over these errors: every point above the peak costs a point that is not lent, every step below costs as
`Cost` says. Errors around the same time of day count more: a nightly batch job asks for a margin at night only.

Learning a margin from past errors is what conformal prediction does (Gibbs and Candes, "Adaptive conformal inference
under distribution shift", 2021). It asks for a fixed share of errors; here a cost decides: a server whose rare spikes
are huge is not kept empty all week for them, and where spikes cost nothing to cover, they are covered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fallow.decide.harvest.cost import Cost, Errors, mean_use
from fallow.decide.harvest.history import Floats, History
from fallow.decide.harvest.predict import GAP, MARGIN, Predictor
from fallow.decide.harvest.weekly import weekly_rise
from fallow.decide.harvest.windows import held, lagged, moving_mean, moving_mean_and_sd, peak_ahead

DAYS = 7
_LEVEL_SECONDS = 2 * 3600
_RENEW_SECONDS = 3600  # margins are learned anew every full hour
_POINTS = 0.1  # a unit of scale that does not move
_QUIET = 0.02  # of capacity: deviations below are measurement
_ERRORS_A_HORIZON = 4
_KNOWN = 0.8  # of the errors that others know: on other days nothing is compared
_PRIOR_HORIZONS = 3.0  # weight of what a short history cannot show


class _Form(NamedTuple):
    """What is expected and the unit of its margin, by (servers, steps), and how wrong it was."""

    expected: Floats
    scale: Floats
    errors: Floats
    weekly: bool = False

    def told(self, margin: Floats, steps: slice) -> Floats:
        """Return what these margins, (servers,), foretell of some steps, (servers, steps)."""
        return self.expected[:, steps] + margin[:, None] * self.scale[:, steps]


class _Past(NamedTuple):
    """What an hour is learned from: steps, how much each counts, the mean use of each server, the prior's weight.

    `yesterday`: the steps within two hours of this one a day ago, as far as their errors are known.
    """

    steps: slice
    weights: Floats
    use: Floats
    prior: float
    yesterday: slice


@dataclass(frozen=True)
class LearnedMargin(Predictor):
    """Level, usual rise and least-cost margin.

    `now` is the weight of current use in the level, `rise` that of the usual rise in the steady form; errors within
    about `near_seconds` of the same time of day count up to 1 + `near` times. `gain` is the share of the others' cost
    by which the weekly form has to be cheaper: without it, it would be taken by chance where no day is like another.
    """

    cost: Cost = field(default_factory=Cost)
    now: float = 0.35
    rise: float = 0.5
    near: float = 10.0
    near_seconds: float = 3600.0
    gain: float = 0.1

    @property
    def name(self) -> str:
        """As `learned margin`."""
        return "learned margin"

    def raw(self, history: History, horizon: int, last: int) -> Floats:
        """See `Predictor`."""
        last = min(last, history.steps)
        whole, history = history, history.newest((DAYS + 1) * history.day + max(last - history.day, 0))
        forms = (*self._forms(history, horizon), *self._weekly(whole, history.steps, horizon))
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
            hour = slice(max(start, first), end)
            around = start - history.day - 2 * _hour(history), start - history.day + 3 * _hour(history)
            yesterday = slice(max(around[0], 0), max(min(around[1], known), 0))
            past = _Past(some, weights, mean_use(history.usage[:, begin:known]), _PRIOR_HORIZONS * horizon, yesterday)
            foretold[:, hour.start - first : end - first] = self._cheapest(forms, past, hour)
        return np.where(np.isfinite(foretold), np.fmax(foretold, held(history.usage, GAP)[:, first:]), np.nan)

    def _cheapest(self, forms: Sequence[_Form], past: _Past, hour: slice) -> Floats:
        """Return what each server's cheapest form foretells of the steps of an hour; the weekly form comes last.

        The first three are compared by their margins and violations alone, the weekly one with what it expects. It
        also must not have been dearer around this time yesterday: so a weekend that is worked, or clocks that were
        changed, are believed a day later.
        """
        first, count = forms[0], len(forms[0].expected)
        foretold = np.full((count, hour.stop - hour.start), np.nan)
        least = whole = lately = np.full(count, np.inf)
        for form in forms:
            errors = form.errors[:, past.steps]
            margin, cost = self.cost.least(
                Errors(errors, form.scale[:, past.steps], past.weights, past.use), (MARGIN, past.prior)
            )
            entire = cost + _mean(form.expected[:, past.steps], np.where(np.isfinite(errors), past.weights, 0.0))
            cheaper, then = cost < least, form.told(margin, past.yesterday)
            there = form.expected[:, past.yesterday] + form.errors[:, past.yesterday] * form.scale[:, past.yesterday]
            recent = self.cost.of(then, there, past.use)
            if form.weekly:
                enough = np.isfinite(errors).sum(axis=1) >= _KNOWN * np.isfinite(first.errors[:, past.steps]).sum(
                    axis=1
                )
                cheaper = enough & (entire < (1 - self.gain) * whole) & ~(recent > (1 + self.gain) * lately)
            here = form.told(margin, hour)
            foretold = np.where(cheaper[:, None] & np.isfinite(here), here, foretold)
            least, whole, lately = (
                np.where(cheaper, *pair) for pair in ((cost, least), (entire, whole), (recent, lately))
            )
        return foretold

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

    def _weekly(self, history: History, last: int, horizon: int) -> Iterator[_Form]:
        """Yield the weekly form for the newest steps, when there are weeks to tell of."""
        peaks = peak_ahead(history.usage, horizon)
        mean = moving_mean(history.usage, max(_LEVEL_SECONDS // history.step_seconds, 2))
        rise, spread = weekly_rise(peaks - mean, history.day, last)
        if np.isfinite(rise).any():
            newest = slice(history.steps - last, None)
            level = self.now * held(history.usage, GAP)[:, newest] + (1 - self.now) * mean[:, newest]
            expected, scale = level + rise, _QUIET + spread
            yield _Form(expected, scale, (peaks[:, newest] - expected) / scale, weekly=True)

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


def _mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of each server, (servers,); 0 where nothing has a weight."""
    sums = np.where(weights > 0, values, 0.0) * weights
    mean: Floats = sums.sum(axis=1) / np.where(weights.any(axis=1), weights.sum(axis=1), 1.0)
    return mean


def _hour(history: History) -> int:
    return max(_RENEW_SECONDS // history.step_seconds, 1)


def _hours(history: History, first: int) -> Iterator[tuple[int, int]]:
    """Yield the full hours that cover the steps from `first` on, as (start, end); a start may lie before `first`."""
    if not history.steps:
        return
    into = int(history.clock[first]) % _hour(history)
    for start in range(first - into, history.steps, _hour(history)):
        yield start, min(start + _hour(history), history.steps)
