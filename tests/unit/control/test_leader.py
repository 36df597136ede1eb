"""Who leads: one process at a time, followed soon, and powerless once another leads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import wraps
from typing import Any

import pytest
from control_rig import ended, until
from records import NOW, member, peer
from simulation.clock import VirtualLoop

from fallow.control import leader as leader_module
from fallow.control.leader import Leadership
from fallow.decide.plan import Plan, Step
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Check, Fenced, StoreError
from fallow.store.memory import MemoryStore


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Let leases end by a clock that waits for everybody: on a busy machine whoever leads would lose its own."""

    @wraps(test)
    def run() -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(test())
        finally:
            loop.close()

    return run


class SharedStore(MemoryStore):
    """A store that several processes use; one of them may be cut off from it."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self.cut_off: set[str] = set()
        self.granted: list[str] = []

    async def grant(self, ttl_seconds: float) -> str:
        lease = await super().grant(ttl_seconds)
        self.granted.append(lease)
        return lease

    async def keep_alive(self, lease: str) -> None:
        if lease in self.cut_off:
            raise StoreError("the store does not answer")
        await super().keep_alive(lease)


class Process:
    """One process: a cache of its own, its place among the others, and what it did while it led."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.store = store
        self.cache = Cache(store)
        self.fences: list[Check] = []
        self.working = False
        self.leadership = Leadership(store, self.cache, peer(name), self._lead, lambda: NOW)
        self.task: asyncio.Task[None] | None = None

    async def _lead(self, fence: Check) -> None:
        self.fences.append(fence)
        self.working = True
        try:
            await asyncio.Event().wait()
        finally:
            self.working = False

    async def start(self) -> "Process":
        await self.cache.start()
        self.task = asyncio.create_task(self.leadership.run())
        return self

    async def stop(self) -> None:
        if self.task is not None:
            await ended(self.task)
        await self.cache.stop()


@asynccontextmanager
async def processes(store: MemoryStore, *names: str) -> AsyncIterator[list[Process]]:
    started = [await Process(store, name).start() for name in names]
    try:
        yield started
    finally:
        for process in started:
            await process.stop()
        await store.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(leader_module, "RETRY_SECONDS", 0.02)


@in_virtual_time
async def test_one_leads_and_all_know_who() -> None:
    async with processes(SharedStore(), "a", "b", "c") as (a, b, c):
        await until(lambda: a.working)
        await until(lambda: all(each.leadership.leader is not None for each in (a, b, c)))
        assert [each.leadership.leads for each in (a, b, c)] == [True, False, False]
        assert {each.leadership.leader.id for each in (a, b, c) if each.leadership.leader} == {"a"}
        assert set(b.cache.records("peers")) == {"a", "b", "c"}
        assert not b.working


@in_virtual_time
async def test_one_that_stops_hands_over_at_once() -> None:
    async with processes(SharedStore(), "a", "b") as (a, b):
        await until(lambda: a.working)
        await a.stop()
        await until(lambda: b.working)
        assert "a" not in b.cache.records("peers")


@in_virtual_time
async def test_one_that_dies_is_followed_when_its_lease_ends() -> None:
    store = SharedStore()
    async with processes(store, "a", "b") as (a, b):
        await until(lambda: a.working)
        with suppress(StoreError):
            store.cut_off.add(store.granted[0])
        await until(lambda: b.working)
        await until(lambda: not a.working)
        assert a.fences[0].revision != b.fences[0].revision
        store.cut_off.clear()
        await until(lambda: "a" in b.cache.records("peers"))  # it is back, and follows
        assert b.working
        assert not a.leadership.leads


@in_virtual_time
async def test_who_no_longer_leads_can_write_nothing_more() -> None:
    store = SharedStore()
    async with processes(store, "a", "b") as (a, b):
        await until(lambda: a.working)
        led = Applier(store, a.cache, fence=a.fences[0])
        assert (await led.apply(Plan(steps=[Step(puts=(member("x", revision=0),))]))).committed == 1
        store.cut_off.add(store.granted[0])
        await until(lambda: b.working)
        for write in (led.commit, lambda step: led.apply(Plan(steps=[step]))):
            with pytest.raises(Fenced):
                await write(Step(puts=(member("y", revision=0),)))
        assert set(b.cache.records("members")) == {"n-x"}


@in_virtual_time
async def test_a_store_of_one_process_is_led_by_whoever_opens_it() -> None:
    store = MemoryStore()
    killed = await Process(store, "a").start()
    await until(lambda: killed.working)
    async with processes(store, "b") as (b,):
        await until(lambda: b.working)
        assert set(b.cache.records("peers")) == {"b"}
        assert store_leases(store) == []
        await killed.stop()


def store_leases(store: Any) -> list[str]:
    return [item.lease for item in store._items.values() if item.lease]


@in_virtual_time
async def test_a_mistake_of_what_is_led_is_told() -> None:
    store = MemoryStore()
    cache = Cache(store)
    await cache.start()

    async def fail(_fence: Check) -> None:
        raise ZeroDivisionError

    leadership = Leadership(store, cache, peer("a"), fail, lambda: NOW)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(leadership.run(), 5)
    await cache.stop()
    await store.close()
