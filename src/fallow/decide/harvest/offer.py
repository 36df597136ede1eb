"""The offer: what all containers on a server may ask for together.

An offer that falls below what is placed sends nothing away: placement refuses more (what is placed + the request <=
offer), sizes of virtual machines are clamped to what is placed where they are decided, and only a relief evicts.
"""

RISE_SECONDS = 600.0  # from nothing to all of a server


def offered(capacity: float, threshold: float, expected: float, reserve: float) -> float:
    """Return capacity x threshold - the expected peak of what is not lent - reserve, never below nothing."""
    return max(0.0, capacity * threshold - expected - reserve)


def smoothed(before: float, now: float, capacity: float, seconds: float) -> float:
    """Return what is offered `seconds` after `before` was: it falls at once, and rises slowly."""
    if now <= before:
        return now
    return min(now, before + capacity * max(0.0, seconds) / RISE_SECONDS)
