"""The newest commits, held in memory once and read by any number of watches.

A watch is no more than a position, so a slow one costs nothing: when it has fallen behind what memory holds, it reads
the back-end's history until it has caught up. Revisions have no holes, so a position tells exactly what comes next.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from fallow.store.contract import Batch, Compacted, StoreError

# Commits after a revision, the next one first, at least one. Raises Compacted.
History = Callable[[int], Awaitable[Sequence[Batch]]]


class Feed:
    """Commits in order; bounded by their number and by the bytes of their keys and values."""

    def __init__(self, newest: int, compacted: int, *, keep_batches: int, keep_bytes: int) -> None:
        self.newest = newest
        self.compacted = compacted
        self._keep_batches = keep_batches
        self._keep_bytes = keep_bytes
        self._recent: dict[int, Batch] = {}
        self._bytes = 0
        self._closed = False
        self._news = asyncio.Event()

    @property
    def oldest(self) -> int:
        """Return the oldest revision held; one more than the newest when none is."""
        return self.newest - len(self._recent) + 1

    def publish(self, batch: Batch) -> None:
        """Add the commit that follows the newest one, and wake every watch."""
        assert batch.revision == self.newest + 1, "revisions have no holes"
        self._recent[batch.revision] = batch
        self.newest = batch.revision
        self._bytes += _size(batch)
        while len(self._recent) > self._keep_batches or (self._bytes > self._keep_bytes and len(self._recent) > 1):
            self._bytes -= _size(self._recent.pop(self.oldest))
        self._wake()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake()

    async def follow(self, prefix: str, after: int, history: History) -> AsyncIterator[Batch]:
        """Yield every commit after `after` that touches `prefix`, as `Store.watch` promises."""
        if self._closed:
            raise StoreError("the store is closed")
        if after < self.compacted:
            raise Compacted(self.compacted + 1)
        position = after
        while not self._closed:
            if position >= self.newest:
                await self._news.wait()
                continue
            if position + 1 >= self.oldest:
                batches: Sequence[Batch] = (self._recent[position + 1],)
            else:
                batches = await history(position)
            for batch in batches:
                position = batch.revision
                found = _below(prefix, batch)
                if found is not None:
                    yield found

    def _wake(self) -> None:
        # A fresh event for those who wait next: nobody has to clear this one at the right moment.
        self._news.set()
        self._news = asyncio.Event()


def _size(batch: Batch) -> int:
    return sum(len(change.key) + (len(change.item.value) if change.item else 0) for change in batch.changes)


def _below(prefix: str, batch: Batch) -> Batch | None:
    changes = tuple(change for change in batch.changes if change.key.startswith(prefix))
    if len(changes) == len(batch.changes):
        return batch
    return Batch(batch.revision, changes) if changes else None
