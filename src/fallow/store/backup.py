"""All that a store holds, as one file; and filling a store from it, so that a half filled one is not taken for whole.

A file begins with `fallow-backup 1` and a line end. Then comes what was stored as one MessagePack value, and at the end
the SHA-256 of all before it. Keys that belong to a lease are left out: they say who was there at the time.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fallow.model.kinds import KINDS, SCHEMA_KEY, SCHEMA_VERSION
from fallow.store.cache import decode_item
from fallow.store.contract import Check, Conflict, Delete, Item, Put, Store, StoreError, Write
from fallow.store.open import open_unchecked, read_store, refuse_schema
from fallow.store.upgrade import UNFINISHED

_MAGIC = b"fallow-backup 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size

PORTION_WRITES = 500
PORTION_BYTES = 512 * 1024

# Called with how many writes are done, and of how many.
Progress = Callable[[int, int], None]


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What a store held at `revision`; `items` are keys and values in the order of their last change."""

    schema: str
    revision: int
    items: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """How many records there were, at which revision of the store they come from."""

    records: int
    revision: int


async def read_backup_of(url: str) -> Backup:
    """Return what a store holds; a control plane may be using it. Raises ValueError and StoreError."""
    items, revision = await read_store(url)
    for item in items:
        if item.key.partition("/")[0] in KINDS:
            decode_item(item)  # what cannot be read should be found now, and not when it is needed
    # The revisions of another store are others, but their order tells which records are the oldest: of two that are
    # not filled in together, at least.
    kept = sorted((item for item in items if not item.lease), key=lambda item: item.revision)
    return Backup(
        schema=str(SCHEMA_VERSION),
        revision=revision,
        items=tuple((item.key, item.value) for item in kept if item.key != SCHEMA_KEY),
    )


async def back_up(url: str, file: Path) -> Copied:
    """Write what a store holds to `file`, which only its owner may read; it is replaced at once or not at all.

    Raises ValueError, StoreError and OSError.
    """
    backup = await read_backup_of(url)
    await asyncio.to_thread(_write_file, file, _MAGIC + msgspec.msgpack.encode(backup))
    return _copied(backup)


async def restore(file: Path, url: str, *, replace: bool, progress: Progress) -> Copied:
    """Fill a store from `file`. Raises ValueError, StoreError and OSError; a damaged file is found before any write."""
    backup = await asyncio.to_thread(_read_file, file)
    await fill(backup, url, replace=replace, progress=progress)
    return _copied(backup)


async def migrate(source: str, target: str, *, replace: bool, progress: Progress) -> Copied:
    """Fill the store `target` with what `source` holds. Raises ValueError and StoreError."""
    if source == target:
        raise ValueError("a store cannot be migrated to itself")
    backup = await read_backup_of(source)
    await fill(backup, target, replace=replace, progress=progress)
    return _copied(backup)


async def fill(backup: Backup, url: str, *, replace: bool, progress: Progress) -> None:
    """Make `backup` all that a store holds; one that holds something needs `replace`.

    The version of the data is taken away first and given back last: a store that was not filled to the end is refused
    by everybody who opens it. Raises ValueError and StoreError.
    """
    refuse_schema(backup.schema.encode())
    store = await open_unchecked(url)
    try:
        await _fill(store, backup, replace=replace, progress=progress)
    finally:
        await store.close()


async def _fill(store: Store, backup: Backup, *, replace: bool, progress: Progress) -> None:
    found, _ = await store.list("")
    before = {item.key: item for item in found}
    schema = before.pop(SCHEMA_KEY, None)
    _refuse_in_use(list(before.values()), schema, replace=replace)
    writes: list[Write] = [Delete(key) for key in before]
    writes += [Put(key, value) for key, value in backup.items]
    try:
        mark = await store.commit([Check(SCHEMA_KEY, schema.revision if schema else 0)], [Put(SCHEMA_KEY, UNFINISHED)])
        done = 0
        progress(0, len(writes))
        for portion in _portions(writes, min(PORTION_WRITES, store.max_operations)):
            await store.commit([Check(SCHEMA_KEY, mark)], portion)
            done += len(portion)
            progress(done, len(writes))
        await store.commit([Check(SCHEMA_KEY, mark)], [Put(SCHEMA_KEY, backup.schema.encode())])
    except Conflict as conflict:
        raise StoreError("somebody else wrote to this store meanwhile; stop what uses it and begin again") from conflict


def _refuse_in_use(items: Sequence[Item], schema: Item | None, *, replace: bool) -> None:
    """Raise StoreError for a store that a control plane is using, or that holds what should not be lost."""
    if any(item.lease for item in items):
        raise StoreError("a control plane is using this store: stop all that do, wait half a minute, and try again")
    records = sum(item.key.partition("/")[0] in KINDS for item in items)
    others = [item.key for item in items if item.key.partition("/")[0] not in {*KINDS, "meta"}]
    if (records or others) and not replace and (schema is None or schema.value != UNFINISHED):
        held = f"{records} records" if records else f"keys such as {others[0]}"
        raise StoreError(f"the store holds {held} already: name an empty one, or replace all of it with --replace")


def _portions(writes: Sequence[Write], most: int) -> Iterator[list[Write]]:
    """Yield the writes in commits of a bounded size, in order, none with a key twice."""
    portion: list[Write] = []
    keys: set[str] = set()
    size = 0
    for write in writes:
        bytes_ = len(write.key) + (len(write.value) if isinstance(write, Put) else 0)
        if portion and (len(portion) == most or size + bytes_ > PORTION_BYTES or write.key in keys):
            yield portion
            portion, keys, size = [], set(), 0
        portion.append(write)
        keys.add(write.key)
        size += bytes_
    if portion:
        yield portion


def _copied(backup: Backup) -> Copied:
    records = sum(key.partition("/")[0] in KINDS for key, _ in backup.items)
    return Copied(records=records, revision=backup.revision)


def _write_file(file: Path, content: bytes) -> None:
    descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # readable by its owner only
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.write(hashlib.sha256(content).digest())
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_file(file: Path) -> Backup:
    content = file.read_bytes()
    if not content.startswith(_MAGIC):
        known = content.startswith(_MAGIC.partition(b" ")[0])
        raise StoreError(
            f"{file} is a backup in a form that this program does not know" if known else f"{file} is no backup"
        )
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise StoreError(f"{file} is damaged or cut short: its checksum does not fit; nothing was written")
    try:
        return msgspec.msgpack.decode(body[len(_MAGIC) :], type=Backup)
    except msgspec.DecodeError as error:
        raise StoreError(f"{file} is no backup that this program can read: {error}") from error
