"""Days of usage with a shape that predictors should know, for tests."""

import numpy as np

from fallow.decide.harvest.history import Floats, History, history

DAY, HOUR = 288, 12
WEEK = 7 * DAY
MONDAY = 4 * 86_400  # 1970-01-05, UTC
NOON = 1_700_000_000 // 86_400 * 86_400 + 43_200  # any day's noon, UTC


def constant(value: float, days: float = 8, servers: int = 1) -> History:
    """So many servers that always use the same."""
    return history(np.full((servers, int(days * DAY)), value), float(NOON))


def nightly(days: int, burst: float = 0.8, quiet: float = 0.1) -> Floats:
    """(1, steps): quiet, but for two hours from midnight on; the first step is midnight."""
    step = np.arange(days * DAY) % DAY
    return np.where(step < 2 * HOUR, burst, quiet)[None]


def noise(steps: int, seed: int, servers: int = 1) -> Floats:
    """(servers, steps) of anything in 0..1, the same for the same seed."""
    return np.random.default_rng(seed).random((servers, steps))


def office(days: int, changed: dict[int, float] | None = None, earlier: int | None = None, servers: int = 4) -> Floats:
    """(servers, steps): 10 %, and 60 % and some noise from 8 to 18 on all days but weekends; the first is a Monday.

    `changed` says of some days, from 0 on, how busy they are, 0 to 1; from the day `earlier` on all is an hour earlier.
    """
    busy = np.array([1.0 if day % 7 < 5 else 0.0 for day in range(days)])
    for day, share in (changed or {}).items():
        busy[day] = share
    step = np.arange(days * DAY)
    late = np.where(step // DAY >= (days if earlier is None else earlier), HOUR, 0)
    open_ = (step % DAY + late >= 8 * HOUR) & (step % DAY + late < 18 * HOUR)
    chance = np.random.default_rng(7)
    height = 0.5 * chance.uniform(0.9, 1.1, (servers, days)) * busy
    return 0.1 + np.repeat(height, DAY, axis=1) * open_ + 0.02 * chance.random((servers, days * DAY))
