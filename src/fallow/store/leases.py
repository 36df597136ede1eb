"""Running leases and the timers that end them; what belongs to a lease is the back-end's business."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from fallow.store.contract import LeaseGone, StoreError

_log = logging.getLogger(__name__)

# How long to wait, in seconds, before trying again to end a lease when the back-end could not.
RETRY_SECONDS = 1.0


class Timer(Protocol):
    """A call that will be made later, unless cancelled."""

    def cancel(self) -> None:
        """Do not make the call."""


# Make the call in so many seconds.
CallLater = Callable[[float, Callable[[], None]], Timer]


def call_later(delay_seconds: float, callback: Callable[[], None]) -> Timer:
    """Use the running loop's monotonic clock."""
    return asyncio.get_running_loop().call_later(delay_seconds, callback)


class Leases:
    """One timer for every lease; `end` deletes a lease and its keys in the back-end."""

    def __init__(self, end: Callable[[str], Awaitable[None]], later: CallLater = call_later) -> None:
        self._end = end
        self._later = later
        self._ttls: dict[str, float] = {}
        self._timers: dict[str, Timer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def add(self, lease: str, ttl_seconds: float) -> None:
        """Start a lease's time."""
        self._ttls[lease] = ttl_seconds
        self._arm(lease, ttl_seconds)

    def require(self, lease: str) -> None:
        """Raise LeaseGone unless the lease is running."""
        if lease not in self._ttls:
            raise LeaseGone(f"lease {lease!r} has ended")

    def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises LeaseGone."""
        self.require(lease)
        self._arm(lease, self._ttls[lease])

    def remove(self, lease: str) -> None:
        """Forget a lease without ending it; no error when it is not known."""
        self._ttls.pop(lease, None)
        timer = self._timers.pop(lease, None)
        if timer is not None:
            timer.cancel()

    async def close(self) -> None:
        """Stop all timers and wait for those leases that are just being ended."""
        self._closed = True
        for lease in list(self._timers):
            self.remove(lease)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _arm(self, lease: str, seconds: float) -> None:
        timer = self._timers.pop(lease, None)
        if timer is not None:
            timer.cancel()
        if not self._closed:
            self._timers[lease] = self._later(seconds, partial(self._expire, lease))

    def _expire(self, lease: str) -> None:
        self.remove(lease)
        task = asyncio.ensure_future(self._finish(lease))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, lease: str) -> None:
        try:
            await self._end(lease)
        except StoreError as error:
            _log.warning("lease %s could not be ended, trying again: %s", lease, error)
            self._arm(lease, RETRY_SECONDS)
