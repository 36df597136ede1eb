"""From a URL to an open store whose data this program understands."""

import asyncio
import functools
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.store.contract import Item, Store, StoreError
from fallow.store.copies import copy_beside
from fallow.store.memory import MemoryStore
from fallow.store.sqlite import SqliteStore
from fallow.store.tables import connect, read_list
from fallow.store.upgrade import UNFINISHED, bring_up_to_date


async def _open_memory(rest: str) -> Store:
    if rest:
        raise ValueError("memory: takes nothing after the colon")
    return MemoryStore()


async def _open_sqlite(rest: str) -> Store:
    if not rest or rest.endswith("/"):
        raise ValueError("sqlite: needs the path of a file, such as sqlite:/var/lib/fallow/fallow.db")
    path = Path(rest)
    try:
        await asyncio.to_thread(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {path.parent}: {os.strerror(error.errno or 0)}") from error
    return await SqliteStore.open(path)


async def _open_etcd(rest: str) -> Store:
    # Imported late: whoever uses a file need not wait for gRPC.
    from fallow.store.etcd import EtcdStore
    from fallow.store.etcd_url import parse

    return await EtcdStore.open(await asyncio.to_thread(parse, rest))


# Another back-end is added here, under the name its URLs begin with.
_OPENERS: dict[str, Callable[[str], Awaitable[Store]]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "etcd": _open_etcd,
}


async def open_store(url: str) -> Store:
    """Open `memory:`, `sqlite:/path/to/file.db` or `etcd://host:2379,host:2379/prefix`; make what is missing.

    Data of an older version is brought up to date first. Raises ValueError for a URL that names no back-end, and
    StoreError when the store cannot be opened or its data is of a newer version than this program's.
    """
    store = await open_unchecked(url)
    scheme, _, rest = url.partition(":")
    try:
        await bring_up_to_date(store, functools.partial(_keep_copy, Path(rest)) if scheme == "sqlite" else None)
    except BaseException:
        await store.close()
        raise
    return store


async def open_unchecked(url: str) -> Store:
    """Open a store whatever is in it: for those who are about to fill it. Raises ValueError and StoreError."""
    scheme, _, rest = url.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None or ":" not in url:
        known = ", ".join(f"{name}:" for name in sorted(_OPENERS))
        raise ValueError(f"{scheme!r} is no kind of store; a store's URL begins with one of {known}")
    return await opener(rest)


async def read_store(url: str) -> tuple[list[Item], int]:
    """Return all that a store holds, and the revision at which it did; a control plane may be using it.

    Makes nothing: raises ValueError or StoreError for a store that is not there, or whose data is of another version.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        # Without its lock: that is for those who write.
        items, revision = await asyncio.to_thread(_read_sqlite, Path(rest))
    else:
        store = await open_unchecked(url)
        try:
            items, revision = await store.list("")
        finally:
            await store.close()
    schema = next((item for item in items if item.key == SCHEMA_KEY), None)
    if schema is None:
        raise StoreError("there is no data of Fallow's in this store")
    refuse_schema(schema.value)
    return items, revision


def refuse_schema(schema: bytes) -> None:
    """Raise StoreError unless data marked with `schema` is what this program knows, or can bring up to date."""
    text = schema.decode(errors="replace")
    if text.isdecimal() and 1 <= int(text) <= SCHEMA_VERSION:
        return
    if schema == UNFINISHED:
        raise StoreError("a restore into this store did not finish: run it again, from the beginning")
    hint = "; use the newer program that wrote it" if text.isdecimal() else ""
    raise StoreError(f"the stored data is of version {text}, this program knows version {SCHEMA_VERSION}{hint}")


def _read_sqlite(path: Path) -> tuple[list[Item], int]:
    if not path.is_file():
        raise StoreError(f"there is no store at {path}")
    with closing(connect(path)) as connection:
        try:
            return read_list(connection, "")
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {path}: {error}") from error


async def _keep_copy(path: Path, version: int) -> None:
    await asyncio.to_thread(copy_beside, path, version)
