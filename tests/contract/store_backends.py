"""What the contract's tests need of a back-end: a fresh store, and time that passes when told."""

import asyncio
import functools
import heapq
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fallow.store.contract import Batch, Store
from fallow.store.etcd import EtcdStore
from fallow.store.etcd_url import parse
from fallow.store.ledger import Keep
from fallow.store.memory import MemoryStore
from fallow.store.sqlite import SqliteStore
from testbed import parts
from testbed.etcd import EtcdCluster

DEADLINE_SECONDS = 10.0


class FakeTimers:
    """Stands in for the loop's timers; time passes only by `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._calls: list[tuple[float, int, _Call]] = []

    def later(self, delay: float, callback: Callable[[], None]) -> "_Call":
        call = _Call(callback)
        heapq.heappush(self._calls, (self._now + delay, next(self._order), call))
        return call

    async def advance(self, seconds: float) -> None:
        self._now += seconds
        while self._calls and self._calls[0][0] <= self._now:
            heapq.heappop(self._calls)[2].callback()


class _Call:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = lambda: None


class Backend:
    """One back-end under test. `ttl_seconds` is a lease's time that it can tell from none and from three times it."""

    def __init__(self, store: Store, advance: Callable[[float], Awaitable[None]], ttl_seconds: float) -> None:
        self.store = store
        self.advance = advance
        self.ttl_seconds = ttl_seconds


@asynccontextmanager
async def memory(_folder: Path) -> AsyncIterator[Backend]:
    timers = FakeTimers()
    store = MemoryStore(later=timers.later)
    yield Backend(store, timers.advance, 30.0)
    await store.close()


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[Backend]:
    timers = FakeTimers()
    store = await SqliteStore.open(folder / "store.db", later=timers.later)
    yield Backend(store, timers.advance, 30.0)
    await store.close()


@asynccontextmanager
async def sqlite_from_file(folder: Path) -> AsyncIterator[Backend]:
    """SQLite whose memory holds next to nothing, so that watches read the file."""
    timers = FakeTimers()
    store = await SqliteStore.open(folder / "store.db", keep=Keep(recent_commits=2), later=timers.later)
    yield Backend(store, timers.advance, 30.0)
    await store.close()


@functools.cache
def shared_etcd() -> EtcdCluster:
    """Return one cluster for all tests of this process that leave it as they found it; conftest.py ends it."""
    return EtcdCluster()


def etcd_url(cluster: EtcdCluster) -> str:
    """Return a store's URL with a prefix that no other test uses."""
    return cluster.url(f"/fallow/{secrets.token_hex(8)}")


@asynccontextmanager
async def etcd(_folder: Path) -> AsyncIterator[Backend]:
    parts.require("etcd", "etcdctl")
    cluster = await asyncio.to_thread(shared_etcd)
    ttl_seconds = 2.0

    async def advance(seconds: float) -> None:
        # The time of its leases cannot be told; a test waits for whatever comes after one such time by itself.
        await asyncio.sleep(min(seconds, ttl_seconds))

    store = await EtcdStore.open(parse(etcd_url(cluster).partition(":")[2]))
    yield Backend(store, advance, ttl_seconds)
    await store.close()


# Another back-end is added here, and every test of the contract runs on it.
BACKENDS = {"memory": memory, "sqlite": sqlite, "sqlite-from-file": sqlite_from_file, "etcd": etcd}


async def take(watch: AsyncIterator[Batch], count: int) -> list[Batch]:
    """Return the next `count` batches; fails when they do not come."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        return [await anext(watch) for _ in range(count)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds; fails when it does not come to."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.001)
