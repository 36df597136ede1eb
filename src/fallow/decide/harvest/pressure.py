"""When primaries wait more than is usual for them although there seems to be room, what is lent shrinks.

For processors, disks and memory alike, each with a state of its own.

What is usual is learned: a high quantile of their waiting, for each fifth of the processors that they use, since a busy
application waits for itself. It rises only while (almost) nothing is lent, so that waiting which is our doing never
becomes usual; an application that always waits is found out by what is lent shrinking until it proves innocent.
"""

from dataclasses import dataclass, replace

BANDS = 5
QUANTILE = 0.95
LEARN_STEP = 0.02  # a second; the quantile is followed by stochastic approximation
FALL_STEP = 0.002  # a second, while something is lent
MARGIN = 0.05  # above the usual, that is still taken for chance
FACTOR = 1.5
AFTER_SECONDS = 1.5  # of too much waiting; AT_ONCE of it counts immediately
AT_ONCE = 0.5
CUT = 0.5  # what is left of the limit after a second of too much waiting
RECOVER = 0.10  # of the whole, a second of calm
PRIOR = 0.25  # times how busy it is: so much an application is taken to wait for itself before more is known of it
IDLE_SHARE = 0.02  # of the processors: using less, what is lent cannot be why primaries wait
FLOOR_SLACK = 1.5  # a quota is overrun by as much now and then
LEAST = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Pressure:
    """`usual`: waiting by how busy the primaries are; `allowed`: the share of the wanted limit that may be used."""

    usual: tuple[float, ...] = tuple(PRIOR * (row + 0.5) / BANDS for row in range(BANDS))
    high_seconds: float = 0.0
    allowed: float = 1.0


def band(busy: float) -> int:
    """Return the row of `usual` for primaries that use the share `busy` of all processors."""
    return min(BANDS - 1, max(0, int(busy * BANDS)))


def line(pressure: Pressure, busy: float) -> float:
    """Return the waiting above which it is more than usual."""
    return min(1.0, pressure.usual[band(busy)] * FACTOR + MARGIN)


def felt(
    pressure: Pressure, *, waiting: float, busy: float, lent: float, seconds: float, idle: float = IDLE_SHARE
) -> Pressure:
    """Return the state after `seconds` of this waiting. `busy` and `lent` are shares of all there is in use.

    Using no more than the share `idle`, what is lent cannot prove its innocence any better.
    """
    seconds = min(5.0, max(0.0, seconds))
    above = line(pressure, busy)
    innocent = lent <= idle
    learned = replace(pressure, usual=_learned(pressure.usual, band(busy), waiting, seconds, innocent))
    if waiting <= above or innocent:
        allowed = min(1.0, pressure.allowed + RECOVER * seconds) if waiting <= above else pressure.allowed
        return replace(learned, high_seconds=0.0, allowed=allowed)
    high = pressure.high_seconds + seconds
    if high < AFTER_SECONDS and waiting - above < AT_ONCE:
        return replace(learned, high_seconds=high)
    return replace(learned, high_seconds=high, allowed=max(LEAST, pressure.allowed * CUT**seconds))


def _learned(usual: tuple[float, ...], row: int, waiting: float, seconds: float, idle: bool) -> tuple[float, ...]:
    before = usual[row]
    if waiting > before:
        after = min(waiting, before + LEARN_STEP * QUANTILE * seconds) if idle else before
    else:
        step = LEARN_STEP * (1 - QUANTILE) if idle else FALL_STEP * (1 - QUANTILE)
        after = max(waiting, before - step * seconds)
    return (*usual[:row], after, *usual[row + 1 :])
