"""The newest records of every kind, in memory, always as they were at one revision."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import fields
from types import MappingProxyType
from typing import Any, cast

import msgspec

from fallow.decide.snapshot import Snapshot
from fallow.model.kinds import KINDS
from fallow.model.meta import Record
from fallow.store.contract import Batch, Compacted, Item, Store, StoreError
from fallow.store.indexes import MOVED_INDEXES, carry, move

_log = logging.getLogger(__name__)

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 5.0

_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(type_) for kind, type_ in KINDS.items()
}

# Kinds that decisions see, by the field of Snapshot that holds them.
_SNAPSHOT_FIELDS = {field.name: kind for field in fields(Snapshot) if (kind := field.name.replace("_", "-")) in KINDS}

_FIELD_OF = {kind: name for name, kind in _SNAPSHOT_FIELDS.items()}


def decode_item(item: Item) -> Record:
    """Return the record an item holds, of the kind its key names, with the item's revision.

    Raises StoreError when the key names no kind or the value is no record of it.
    """
    kind, _, _ = item.key.partition("/")
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise StoreError(f"{item.key} is not a record: there is no kind {kind!r}")
    try:
        record = cast(Record, decoder.decode(item.value))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{item.key} cannot be read: {error}") from error
    msgspec.structs.force_setattr(record, "revision", item.revision)
    return record


class Subscription:
    """What changed since it was last read, for one reader; at most one entry for every record, however slow it is."""

    def __init__(self, cache: "Cache") -> None:
        self._cache = cache
        self._changed: set[tuple[str, str]] = set()
        self._news = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> frozenset[tuple[str, str]]:
        """Wait for a change and return (kind, id) of everything changed since the last read."""
        if not self._changed and not self._closed:
            await self._news.wait()
        if not self._changed:
            raise StopAsyncIteration
        changed = frozenset(self._changed)
        self._changed.clear()
        if not self._closed:
            self._news.clear()
        return changed

    def close(self) -> None:
        """End the iteration, once what has been noted is read."""
        self._closed = True
        self._news.set()
        self._cache.forget(self)

    def note(self, changed: Iterable[tuple[str, str]]) -> None:
        """Remember changes; the cache calls it."""
        self._changed.update(changed)
        self._news.set()


class Cache:
    """Follows a store: lists it once, then watches it from there on.

    Whatever happens to the watch, it lists again, takes over what differs and goes on; meanwhile it answers with what
    it has. Belongs to the event loop that started it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.revision = 0
        self._records: dict[str, dict[str, Record]] = {kind: {} for kind in KINDS}
        self._snapshot = Snapshot()
        self._stale: dict[str, set[str]] = {}  # field of the snapshot -> ids that changed since it was built
        self._subscriptions: dict[Subscription, None] = {}  # in the order they came
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything, then follow. Raises StoreError when the store cannot be read."""
        await self._relist()
        self._task = asyncio.create_task(self._follow_forever(), name="cache")

    async def stop(self) -> None:
        """Follow no longer; subscriptions end, and those who wait for a revision get a StoreError."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        for subscription in list(self._subscriptions):
            subscription.close()
        for _, future in self._waiters:
            if not future.done():
                future.set_exception(StoreError("the cache has stopped"))
        self._waiters.clear()

    def snapshot(self) -> Snapshot:
        """Return the newest picture for decisions: the same object until one of its kinds changes.

        It was so at its revision and is so still, though the cache may have seen later commits that it does not show.
        """
        if self._stale:
            before = self._snapshot
            pictures: dict[str, Any] = {
                name: self._records[kind].copy() if name in self._stale else getattr(before, name)
                for name, kind in _SNAPSHOT_FIELDS.items()
            }
            self._snapshot = Snapshot(revision=self.revision, **pictures)
            carry(before, self._snapshot, self._stale)
            for name in MOVED_INDEXES:
                self._move(name, before, self._snapshot, self._stale.get(name, ()))
            self._stale = {}
        return self._snapshot

    def get(self, kind: str, id_: str) -> Record | None:
        """Return one record. Raises KeyError for a kind there is not."""
        return self._records[kind].get(id_)

    async def latest(self, kind: str, id_: str) -> Record | None:
        """Return one record; if it is not here yet, look whether another process has just stored it.

        Raises StoreError when the store cannot be read.
        """
        if (found := self.get(kind, id_)) is None and self._store.shared:
            item = await self._store.get(f"{kind}/{id_}")
            if item is not None:
                await self.wait(item.revision)
                found = self.get(kind, id_)
        return found

    def records(self, kind: str) -> Mapping[str, Record]:
        """Return a kind's records by id: a view that changes with the cache, so do not keep it over an `await`."""
        return MappingProxyType(self._records[kind])

    async def wait(self, revision: int) -> None:
        """Return as soon as the cache has seen `revision`. Raises StoreError when it stops before."""
        if revision <= self.revision:
            return
        if self._task is None:
            raise StoreError("the cache has stopped")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((revision, future))
        await future

    def subscribe(self) -> Subscription:
        """Return an iterator over what changes from now on; close it when done."""
        subscription = Subscription(self)
        self._subscriptions[subscription] = None
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Notify a subscription no more; closing it does this."""
        self._subscriptions.pop(subscription, None)

    async def _follow_forever(self) -> None:
        delay, listed = RETRY_SECONDS, True
        while True:
            try:
                if not listed:
                    await self._relist()
                    delay, listed = RETRY_SECONDS, True
                async with aclosing(self._store.watch("", self.revision)) as batches:  # type: ignore[type-var]
                    async for batch in batches:
                        self._take(batch)
                raise StoreError("the watch ended")
            except Compacted:
                _log.info("fell behind what the store keeps of its changes at revision %d; listing", self.revision)
                listed = False
            except Exception as error:  # noqa: BLE001 - a cache that stopped following would mislead everyone
                _log.warning("lost the store at revision %d, listing in %.1f s: %s", self.revision, delay, error)
                listed = False
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_RETRY_SECONDS)

    async def _relist(self) -> None:
        items, revision = await self._store.list("")
        found: dict[str, dict[str, Record]] = {kind: {} for kind in KINDS}
        changed: list[tuple[str, str]] = []
        for item in items:
            kind, _, id_ = item.key.partition("/")
            if kind not in KINDS:
                continue
            known = self._records[kind].get(id_)
            if known is None or known.revision != item.revision:
                known = decode_item(item)
                changed.append((kind, id_))
            found[kind][id_] = known
        changed += [(kind, id_) for kind, known in self._records.items() for id_ in known if id_ not in found[kind]]
        self._records = found
        self._advance(revision, changed)

    def _take(self, batch: Batch) -> None:
        # All of it is decoded before any of it is shown: a commit is seen whole or not at all.
        decoded: list[tuple[str, str, Record | None]] = []
        for change in batch.changes:
            kind, _, id_ = change.key.partition("/")
            if kind in KINDS:
                decoded.append((kind, id_, decode_item(change.item) if change.item else None))
        for kind, id_, record in decoded:
            if record is None:
                self._records[kind].pop(id_, None)
            else:
                self._records[kind][id_] = record
        self._advance(batch.revision, [(kind, id_) for kind, id_, _ in decoded])

    @staticmethod
    def _move(field: str, before: Snapshot, after: Snapshot, ids: Iterable[str]) -> None:
        """Carry over the indexes of a field, with what changed put right."""
        old, new = getattr(before, field), getattr(after, field)
        moved = [(old.get(id_), new.get(id_)) for id_ in sorted(ids)]
        for name, key_of in MOVED_INDEXES[field].items():
            if moved and name in vars(before):
                index = vars(before)[name].copy()
                move(index, moved, key_of)
                vars(after)[name] = index

    def _advance(self, revision: int, changed: list[tuple[str, str]]) -> None:
        self.revision = revision
        for kind, id_ in changed:
            if kind in _FIELD_OF:
                self._stale.setdefault(_FIELD_OF[kind], set()).add(id_)
        if changed:
            for subscription in self._subscriptions:
                subscription.note(changed)
        waiting = []
        for wanted, future in self._waiters:
            if future.done():
                continue
            if wanted <= revision:
                future.set_result(None)
            else:
                waiting.append((wanted, future))
        self._waiters = waiting
