"""The SQLite file: its layout, how it is opened, and everything that only reads it.

    items    every key's newest value
    changes  one row a commit: its writes, packed, so that a commit appends a single row to its history
    leases   leases and how long they last
    state    counters: `revision`, and `compacted`, the newest revision whose changes are forgotten

Keys are compared as SQLite compares text, byte by byte in UTF-8, which is also Python's order of `str`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fallow.store.contract import Batch, Change, Compacted, Item, StoreError

BUSY_TIMEOUT_SECONDS = 5.0  # a person may look into the file, or copy it, while it is in use
HISTORY_PAGE_BYTES = 4 * 1024 * 1024
HISTORY_PAGE_COMMITS = 1000

APPLICATION_ID = 0x66616C77  # "falw", so that another program's database is not taken for ours
LAYOUT_VERSION = 1  # of these tables; what the values in them look like is none of their business

# Both numbers stand at its end.
_LAYOUT = """
BEGIN IMMEDIATE;
CREATE TABLE items (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, created_revision INTEGER NOT NULL,
    lease TEXT NOT NULL
);
CREATE INDEX items_by_lease ON items (lease) WHERE lease <> '';
CREATE TABLE changes (revision INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE leases (id TEXT PRIMARY KEY, ttl_seconds REAL NOT NULL);
CREATE TABLE state (name TEXT PRIMARY KEY, number INTEGER NOT NULL);
INSERT INTO state VALUES ('revision', 0), ('compacted', 0);
PRAGMA application_id = 0x66616C77;
PRAGMA user_version = 1;
COMMIT;
"""

# key, value (None: deleted), created revision, lease
_Row = tuple[str, bytes | None, int, str]
_rows: msgspec.msgpack.Decoder[list[_Row]] = msgspec.msgpack.Decoder(list[_Row])
_packer = msgspec.msgpack.Encoder()


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for one thread's use. Raises StoreError when it is not a store of ours."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # FULL: the log is synced before a commit returns. NORMAL would lose the last commits in a power cut.
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError(f"cannot keep a write-ahead log beside {path}: its file system lacks shared memory")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            _require_layout(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StoreError(f"cannot open {path}: {error}") from error
    return connection


def _require_layout(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        connection.executescript(_LAYOUT)
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != LAYOUT_VERSION:
        raise StoreError(f"{path} has tables of layout {version}; this program knows layout {LAYOUT_VERSION}")


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold one consistent picture of the file for several reads."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def read_number(connection: sqlite3.Connection, name: str) -> int:
    """Return a counter of `state`."""
    return int(connection.execute("SELECT number FROM state WHERE name = ?", (name,)).fetchone()[0])


def read_item(connection: sqlite3.Connection, key: str) -> Item | None:
    """Return a key's newest value."""
    row = connection.execute(
        "SELECT key, value, revision, created_revision, lease FROM items WHERE key = ?", (key,)
    ).fetchone()
    return Item(*row) if row else None


def read_list(connection: sqlite3.Connection, prefix: str) -> tuple[list[Item], int]:
    """Return all items below `prefix` by key, and the revision."""
    with reading(connection):
        # The byte FF is in no UTF-8 text, so it is above whatever follows the prefix.
        cursor = connection.execute(
            "SELECT key, value, revision, created_revision, lease FROM items"
            " WHERE key >= ? AND key < CAST(? AS TEXT) ORDER BY key",
            (prefix, prefix.encode() + b"\xff"),
        )
        return [Item(*row) for row in cursor], read_number(connection, "revision")


def read_history(connection: sqlite3.Connection, after: int) -> list[Batch]:
    """Return the next commits after `after`, at most a page of them. Raises Compacted."""
    with reading(connection):
        compacted = read_number(connection, "compacted")
        if after < compacted:
            raise Compacted(compacted + 1)
        batches: list[Batch] = []
        size = 0
        for revision, packed in connection.execute(
            "SELECT revision, packed FROM changes WHERE revision > ? ORDER BY revision LIMIT ?",
            (after, HISTORY_PAGE_COMMITS),
        ):
            batches.append(unpack(revision, packed))
            size += len(packed)
            if size >= HISTORY_PAGE_BYTES:
                break
        return batches


def pack(batch: Batch) -> bytes:
    """Return a commit as its row in `changes` holds it."""
    rows: list[_Row] = [
        (change.key, item.value, item.created_revision, item.lease)
        if (item := change.item)
        else (change.key, None, 0, "")
        for change in batch.changes
    ]
    return _packer.encode(rows)


def unpack(revision: int, packed: bytes) -> Batch:
    """Return the commit that `pack` made a row of."""
    return Batch(
        revision,
        tuple(
            Change(key, None if value is None else Item(key, value, revision, created, lease))
            for key, value, created, lease in _rows.decode(packed)
        ),
    )
