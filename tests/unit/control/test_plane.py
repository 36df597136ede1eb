"""A control plane as a whole: started, stopped, started again on the same file, and told of when it breaks."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from control_rig import until
from records import deployment, member, template
from session_rig import Connection, Machine, hello

from fallow.control.plane import ControlPlane, session_context
from fallow.control.settings import Settings
from fallow.decide.plan import Step
from fallow.drivers.authority import Authority
from fallow.model.containers import ContainerSpec
from fallow.model.credentials import SERVER_NAME
from fallow.model.deployments import Activity, DeploymentSpec, Health, Observation, ReplicaState
from fallow.model.members import MemberState
from fallow.model.wire import Assign, Goodbye, Observed, ObservedAck, Welcome
from fallow.store.contract import StoreError
from fallow.store.open import open_store

WEB = deployment("web", 1, revision=0, spec=DeploymentSpec(replicas=1, container=ContainerSpec(image="shop:1")))


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[ControlPlane, int]]:
    authority = Authority.create_or_load(folder / "ca")
    plane = ControlPlane(await open_store(f"sqlite:{folder / 'fallow.db'}"), authority, Settings(), time.time, folder)
    pair = folder / "server.pem"
    pair.write_text("".join(authority.issue_server([], time.time())))
    try:
        await plane.start()
        yield plane, await plane.listen("127.0.0.1", 0, session_context(pair, authority.ca_pem))
    finally:
        await plane.stop()


async def dial(machine: Machine, port: int) -> Connection:
    connection = Connection(
        *await asyncio.open_connection("127.0.0.1", port, ssl=machine.context(), server_hostname=SERVER_NAME)
    )
    await connection.say(hello(machine))
    await connection.hear_a(Welcome)
    return connection


async def test_readiness_follows_the_loops(tmp_path: Path) -> None:
    authority = Authority.create_or_load(tmp_path / "ca")
    plane = ControlPlane(await open_store("memory:"), authority, Settings(), time.time, tmp_path)
    assert plane.not_ready() == "starting"
    await plane.start()
    assert plane.not_ready() is None
    await plane.stop()
    assert plane.not_ready() is not None
    with pytest.raises(StoreError):
        await plane.store.get("members/a")


async def test_a_plane_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    authority = Authority.create_or_load(tmp_path / "ca")
    plane = ControlPlane(await open_store("memory:"), authority, Settings(), time.time, tmp_path)
    await plane.stop()


async def test_it_places_tells_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with started(tmp_path) as (plane, port):
        machine = Machine(Authority.create_or_load(tmp_path / "ca"), tmp_path, "a")
        machine.record = msgspec.structs.replace(machine.record, state=MemberState.JOINING)
        records = (machine.record, WEB, msgspec.structs.replace(template(WEB), revision=0))
        await plane.applier.commit(Step(puts=records))
        connection = await dial(machine, port)
        frames = [await connection.hear_a(Assign), await connection.hear_a(Assign)]
        assert [frame.full for frame in frames] == [True, False]
        (wanted,) = frames[1].assignments
        seen = Observation(
            replica_id=wanted.replica_id, serial=1, activity=Activity.RUNNING, health=Health.HEALTHY, started=True
        )
        await connection.say(Observed(batch=1, observations=(seen,)))
        await connection.hear_a(ObservedAck)
        stopping = asyncio.create_task(plane.stop())
        await connection.hear_a(Goodbye)
        await connection.hear_no_more()
        await stopping

    async with started(tmp_path) as (plane, port):
        (found,) = plane.cache.snapshot().replicas.values()
        assert (found.id, found.state) == (wanted.replica_id, ReplicaState.RUNNING)
        connection = await dial(machine, port)
        again = await connection.hear_a(Assign)
        assert [known.replica_id for known in again.assignments] == [wanted.replica_id]
        await until(lambda: plane.cache.snapshot().members["n-a"].state is MemberState.READY)
        assert list(plane.cache.snapshot().replicas) == [wanted.replica_id]
        connection.writer.transport.abort()


async def test_loops_that_break_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.create_or_load(tmp_path / "ca")
    plane = ControlPlane(await open_store("memory:"), authority, Settings(), time.time, tmp_path)

    async def fail() -> None:
        while not plane.cache.records("members"):
            await plane.cache.wait(plane.cache.revision + 1)
        raise ZeroDivisionError

    monkeypatch.setattr(plane.assignments, "run", fail)
    await plane.start()
    ended = asyncio.create_task(plane.ended())
    assert plane.not_ready() is None
    await plane.applier.commit(Step(puts=(member("a", revision=0),)))
    await asyncio.wait_for(ended, 5)
    assert plane.not_ready() == "the control loops have ended"
    await plane.stop()
