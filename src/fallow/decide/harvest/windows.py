"""Moving windows over (servers, steps), all servers at once and blind to what was not measured."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def moving_max(values: Floats, width: int) -> Floats:
    """Return the highest of each step and the `width` - 1 before it; not-a-number where none was measured.

    Windows of doubling widths are joined: log2(width) passes instead of width.
    """
    wide, high = 1, values
    while wide < width:
        shift = min(wide, width - wide)
        high = np.fmax(high, lagged(high, shift))
        wide += shift
    return high


def moving_mean(values: Floats, width: int) -> Floats:
    """Return the mean of each step and the `width` - 1 before it; not-a-number where none was measured."""
    measured = np.isfinite(values)
    counts = _moving_sum(measured.astype(np.float64), width)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = _moving_sum(np.where(measured, values, 0.0), width) / counts
    return mean


def moving_mean_and_sd(values: Floats, width: int) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of each step and the `width` - 1 before it.

    The latter from the differences themselves: as a difference of large sums it would be off by what those round away.
    """
    mean = moving_mean(values, width)
    counts = _moving_sum(np.isfinite(values).astype(np.float64), width)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.zeros_like(mean)
        for steps in range(min(width, values.shape[1])):
            off = lagged(values, steps) - mean
            squares += np.where(np.isfinite(off), off * off, 0.0)
        return mean, np.sqrt(squares / counts)


def lagged(values: Floats, steps: int) -> Floats:
    """Return what each step's value was so many steps before; not-a-number where that is before the first."""
    if steps <= 0:
        return values
    late = np.full_like(values, np.nan)
    late[:, steps:] = values[:, : values.shape[1] - steps] if steps < values.shape[1] else late[:, steps:]
    return late


def peak_ahead(values: Floats, steps: int) -> Floats:
    """Return the highest value of the `steps` after each step; not-a-number where they are not all over yet."""
    ahead = np.full_like(values, np.nan)
    if steps < values.shape[1]:
        ahead[:, : values.shape[1] - steps] = moving_max(values, steps)[:, steps:]
    return ahead


def held(values: Floats, steps: int) -> Floats:
    """Return values with gaps of up to `steps` filled by what was measured last before them."""
    filled = values
    for _ in range(steps):
        filled = np.where(np.isfinite(filled), filled, lagged(filled, 1))
    return filled


def _moving_sum(values: Floats, width: int) -> Floats:
    total = np.cumsum(values, axis=1)
    before = np.zeros_like(total)
    if width < values.shape[1]:
        before[:, width:] = total[:, :-width]
    return total - before
