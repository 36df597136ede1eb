"""The store on one machine: an SQLite file that one process owns."""

import asyncio
import fcntl
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fallow.model.control import StoreMember
from fallow.store.contract import Batch, Check, Item, StoreError, Write
from fallow.store.feed import Feed
from fallow.store.groups import GroupWriter
from fallow.store.leases import CallLater, Leases, call_later
from fallow.store.ledger import Keep, Ledger
from fallow.store.tables import connect, read_history, read_item, read_list
from fallow.store.writes import refuse_malformed, refuse_ttl

KEEP = Keep()

_T = TypeVar("_T")


class SqliteStore:
    """A `Store` in one file. Make it with `SqliteStore.open`, in the event loop that will use it."""

    shared = False
    max_operations = 100_000
    max_bytes = 256 * 1024 * 1024

    def __init__(self, files: "_Files", leases: Sequence[tuple[str, float]], later: CallLater) -> None:
        self._files = files
        ledger = files.ledger
        keep = ledger.keep
        self._feed = Feed(
            ledger.revision, ledger.compacted, keep_batches=keep.recent_commits, keep_bytes=keep.recent_bytes
        )
        self._writer = GroupWriter(ledger, self._publish)
        self._reader = ThreadPoolExecutor(1, "fallow-store-reader")
        self._leases = Leases(self._end_lease, later)
        for lease, ttl_seconds in leases:
            self._leases.add(lease, ttl_seconds)
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, keep: Keep = KEEP, later: CallLater = call_later) -> "SqliteStore":
        """Open the file at `path`, or make it; its folder must exist. Every lease's time starts anew.

        Raises StoreError when the file is in use by a store, damaged, or not ours.
        """
        files = await asyncio.to_thread(_Files.open, path, keep)
        return cls(files, files.ledger.leases(), later)

    async def get(self, key: str) -> Item | None:
        """Return the key's newest value."""
        return await self._read(lambda connection: read_item(connection, key))

    async def list(self, prefix: str) -> tuple[list[Item], int]:
        """Return everything below `prefix`, sorted by key, and the revision at which this was true."""
        return await self._read(lambda connection: read_list(connection, prefix))

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        """Do all `writes` if all `checks` hold; see `Store.commit`."""
        self._require_open()
        refuse_malformed(checks, writes)
        return await self._writer.run(lambda ledger: ledger.commit(checks, writes))

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Yield every later commit that touches `prefix`; see `Store.watch`."""
        return self._feed.follow(prefix, after, self._history)

    async def grant(self, ttl_seconds: float) -> str:
        """Return a new lease of `ttl_seconds`."""
        self._require_open()
        refuse_ttl(ttl_seconds)
        lease = secrets.token_hex(8)
        # Its time starts before it is stored: should the caller give up in between, it still ends.
        self._leases.add(lease, ttl_seconds)
        await self._writer.run(lambda ledger: ledger.grant(lease, ttl_seconds))
        return lease

    async def keep_alive(self, lease: str) -> None:
        """Start the lease's time anew, without a write. Raises LeaseGone."""
        self._require_open()
        self._leases.keep_alive(lease)

    async def revoke(self, lease: str) -> None:
        """End the lease and delete its keys."""
        self._require_open()
        await self._end_lease(lease)
        self._leases.remove(lease)

    async def members(self) -> Sequence[StoreMember]:
        """Return none: nobody else keeps it."""
        return ()

    async def compact(self, revision: int) -> None:
        """Forget changes up to `revision`."""
        self._require_open()
        await self._writer.run(lambda ledger: ledger.compact(revision))

    async def close(self) -> None:
        """Finish the commits that wait, end the watches, and release the file."""
        if self._closed:
            return
        self._closed = True
        await self._leases.close()
        await self._writer.stop()
        self._feed.close()
        await asyncio.to_thread(self._reader.shutdown)
        await asyncio.to_thread(self._files.close)

    def _require_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def _publish(self, batches: Sequence[Batch], compacted: int) -> None:
        for batch in batches:
            self._feed.publish(batch)
        self._feed.compacted = compacted

    async def _end_lease(self, lease: str) -> None:
        await self._writer.run(lambda ledger: ledger.revoke(lease))

    async def _history(self, after: int) -> Sequence[Batch]:
        return await self._read(lambda connection: read_history(connection, after))

    async def _read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        self._require_open()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, read, self._files.reading)
        except sqlite3.Error as error:
            raise StoreError(f"the database could not read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Files:
    """What a store holds open. The lock is a file beside the database, since SQLite's own locks let readers in."""

    lock: int
    writing: sqlite3.Connection
    reading: sqlite3.Connection
    ledger: Ledger

    @classmethod
    def open(cls, path: Path, keep: Keep) -> "_Files":
        path = path.resolve()
        lock = _lock(path)
        opened: list[sqlite3.Connection] = []
        try:
            opened.append(connect(path))
            opened.append(connect(path))
            ledger = Ledger(opened[0], keep)
            _sync_folder(path.parent)
        except BaseException as error:
            for connection in opened:
                connection.close()
            os.close(lock)
            if isinstance(error, sqlite3.Error | OSError):
                raise StoreError(f"cannot open {path}: {error}") from error
            raise
        return cls(lock, opened[0], opened[1], ledger)

    def close(self) -> None:
        self.reading.close()
        self.writing.close()  # the last connection moves the log into the file
        os.close(self.lock)


def _lock(path: Path) -> int:
    """Take the file for this process; the kernel gives it back when the process ends, however it ends."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite would let others read it
        for end in ("", "-wal", "-shm", ".lock"):
            kept = Path(f"{path}{end}")
            if kept.exists():
                kept.chmod(0o600)  # one that was copied here may be open to others
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreError(f"{path} is in use by process {holder}: only one process can use a store file") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` as durable as what is in them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
