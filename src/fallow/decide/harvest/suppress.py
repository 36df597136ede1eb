"""The limit: what is lent may use now. Shrunk at once, grown slowly, as Koordinator's suppression does it."""

GROW_SHARE = 0.10  # of all processors, a second at most
IGNORED_SHARE = 0.01  # of all processors: growing by less is not worth a write
FLOOR_CPUS = 0.05  # so that what is lent stays alive: it answers, drains and says that it stops
SURE_CPUS = 0.1  # a limit up to this is too small to harm anybody, and what has no more should really get it
SURE_SECONDS = 10.0  # so long what was starved has a sure limit, before it is tried again with more
STARVED_WAITS = 0.5  # of the time


def wanted_cpus(capacity: float, ceiling: float, own: float, reserve: float) -> float:
    """Return capacity x ceiling - what is not lent - reserve, never below nothing."""
    return max(0.0, capacity * ceiling - own - reserve)


def next_limit(before: float, wanted: float, capacity: float, seconds: float) -> float:
    """Return the limit `seconds` after `before`: never above what is wanted, but for the floor.

    It grows by at most GROW_SHARE of the processors a second, and not more for a longer silence.
    """
    target = min(capacity, max(FLOOR_CPUS, wanted))
    if target <= before:
        return target
    if target - before < IGNORED_SHARE * capacity:
        return max(FLOOR_CPUS, before)
    step = GROW_SHARE * capacity * min(1.0, max(0.0, seconds))
    return min(target, max(FLOOR_CPUS, before) + step)


def starved(limit: float, lent: float, waiting: float) -> bool:
    """Say whether others keep what is lent from even a sure limit, because above that it has the lowest weight."""
    return limit > SURE_CPUS and lent < SURE_CPUS and waiting >= STARVED_WAITS


def wanted_memory(capacity: int, ceiling: float, own: int, reserve: int) -> int:
    """Return the bytes that what is lent may have: capacity x ceiling - what is not lent - reserve."""
    return max(0, int(capacity * ceiling) - own - reserve)
