"""Waiting until a record changes: many waiters, one look at each change."""

import asyncio
import contextlib
from collections.abc import Iterator

from fallow.store.cache import Cache, Subscription


class Changed:
    """Wakes those who wait for a record of one kind. Costs nothing while nobody waits."""

    def __init__(self, cache: Cache, kind: str) -> None:
        self._cache = cache
        self._kind = kind
        self._waiters: dict[str, dict[asyncio.Event, None]] = {}  # in the order they came
        self._watching: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def watched(self, id_: str) -> Iterator[asyncio.Event]:
        """Give an event that is set at every change of a record from now on; whoever waits clears it."""
        event = asyncio.Event()
        self._waiters.setdefault(id_, {})[event] = None
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(self._cache.subscribe()), name=f"changed:{self._kind}")
        try:
            yield event
        finally:
            del self._waiters[id_][event]
            if not self._waiters[id_]:
                del self._waiters[id_]
            if not self._waiters:
                self._watching.cancel()
                self._watching = None

    async def _watch(self, subscription: Subscription) -> None:
        try:
            async for changed in subscription:
                for id_ in sorted(id_ for kind, id_ in changed if kind == self._kind and id_ in self._waiters):
                    for event in self._waiters[id_]:
                        event.set()
        finally:
            subscription.close()
