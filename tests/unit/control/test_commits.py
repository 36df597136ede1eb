"""What is decided to be nothing, or refused, is decided from the newest that any process has stored."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from records import deployment

from fallow.control.commits import commit_again
from fallow.control.refusals import Refused, refuse
from fallow.decide.plan import Step
from fallow.model.deployments import Deployment
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Batch, Check, OutcomeUnknown, Write
from fallow.store.memory import MemoryStore

LAG_TURNS = 50  # of the event loop


class SharedStore(MemoryStore):
    """A store that several processes use."""

    shared = True


class Late:
    """The same store, for a process that hears of each commit a while after it."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        async for batch in self._store.watch(prefix, after):
            for _ in range(LAG_TURNS):
                await asyncio.sleep(0)
            yield batch


@asynccontextmanager
async def two_processes(store: MemoryStore) -> AsyncIterator[tuple[tuple[Cache, Applier], tuple[Cache, Applier]]]:
    late: Any = Late(store)
    first, second = Cache(store), Cache(late)
    await first.start()
    await second.start()
    try:
        yield (first, Applier(store, first)), (second, Applier(late, second))
    finally:
        await first.stop()
        await second.stop()
        await store.close()


def stored(cache: Cache) -> Deployment:
    found = cache.get("deployments", "web")
    if not isinstance(found, Deployment):
        raise refuse(404, "not-found", "Not found", "there is no such deployment", "look for it")
    return found


async def test_a_change_that_another_process_took_back_is_made_again() -> None:
    async with two_processes(SharedStore()) as ((first, by_first), (second, by_second)):
        old = deployment(id="web", replicas=2, revision=0)
        await by_first.commit(Step(puts=(old,)))
        await second.wait(first.revision)
        spec = msgspec.structs.replace(old.spec, replicas=5)
        await by_first.commit(Step(puts=(msgspec.structs.replace(stored(first), spec=spec),)))
        assert stored(second).spec.replicas == 2  # it has not seen the newest

        def decide() -> tuple[Step | None, None]:
            current = stored(second)
            after = msgspec.structs.replace(current, spec=old.spec)
            return (None if current.spec == old.spec else Step(puts=(after,))), None

        await commit_again(by_second, decide)
        assert stored(second).spec.replicas == 2
        await first.wait(second.revision)
        assert stored(first).spec.replicas == 2


async def test_what_another_process_has_just_stored_is_not_refused() -> None:
    async with two_processes(SharedStore()) as ((_, by_first), (second, by_second)):
        await by_first.commit(Step(puts=(deployment(id="web", revision=0),)))

        def decide() -> tuple[Step | None, int]:
            return None, stored(second).spec.replicas

        assert await commit_again(by_second, decide) == deployment().spec.replicas


async def test_what_is_refused_all_the_same_is_decided_twice_at_most() -> None:
    async with two_processes(SharedStore()) as ((_, by_first), (second, by_second)):
        await by_first.commit(Step(puts=(deployment(id="other", revision=0),)))
        asked = 0

        def decide() -> tuple[Step | None, None]:
            nonlocal asked
            asked += 1
            return None, stored(second).spec.replicas and None

        with pytest.raises(Refused):
            await commit_again(by_second, decide)
        assert asked == 2


async def test_a_store_of_one_process_is_not_written_to_for_nothing() -> None:
    store = MemoryStore()
    async with two_processes(store) as ((first, by_first), _):
        await by_first.commit(Step(puts=(deployment(id="web", revision=0),)))
        await commit_again(by_first, lambda: (None, stored(first)))
        assert (await store.list(""))[1] == first.revision


async def test_those_who_look_at_once_share_a_look_that_begins_after_they_asked() -> None:
    store = SharedStore()
    async with two_processes(store) as ((_, by_first), (second, by_second)):
        looks = [asyncio.create_task(by_second.catch_up()) for _ in range(100)]
        await asyncio.sleep(0)  # the first of them looks
        await by_first.commit(Step(puts=(deployment(id="web", revision=0),)))
        late = asyncio.create_task(by_second.catch_up())
        await late
        assert stored(second).id == "web"
        await asyncio.gather(*looks)
        assert (await store.list(""))[1] <= 4  # a deployment, and three looks at most


class Forgetful(Late):
    """It makes a commit, says that it does not know whether it did, and lets its process hear of it late."""

    forgets = False

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> int:
        revision = await self._store.commit(checks, writes)
        if self.forgets:
            self.forgets = False
            raise OutcomeUnknown("the answer was lost")
        return revision


@pytest.mark.parametrize("store", [MemoryStore(), SharedStore()], ids=["one process", "several"])
async def test_what_was_made_without_an_answer_can_be_taken_back_at_once(store: MemoryStore) -> None:
    forgetful: Any = Forgetful(store)
    cache = Cache(forgetful)
    await cache.start()
    applier = Applier(forgetful, cache)
    await applier.commit(Step(puts=(deployment(id="web", replicas=2, revision=0),)))

    async def scale(replicas: int) -> None:
        def decide() -> tuple[Step | None, None]:
            current = stored(cache)
            spec = msgspec.structs.replace(current.spec, replicas=replicas)
            return (None if current.spec == spec else Step(puts=(msgspec.structs.replace(current, spec=spec),))), None

        await commit_again(applier, decide)

    forgetful.forgets = True
    with pytest.raises(OutcomeUnknown):
        await scale(5)
    await scale(2)
    assert stored(cache).spec.replicas == 2
    await cache.wait((await store.list(""))[1])
    assert stored(cache).spec.replicas == 2
    await cache.stop()
    await store.close()
