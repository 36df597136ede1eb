"""What tests of control loops share: a memory store behind a cache and an applier, and waiting for a condition."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fallow.decide.plan import Step
from fallow.model.deployments import Replica
from fallow.model.events import Event
from fallow.model.members import Member
from fallow.model.meta import Record
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store
from fallow.store.open import open_store

T = TypeVar("T")


@dataclass
class Stored:
    """A store and what stands before it."""

    store: Store
    cache: Cache
    applier: Applier

    async def write(self, *records: Record) -> None:
        await self.applier.commit(Step(puts=records))

    async def delete(self, *records: Record) -> None:
        await self.applier.commit(Step(deletes=records))

    def member(self, id_: str) -> Member:
        found = self.cache.get("members", id_)
        assert isinstance(found, Member)
        return found

    def replica(self, id_: str) -> Replica:
        found = self.cache.get("replicas", id_)
        assert isinstance(found, Replica)
        return found

    def reasons(self) -> list[str]:
        """Return the reasons of all events."""
        return [found.reason for found in self.cache.records("events").values() if isinstance(found, Event)]


@asynccontextmanager
async def storing(*records: Record, url: str = "memory:", check: Any = None) -> AsyncIterator[Stored]:
    store = await open_store(url)
    cache = Cache(store)
    await cache.start()
    found = Stored(store, cache, Applier(store, cache, check))
    try:
        if records:
            await found.write(*records)
        yield found
    finally:
        await cache.stop()
        await store.close()


async def until(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """Wait until a condition gives something true, and return that."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):
            await asyncio.sleep(0.001)
    return found


async def ended(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
