"""The scripting of the fake; what it does as an engine is in tests/contract/test_engine.py."""

import pytest

from fallow.drivers.engine.contract import ContainerRequest, EngineError
from fallow.drivers.engine.fake import FakeEngine, FakeMachine
from fallow.model.containers import ContainerSpec, Resources


def wish(replica_id: str = "web-0", **spec: object) -> ContainerRequest:
    return ContainerRequest(
        replica_id=replica_id,
        deployment="default/web",
        spec=ContainerSpec(image="app:1", **spec),  # type: ignore[arg-type]
        spec_hash="h",
    )


@pytest.fixture
async def machine() -> FakeMachine:
    made = FakeMachine(clock=lambda: 1000.0)
    made.publish("app:1")
    await FakeEngine(made, "n1").pull("app:1")
    made.calls.clear()
    return made


async def test_faults_come_once_each_and_in_order(machine: FakeMachine) -> None:
    engine = FakeEngine(machine, "n1")
    machine.fail("create", EngineError("no-space", "full"), EngineError("failed", "odd"))
    for kind in ("no-space", "failed"):
        with pytest.raises(EngineError) as caught:
            await engine.create(wish())
        assert caught.value.kind == kind
    assert (await engine.create(wish())).status == "created"
    assert machine.calls == [("create", "web-0")] * 3


async def test_delays_are_slept_with_the_given_sleep() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    machine = FakeMachine(sleep=sleep)
    machine.publish("app:1")
    machine.delays["pull"] = 30.0
    await FakeEngine(machine, "n1").pull("app:1")
    assert slept == [30.0]


async def test_a_container_ends_when_told(machine: FakeMachine) -> None:
    engine = FakeEngine(machine, "n1")
    container = await engine.start((await engine.create(wish())).id)
    events = engine.events()
    machine.exit("web-0", 137, out_of_memory=True)
    event = await anext(events)
    assert (event.kind, event.replica_id, event.exit_code, event.at) == ("exited", "web-0", 137, 1000.0)
    found = await engine.inspect(container.id)
    assert found is not None
    assert (found.status, found.exit_code, found.out_of_memory) == ("exited", 137, True)


async def test_limits_that_are_ignored_are_refused(machine: FakeMachine) -> None:
    machine.unlimited = True
    engine = FakeEngine(machine, "n1")
    with pytest.raises(EngineError, match="pids limit 5"):
        await engine.create(wish(resources=Resources(pids_limit=5)))
    assert await engine.list() == []


async def test_a_machine_switched_off_answers_nothing(machine: FakeMachine) -> None:
    engine = FakeEngine(machine, "n1")
    machine.set_online(False)
    with pytest.raises(EngineError) as caught:
        await engine.list()
    assert caught.value.kind == "unreachable"
    with pytest.raises(EngineError):
        await anext(engine.events())
