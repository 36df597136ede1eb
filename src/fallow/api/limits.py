"""How often one source may ask, and how many long streams there may be."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fallow.control.door import source_key

MAX_SOURCES = 10_000


class RateLimit:
    """A token bucket for each source address: `burst` at once, then `per_second`.

    Bounded: when MAX_SOURCES are known, the one that has been quiet for longest is forgotten.
    """

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # source -> tokens left, when

    def take(self, source: str) -> float:
        """Take one token and return 0; with none left, return the seconds until there is one."""
        key, now = source_key(source), self._clock()
        left, since = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second


class Limits:
    """Every limit of one API; the defaults suit a fleet that joins at once from behind one address.

    `failures` counts wrong credentials of any kind, `joins` every refused call of /v1/join and /v1/renew, `scrapes`
    calls of /metrics, which takes a while, and `anybody` calls of everything else that needs no credential.
    """

    def __init__(
        self,
        failures: RateLimit | None = None,
        joins: RateLimit | None = None,
        scrapes: RateLimit | None = None,
        anybody: RateLimit | None = None,
        max_streams: int = 500,
    ) -> None:
        self.failures = failures or RateLimit(burst=20, per_second=0.2)
        self.joins = joins or RateLimit(burst=200, per_second=20)
        self.scrapes = scrapes or RateLimit(burst=30, per_second=5)
        self.anybody = anybody or RateLimit(burst=5000, per_second=500)
        self._max_streams = max_streams
        self.streams = 0

    @property
    def full(self) -> bool:
        """Say whether as many streams are open as may be."""
        return self.streams >= self._max_streams

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a watch or log stream while it is open."""
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1


def retry_after(seconds: float) -> str:
    """Return the value of a Retry-After header: whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))
