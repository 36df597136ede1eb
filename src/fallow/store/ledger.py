"""Everything that writes the SQLite file; used by one thread, the writer's, inside transactions it opens and closes."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fallow.store.contract import Batch, Change, Check, Conflict, Item, LeaseGone, Put, Write
from fallow.store.tables import pack, read_number

_UPSERT = (
    "INSERT INTO items (key, value, revision, created_revision, lease) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision, lease = excluded.lease"
    " RETURNING created_revision"
)


@dataclass(frozen=True, slots=True)
class Keep:
    """How much history to keep.

    In the file, more than `commits` or `bytes` is trimmed, a tenth of it at a time. What watches read from memory is
    bounded by `recent_commits` and `recent_bytes`; those further behind read the file.
    """

    commits: int = 100_000
    bytes: int = 256 * 1024 * 1024
    recent_commits: int = 4096
    recent_bytes: int = 32 * 1024 * 1024


class Ledger:
    """The writing side of a store's file."""

    def __init__(self, connection: sqlite3.Connection, keep: Keep) -> None:
        self._connection = connection
        self.keep = keep
        self.revision = read_number(connection, "revision")
        self.compacted = read_number(connection, "compacted")
        self._history_bytes = self._measure()
        self._batches: list[Batch] = []

    def leases(self) -> list[tuple[str, float]]:
        """Return every lease and its seconds to live."""
        return self._connection.execute("SELECT id, ttl_seconds FROM leases").fetchall()

    @contextmanager
    def transaction(self) -> Iterator[list[Batch]]:
        """Make everything inside durable at once; yields the list that fills with the commits made.

        When anything fails, nothing of it has happened, in the file or in this object.
        """
        self._batches = []
        self._connection.execute("BEGIN IMMEDIATE")
        before = self.revision, self.compacted, self._history_bytes
        try:
            yield self._batches
            self._trim()
            if self.revision != before[0]:
                self._connection.execute("UPDATE state SET number = ? WHERE name = 'revision'", (self.revision,))
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self.revision, self.compacted, self._history_bytes = before
            raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo only what is inside when it fails, and keep the rest of the transaction."""
        self._connection.execute("SAVEPOINT one")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO one")
                self._connection.execute("RELEASE one")
            raise
        self._connection.execute("RELEASE one")

    def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        """Do all `writes` at the next revision if all `checks` hold. Raises Conflict or LeaseGone, before any write."""
        differ = dict.fromkeys(check.key for check in checks if self._revision_of(check.key) != check.revision)
        if differ:
            raise Conflict(list(differ))
        for lease in {write.lease for write in writes if isinstance(write, Put) and write.lease}:
            if self._connection.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is None:
                raise LeaseGone(f"lease {lease!r} has ended")
        return self._write(writes)

    def grant(self, lease: str, ttl_seconds: float) -> None:
        """Store a lease."""
        self._connection.execute("INSERT INTO leases VALUES (?, ?)", (lease, ttl_seconds))

    def revoke(self, lease: str) -> None:
        """Delete a lease and, at one revision, its keys."""
        deleted = self._connection.execute(
            "DELETE FROM items WHERE lease = ? AND lease <> '' RETURNING key", (lease,)
        ).fetchall()
        self._connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
        self._record([Change(key, None) for (key,) in sorted(deleted)])

    def compact(self, revision: int) -> None:
        """Forget changes up to `revision`."""
        upto = min(revision, self.revision)
        if upto <= self.compacted:
            return
        self._connection.execute("DELETE FROM changes WHERE revision <= ?", (upto,))
        self._connection.execute("UPDATE state SET number = ? WHERE name = 'compacted'", (upto,))
        self.compacted = upto
        self._history_bytes = self._measure()

    def _measure(self) -> int:
        return int(self._connection.execute("SELECT coalesce(sum(length(packed)), 0) FROM changes").fetchone()[0])

    def _revision_of(self, key: str) -> int:
        row = self._connection.execute("SELECT revision FROM items WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def _write(self, writes: Sequence[Write]) -> int:
        revision = self.revision + 1
        changes: list[Change] = []
        for write in writes:
            if isinstance(write, Put):
                values = (write.key, write.value, revision, revision, write.lease)
                (created,) = self._connection.execute(_UPSERT, values).fetchone()
                changes.append(Change(write.key, Item(write.key, write.value, revision, created, write.lease)))
            elif self._connection.execute("DELETE FROM items WHERE key = ?", (write.key,)).rowcount:
                changes.append(Change(write.key, None))
        self._record(changes)
        return self.revision

    def _record(self, changes: list[Change]) -> None:
        if not changes:
            return
        batch = Batch(self.revision + 1, tuple(changes))
        packed = pack(batch)
        self._connection.execute("INSERT INTO changes VALUES (?, ?)", (batch.revision, packed))
        # Only now, when no statement of this commit can fail any more.
        self.revision = batch.revision
        self._history_bytes += len(packed)
        self._batches.append(batch)

    def _trim(self) -> None:
        excess = self.revision - self.compacted - self.keep.commits
        excess_bytes = self._history_bytes - self.keep.bytes
        if excess <= self.keep.commits // 10 and excess_bytes <= self.keep.bytes // 10:
            return
        upto = self.compacted
        for revision, size in self._connection.execute(
            "SELECT revision, length(packed) FROM changes ORDER BY revision"
        ):
            if (excess <= 0 and excess_bytes <= 0) or revision == self.revision:
                break
            upto, excess, excess_bytes = revision, excess - 1, excess_bytes - size
        self.compact(upto)
