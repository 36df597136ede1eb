"""What a session is told: everything at first, then only differences."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from records import deployment, member, replica, template
from test_hub import Line, asked

from fallow.control.assignments import Assignments
from fallow.control.hub import Hub
from fallow.decide.plan import Step
from fallow.model.deployments import Activity, Observation, Replica, ReplicaState
from fallow.model.meta import Record
from fallow.model.wire import Assign
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.open import open_store

WEB = deployment(revision=0)


class Rig:
    """A store with one node and one session, and the part under test."""

    def __init__(self, cache: Cache, applier: Applier) -> None:
        self.cache = cache
        self.applier = applier
        self.hub = Hub(lambda: 1.0)
        self.assignments = Assignments(cache, self.hub)
        self.line = Line("n-a")

    async def write(self, *records: Record) -> None:
        await self.applier.commit(Step(puts=records))

    def stored(self, id_: str) -> Replica:
        found = self.cache.get("replicas", id_)
        assert isinstance(found, Replica)
        return found

    async def told(self, count: int) -> list[Assign]:
        return [frame for frame in await asked(self.line, Assign, count) if isinstance(frame, Assign)]


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    store = await open_store("memory:")
    cache = Cache(store)
    await cache.start()
    found = Rig(cache, Applier(store, cache))
    await found.write(member("a", revision=0), WEB, msgspec.structs.replace(template(WEB), revision=0))
    sending = asyncio.create_task(found.assignments.run())
    yield found
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await cache.stop()
    await store.close()


async def test_a_new_session_is_told_everything_then_what_changes(rig: Rig) -> None:
    await rig.write(replica(WEB, 0, ReplicaState.PLACED, revision=0))
    rig.hub.open(rig.line)
    rig.assignments.greet(rig.line)
    (first,) = await rig.told(1)
    assert (first.full, [found.replica_id for found in first.assignments]) == (True, ["web-0"])

    await rig.write(replica(WEB, 1, ReplicaState.PLACED, revision=0))
    await rig.write(replica(WEB, 2, ReplicaState.PLACED, revision=0, node_id="n-other"))
    (_, second) = await rig.told(2)
    assert (second.full, [found.replica_id for found in second.assignments]) == (False, ["web-1"])

    await rig.write(msgspec.structs.replace(rig.stored("web-0"), state=ReplicaState.STOPPING))
    (*_, third) = await rig.told(3)
    assert [(found.replica_id, found.run) for found in third.assignments] == [("web-0", False)]

    await rig.write(msgspec.structs.replace(rig.stored("web-0"), state=ReplicaState.STOPPED))
    (*_, fourth) = await rig.told(4)
    assert fourth.removed == ("web-0",)


async def test_what_does_not_concern_the_container_is_not_sent(rig: Rig) -> None:
    await rig.write(replica(WEB, 0, ReplicaState.PLACED, revision=0))
    rig.hub.open(rig.line)
    rig.assignments.greet(rig.line)
    await rig.write(msgspec.structs.replace(rig.stored("web-0"), state=ReplicaState.RUNNING))
    await rig.write(replica(WEB, 1, ReplicaState.PLACED, revision=0))
    (_, second) = await rig.told(2)
    assert [found.replica_id for found in second.assignments] == ["web-1"]


async def test_what_was_deleted_before_anyone_looked_is_taken_back(rig: Rig) -> None:
    await rig.write(
        replica(WEB, 0, ReplicaState.STOPPING, revision=0), replica(WEB, 1, ReplicaState.PLACED, revision=0)
    )
    rig.hub.open(rig.line)
    rig.assignments.greet(rig.line)
    # As when it was stopped and deleted in quick succession: changes are gathered, and only the last one is seen.
    await rig.applier.commit(Step(deletes=(rig.stored("web-0"),)))
    (_, second) = await rig.told(2)
    assert (second.removed, second.assignments) == (("web-0",), ())


async def test_a_session_is_told_how_far_its_node_was_heard(rig: Rig) -> None:
    seen = Observation(replica_id="web-0", serial=77, activity=Activity.RUNNING)
    await rig.write(replica(WEB, 0, revision=0, observed=seen), replica(WEB, 1, revision=0))
    rig.assignments.greet(rig.line)
    (told,) = await rig.told(1)
    assert told.serials == {"web-0": 77}
