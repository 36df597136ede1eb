"""The store in memory: for tests and for trying things out. Nothing survives the process."""

import secrets
from collections.abc import AsyncIterator, Sequence

from fallow.model.control import StoreMember
from fallow.store.contract import Batch, Change, Check, Compacted, Conflict, Delete, Item, Put, StoreError, Write
from fallow.store.feed import Feed
from fallow.store.leases import CallLater, Leases, call_later
from fallow.store.writes import refuse_malformed, refuse_ttl

# What watches may go back to: the oldest commits are forgotten beyond this.
KEEP_COMMITS = 100_000
KEEP_BYTES = 256 * 1024 * 1024


class MemoryStore:
    """A `Store` whose every operation happens at once, in the event loop that uses it."""

    shared = False
    max_operations = 100_000
    max_bytes = 256 * 1024 * 1024

    def __init__(self, *, keep_commits: int = KEEP_COMMITS, later: CallLater = call_later) -> None:
        self._items: dict[str, Item] = {}
        self._feed = Feed(0, 0, keep_batches=keep_commits, keep_bytes=KEEP_BYTES)
        self._leases = Leases(self.revoke, later)
        self._closed = False

    async def get(self, key: str) -> Item | None:
        """Return the key's newest value."""
        self._require_open()
        return self._items.get(key)

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        """Return everything below `prefix`, sorted by key, and the revision at which this was true."""
        self._require_open()
        keys = sorted(key for key in self._items if key.startswith(prefix))
        return [self._items[key] for key in keys], self._feed.newest

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        """Do all `writes` if all `checks` hold; see `Store.commit`."""
        self._require_open()
        refuse_malformed(checks, writes)
        differ = dict.fromkeys(check.key for check in checks if self._revision_of(check.key) != check.revision)
        if differ:
            raise Conflict(list(differ))
        for write in writes:
            if isinstance(write, Put) and write.lease:
                self._leases.require(write.lease)
        return self._write(writes)

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Yield every later commit that touches `prefix`; see `Store.watch`."""
        return self._feed.follow(prefix, after, self._history)

    async def grant(self, ttl_seconds: float) -> str:
        """Return a new lease of `ttl_seconds`."""
        self._require_open()
        refuse_ttl(ttl_seconds)
        lease = secrets.token_hex(8)
        self._leases.add(lease, ttl_seconds)
        return lease

    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew. Raises LeaseGone."""
        self._require_open()
        self._leases.keep_alive(lease)

    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys."""
        self._require_open()
        self._leases.remove(lease)
        self._write([Delete(key) for key in sorted(self._items) if lease and self._items[key].lease == lease])

    async def members(self) -> Sequence[StoreMember]:
        """Return none: nobody else keeps it."""
        return ()

    async def compact(self, revision: int) -> None:
        """Forget changes up to `revision`."""
        self._require_open()
        self._feed.compacted = max(self._feed.compacted, min(revision, self._feed.newest))

    async def close(self) -> None:
        """End the watches and forget everything."""
        if not self._closed:
            await self._leases.close()
            self._closed = True
            self._feed.close()
            self._items.clear()

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _revision_of(self, key: str) -> int:
        item = self._items.get(key)
        return item.revision if item else 0

    def _write(self, writes: Sequence[Write]) -> int:
        revision = self._feed.newest + 1
        changes = [
            self._change(write, revision) for write in writes if isinstance(write, Put) or write.key in self._items
        ]
        if not changes:
            return self._feed.newest
        self._feed.publish(Batch(revision, tuple(changes)))
        return revision

    def _change(self, write: Write, revision: int) -> Change:
        if isinstance(write, Delete):
            del self._items[write.key]
            return Change(write.key, None)
        before = self._items.get(write.key)
        created = before.created_revision if before else revision
        item = Item(write.key, write.value, revision, created, write.lease)
        self._items[write.key] = item
        return Change(write.key, item)

    async def _history(self, _after: int) -> Sequence[Batch]:
        raise Compacted(self._feed.oldest)
