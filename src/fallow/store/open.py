"""From a URL to an open store whose data this program understands."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fallow.model.kinds import SCHEMA_KEY, SCHEMA_VERSION
from fallow.store.contract import Check, Conflict, Put, Store, StoreError
from fallow.store.memory import MemoryStore
from fallow.store.sqlite import SqliteStore


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

    Raises ValueError for a URL that names no back-end, and StoreError when the store cannot be opened or its data is
    of another version than this program's.
    """
    scheme, _, rest = url.partition(":")
    opener = _OPENERS.get(scheme)
    if opener is None or ":" not in url:
        known = ", ".join(f"{name}:" for name in sorted(_OPENERS))
        raise ValueError(f"{scheme!r} is no kind of store; a store's URL begins with one of {known}")
    store = await opener(rest)
    try:
        await _require_schema(store)
    except BaseException:
        await store.close()
        raise
    return store


async def _require_schema(store: Store) -> None:
    item = await store.get(SCHEMA_KEY)
    if item is None:
        try:
            await store.commit([Check(SCHEMA_KEY, 0)], [Put(SCHEMA_KEY, str(SCHEMA_VERSION).encode())])
        except Conflict:  # another process was quicker; look at what it wrote
            await _require_schema(store)
        return
    text = item.value.decode(errors="replace")
    if text == str(SCHEMA_VERSION):
        return
    newer = text.isdecimal() and int(text) > SCHEMA_VERSION
    hint = "; use the newer program that wrote it" if newer else ""
    raise StoreError(f"the stored data is of version {text}, this program knows version {SCHEMA_VERSION}{hint}")
