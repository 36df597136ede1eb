"""The offer: what all containers on a server may ask for together.

An offer that falls below what is placed sends nothing away: placement refuses more (what is placed + the request <=
offer), sizes of virtual machines are clamped to what is placed where they are decided, and only a relief evicts.
"""

# From nothing to all of a server. Processors: a burst of seconds that comes again each minute is suppressed, and is no
# reason to lend nothing in between. Memory cannot be taken back that quickly.
CPU_RISE_SECONDS = 60.0
MEMORY_RISE_SECONDS = 600.0


def offered(capacity: float, threshold: float, expected: float, reserve: float) -> float:
    """Return capacity x threshold - the expected peak of what is not lent - reserve, never below nothing."""
    return max(0.0, capacity * threshold - expected - reserve)


def smoothed(before: float, now: float, capacity: float, seconds: float, rise_seconds: float) -> float:
    """Return what is offered `seconds` after `before` was: it falls at once, and rises slowly.

    `rise_seconds`: so long it takes from nothing to all of the capacity.
    """
    if now <= before:
        return now
    return min(now, before + capacity * max(0.0, seconds) / rise_seconds)
