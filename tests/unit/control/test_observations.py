"""What agents say of their replicas: stored once, acknowledged after, and only of their own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from records import NOW, deployment, replica

from fallow.control import intake
from fallow.control import observations as observations_module
from fallow.control.observations import Observations
from fallow.decide.replicas import observe
from fallow.model.deployments import Activity, Health, Observation, Replica, ReplicaState
from fallow.store.contract import StoreError

WEB = deployment(revision=0)


def seen(slot: int = 0, serial: int = 1, **more: Any) -> Observation:
    values: dict[str, Any] = {"activity": Activity.RUNNING, "health": Health.HEALTHY, "started": True}
    return Observation(replica_id=f"web-{slot}", serial=serial, **(values | more))


class Rig:
    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.observations = Observations(stored.cache, stored.applier, lambda: NOW)

    async def tell(self, *what: Observation, node: str = "n-a") -> None:
        async with asyncio.timeout(5):
            await self.observations.submit(node, what)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    placed = [replica(WEB, slot, ReplicaState.PLACED, revision=0) for slot in range(3)]
    async with storing(WEB, *placed) as stored:
        found = Rig(stored)
        task = asyncio.create_task(found.observations.run())
        yield found
        assert not task.done()
        await ended(task)


async def test_what_is_acknowledged_is_stored(rig: Rig) -> None:
    await rig.tell(seen())
    item = await rig.stored.store.get("replicas/web-0")
    assert item is not None
    assert msgspec.msgpack.decode(item.value)["state"] == "running"
    assert rig.stored.replica("web-0").healthy_since == NOW


async def test_another_nodes_replica_is_not_its_to_speak_of(rig: Rig) -> None:
    before = rig.stored.cache.revision
    await rig.tell(seen(), seen(slot=99), node="n-b")
    assert rig.stored.cache.revision == before
    assert rig.stored.replica("web-0").state is ReplicaState.PLACED


async def test_the_newest_of_several_counts_and_repetition_writes_nothing(rig: Rig) -> None:
    await rig.tell(seen(serial=1), seen(serial=3, health=Health.UNHEALTHY), seen(serial=2))
    assert rig.stored.replica("web-0").healthy_since == 0
    before = rig.stored.cache.revision
    await rig.tell(seen(serial=3, health=Health.UNHEALTHY))
    await rig.tell(seen(serial=2))
    assert rig.stored.cache.revision == before


async def test_a_failure_is_told_as_an_event(rig: Rig) -> None:
    await rig.tell(seen(activity=Activity.FAILED, message="no such image"))
    assert rig.stored.replica("web-0").state is ReplicaState.FAILED
    assert rig.stored.reasons() == ["ReplicaFailed"]


async def test_what_arrives_during_a_commit_is_stored_together() -> None:
    placed = [replica(WEB, slot, ReplicaState.PLACED, revision=0) for slot in range(3)]
    async with storing(WEB, *placed) as stored:
        found = Rig(stored)
        waiting = [found.observations.submit("n-a", [seen(slot)]) for slot in range(3)]
        before = stored.cache.revision
        task = asyncio.create_task(found.observations.run())
        await asyncio.gather(*waiting)
        assert stored.cache.revision == before + 1
        await ended(task)


async def test_a_conflict_with_another_writer_is_tried_again(rig: Rig) -> None:
    commit, stored = rig.stored.store.commit, rig.stored

    async def collide(*arguments: Any) -> int:
        stored.store.commit = commit  # type: ignore[method-assign]
        leaving = msgspec.structs.replace(stored.replica("web-0"), state=ReplicaState.LEAVING)
        await stored.write(leaving)
        return await commit(*arguments)

    stored.store.commit = collide  # type: ignore[method-assign]
    await rig.tell(seen())
    found = stored.replica("web-0")
    assert (found.state, found.observed is not None) == (ReplicaState.LEAVING, True)


async def test_a_refusing_store_delays_the_acknowledgement(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "RETRY_SECONDS", 0.01)
    commit, refusals = rig.stored.store.commit, [StoreError("disk full")] * 3

    async def refuse(*arguments: Any) -> int:
        if refusals:
            raise refusals.pop()
        return await commit(*arguments)

    rig.stored.store.commit = refuse  # type: ignore[method-assign]
    stored = rig.observations.submit("n-a", [seen()])
    await until(lambda: len(refusals) < 3)
    assert not stored.done()
    await asyncio.wait_for(stored, 5)
    assert rig.stored.replica("web-0").state is ReplicaState.RUNNING


async def test_words_that_cannot_be_taken_in_harm_only_their_node(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(found: Replica, said: Observation, now: float) -> Replica | None:
        if said.message == "poison":
            raise ZeroDivisionError
        return observe(found, said, now)

    monkeypatch.setattr(observations_module, "observe", picky)
    poisoned = rig.observations.submit("n-a", [seen(0, message="poison")])
    sound = rig.observations.submit("n-a", [seen(1)])
    await asyncio.wait_for(sound, 5)
    assert rig.stored.replica("web-1").state is ReplicaState.RUNNING
    assert poisoned.cancelled(), "not stored, so not acknowledged"
    await rig.tell(seen(2))
