"""Two machines with one key, over real TLS: both are fenced; one machine that comes back in any way is not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from control_rig import ended, until
from prometheus_client import CollectorRegistry
from records import deployment, replica
from session_rig import Connection, Machine, SessionRig, accepting

from fallow.control.members import members_controller, sessions_controller
from fallow.control.runner import LoopMetrics, Runner
from fallow.model.deployments import Activity, Health, Observation, ReplicaState
from fallow.model.members import AgentRun, MemberState
from fallow.model.wire import Assign, Goodbye, Heartbeat, Observed, Reject, Usage, Welcome


@asynccontextmanager
async def looping(rig: SessionRig) -> AsyncIterator[None]:
    """Run the loops that judge members and end sessions."""
    numbers = iter(range(10_000))
    loops = (
        members_controller(rig.hub, rig.settings, lambda: f"e{next(numbers)}"),
        sessions_controller(rig.hub, rig.settings),
    )
    runner = Runner(rig.stored.cache, rig.stored.applier, loops, time.time, LoopMetrics(CollectorRegistry()))
    task = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        await ended(task)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SessionRig]:
    async with accepting(tmp_path) as found, looping(found):
        yield found


async def alive(rig: SessionRig, machine: Machine, instance: str, boot: str = "b") -> Connection:
    """Return a session that has said something after its welcome."""
    connection = await rig.session(machine, instance=instance, boot_id=boot)
    await connection.hear_a(Welcome)
    await connection.hear_a(Assign)
    await connection.say(Heartbeat())
    return connection


def on_record(rig: SessionRig) -> list[str]:
    return [run.instance for run in rig.stored.member("n-a").runs]


async def test_two_machines_that_take_the_session_from_each_other_are_fenced(rig: SessionRig) -> None:
    machine = await rig.member("a")
    web = deployment(revision=0)
    await rig.stored.write(web, replica(web, 0, ReplicaState.RUNNING, revision=0))
    first = await alive(rig, machine, "one", "boot-1")
    await until(lambda: on_record(rig) == ["one"])
    second = await alive(rig, machine, "two", "boot-2")
    await until(lambda: on_record(rig) == ["one", "two"])
    await first.hear_a(Goodbye)
    third = await alive(rig, machine, "one", "boot-1")
    await second.hear_a(Goodbye)
    member = await until(lambda: (found := rig.stored.member("n-a")).fence and found)
    assert "127.0.0.1" in member.fence
    assert "boot-1" in member.fence
    assert "boot-2" in member.fence
    assert "fallow node unfence a" in member.fence
    assert "fallow token create --replace a" in member.fence
    await third.hear_a(Goodbye)
    await third.hear_no_more()
    await until(lambda: rig.stored.member("n-a").state is MemberState.DEAD)
    assert rig.stored.member("n-a").state_reason.startswith("fenced: two machines")
    assert "NodeFenced" in rig.stored.reasons()
    for instance in ("one", "two"):
        refusal = await (await rig.session(machine, instance=instance)).hear_a(Reject)
        assert (refusal.final, refusal.clean) == (False, False)
        assert refusal.reason.startswith("fenced: ")
    assert rig.hub.connected() == frozenset()


async def test_old_agents_are_told_apart_by_the_boot_of_their_machines(rig: SessionRig) -> None:
    machine = await rig.member("a")
    for boot in ("one", "two", "one"):
        await alive(rig, machine, "", boot)
        await until(lambda boot=boot: on_record(rig)[-1:] == [f"boot:{boot}"])
    await until(lambda: rig.stored.member("n-a").fence)


async def test_reconnecting_and_restarting_is_no_clone(rig: SessionRig) -> None:
    machine = await rig.member("a")
    for instance in ("one", "one", "two", "two", "three"):  # each leaves its session half open
        await alive(rig, machine, instance)
        await until(lambda instance=instance: on_record(rig)[-1:] == [instance])
    assert on_record(rig) == ["one", "two", "three"]
    assert rig.stored.member("n-a").fence == ""
    assert rig.hub.connected() == {"n-a"}


async def test_a_hello_that_arrives_late_from_a_dead_agent_is_no_clone(rig: SessionRig) -> None:
    """It was sent before the restart, and nobody is there to answer the welcome."""
    machine = await rig.member("a")
    await alive(rig, machine, "one")
    await until(lambda: on_record(rig) == ["one"])
    newer = await alive(rig, machine, "two")
    await until(lambda: on_record(rig) == ["one", "two"])
    late = await rig.session(machine, instance="one")
    await late.hear_a(Welcome)
    await newer.hear_a(Goodbye)
    again = await alive(rig, machine, "two")
    await again.say(Heartbeat(usage=Usage(cpus=1.0)))
    await until(lambda: rig.hub.usage("n-a") == Usage(cpus=1.0))
    assert rig.stored.member("n-a").fence == ""


async def test_a_clone_may_say_its_first_word_whatever_is_written_of_the_member_meanwhile(rig: SessionRig) -> None:
    machine = await rig.member("a")
    for instance in ("one", "two"):
        await alive(rig, machine, instance)
        await until(lambda instance=instance: on_record(rig)[-1:] == [instance])
    clone = await rig.session(machine, instance="one")
    await clone.hear_a(Welcome)
    loop = sessions_controller(rig.hub, rig.settings)
    loop.decide(rig.stored.cache.snapshot(), 0.0)
    assert rig.hub.connected() == {"n-a"}
    await clone.say(Heartbeat())
    await until(lambda: rig.stored.member("n-a").fence)


async def test_words_held_up_in_a_session_from_before_a_restart_are_no_clone(tmp_path: Path) -> None:
    """The session of a dead agent stays open at one process; the new agent is at another one."""
    async with accepting(tmp_path) as rig:
        machine = await rig.member("a")
        dead = await rig.session(machine, instance="one")
        await dead.hear_a(Welcome)
        # what another process writes when the agent, started again, has come to it
        two = msgspec.structs.replace(rig.stored.member("n-a"), runs=(_run("zero"), _run("one"), _run("two")))
        await rig.stored.write(two)
        await dead.say(Heartbeat())
        await dead.hear_a(Assign)
        await dead.hear_a(Goodbye)
        assert on_record(rig) == ["zero", "one", "two"]
        assert rig.stored.member("n-a").fence == ""


async def test_clones_at_different_processes_are_fenced(tmp_path: Path) -> None:
    """Each process has one of them; the record they share tells."""
    async with accepting(tmp_path) as rig, looping(rig), second(rig, tmp_path) as other, looping(other):
        machine = await rig.member("a")
        await alive(rig, machine, "one")
        await until(lambda: on_record(rig) == ["one"])
        await alive(other, machine, "two")
        await until(lambda: rig.hub.connected() == frozenset())  # the older session is not left open
        assert on_record(rig) == ["one", "two"]
        await alive(rig, machine, "one")
        await until(lambda: rig.stored.member("n-a").fence)
        await until(lambda: not rig.hub.connected() and not other.hub.connected())


async def test_unfencing_lets_one_in_and_two_are_found_again(rig: SessionRig) -> None:
    machine = await rig.member("a")
    for instance in ("one", "two", "one"):
        await alive(rig, machine, instance)
        await until(lambda instance=instance: on_record(rig)[-1:] == [instance])
    await until(lambda: rig.stored.member("n-a").state is MemberState.DEAD)
    await rig.stored.write(msgspec.structs.replace(rig.stored.member("n-a"), fence="", runs=()))
    await alive(rig, machine, "one")
    await until(lambda: rig.stored.member("n-a").state is MemberState.READY)
    await alive(rig, machine, "two")
    await until(lambda: on_record(rig) == ["one", "two"])
    await alive(rig, machine, "one")
    await until(lambda: rig.stored.member("n-a").fence)


async def test_what_a_fenced_session_still_sends_changes_nothing(rig: SessionRig) -> None:
    machine = await rig.member("a")
    web = deployment(revision=0)
    placed = replica(web, 0, ReplicaState.PLACED, revision=0)
    await rig.stored.write(web, placed)
    seen = Observation(replica_id=placed.id, serial=1, activity=Activity.RUNNING, health=Health.HEALTHY, started=True)
    connection = await alive(rig, machine, "one")
    await until(lambda: on_record(rig) == ["one"])
    await rig.stored.write(msgspec.structs.replace(rig.stored.member("n-a"), fence="two machines"))
    await connection.hear_a(Goodbye)
    heard = rig.hub.last_seen("n-a")
    for _ in range(5):
        try:
            await connection.say(Heartbeat(usage=Usage(cpus=9.0)), Observed(batch=1, observations=(seen,)))
        except ConnectionError:
            break
    await connection.hear_no_more()
    assert rig.hub.usage("n-a") != Usage(cpus=9.0)
    assert rig.hub.last_seen("n-a") == heard
    await until(lambda: rig.stored.member("n-a").state is MemberState.DEAD)
    assert rig.stored.replica(placed.id).state is ReplicaState.PLACED


def _run(instance: str) -> AgentRun:
    return AgentRun(instance=instance)


@asynccontextmanager
async def second(rig: SessionRig, folder: Path) -> AsyncIterator[SessionRig]:
    """Run another process's listener on the same store and CA."""
    other = SessionRig(rig.stored, folder, authority=rig.authority)
    listener = await other.start()
    loops = [asyncio.create_task(other.observations.run()), asyncio.create_task(other.assignments.run())]
    try:
        yield other
    finally:
        listener.close()
        await other.stop()
        for loop in loops:
            await ended(loop)
