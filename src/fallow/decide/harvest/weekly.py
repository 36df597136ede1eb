"""What happened at this time of the same day of the week, and how sure that is: of idle weekends and busy Mondays."""

from collections.abc import Iterator, Sequence

import numpy as np

from fallow.decide.harvest.history import Floats

WEEKS = 3  # before the step that is foretold
_ENOUGH = 2  # weeks: one alone tells nothing of how much they differ


def weekly_rise(risen: Floats, day: int, last: int) -> tuple[Floats, Floats]:
    """Return the most at the same step of up to three weeks before, and how unsure that is, (servers, last) each.

    `risen` is (servers, steps), `day` a number of steps. The most: a day is idle when it was in each of these weeks,
    not when one was a holiday. How unsure: the deviation from the mean of these weeks, also of an hour before and
    after, since people come late and clocks are changed; widened as a prediction from so few weeks is. Both are
    not-a-number where less than two weeks are known.
    """
    hour = max(day // 24, 1)
    counts, total = np.zeros((len(risen), last)), np.zeros((len(risen), last))
    most = np.full_like(total, np.nan)
    for value in _before(risen, day, last, (0,)):
        known = np.isfinite(value)
        counts += known
        total += np.where(known, value, 0.0)
        most = np.fmax(most, value)
    weeks = np.where(counts >= _ENOUGH, counts, np.nan)
    mean = total / weeks
    others, squares = np.full_like(mean, -1.0), np.zeros_like(mean)
    for value in _before(risen, day, last, (-hour, 0, hour)):
        known = np.isfinite(value)
        others += known
        squares += np.where(known, (value - mean) ** 2, 0.0)
    spread: Floats = np.sqrt(squares / np.maximum(others, 1.0) * (1 + 1 / weeks))
    return np.where(counts >= _ENOUGH, most, np.nan), spread


def _before(risen: Floats, day: int, last: int, shifts: Sequence[int]) -> Iterator[Floats]:
    """Yield what was whole weeks and these shifts before each of the newest steps, (servers, last) each."""
    farthest = WEEKS * 7 * day + last - min(shifts)
    before = np.full((len(risen), max(farthest - risen.shape[1], 0)), np.nan)
    padded = np.concatenate([before, risen], axis=1)
    for week in range(1, WEEKS + 1):
        for shift in shifts:
            first = padded.shape[1] - last - week * 7 * day + shift
            yield padded[:, first : first + last]
