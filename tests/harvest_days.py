"""Days of usage with a shape that predictors should know, for tests."""

import numpy as np

from fallow.decide.harvest.history import Floats, History, history

DAY, HOUR = 288, 12
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
