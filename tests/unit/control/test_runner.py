"""The one loop: woken by changes, by time and by hand, and not stopped by what goes wrong in a decision."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from prometheus_client import CollectorRegistry
from records import NOW, deployment, member, replica, template

from fallow.control import runner as runner_module
from fallow.control.runner import Controller, LoopMetrics, Runner, rest_seconds
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import ReplicaState
from fallow.store.contract import Check, StoreError

NODE = member("a", revision=0)


class Loop:
    """A controller that counts its runs and does what the test says."""

    def __init__(self, every_seconds: float = 3600.0, kinds: frozenset[str] = frozenset({"members"})) -> None:
        self.runs: list[tuple[int, float]] = []
        self.act: Callable[[Snapshot], Plan] = lambda _: Plan()
        self.controller = Controller(name="test", kinds=kinds, every_seconds=every_seconds, decide=self._decide)

    def _decide(self, snapshot: Snapshot, now: float) -> Plan:
        self.runs.append((snapshot.revision, now))
        return self.act(snapshot)

    async def ran(self, count: int) -> None:
        await until(lambda: len(self.runs) >= count)


@asynccontextmanager
async def running(stored: Stored, *loops: Loop) -> AsyncIterator[CollectorRegistry]:
    registry = CollectorRegistry()
    controllers = [loop.controller for loop in loops]
    task = asyncio.create_task(
        Runner(stored.cache, stored.applier, controllers, lambda: NOW, LoopMetrics(registry)).run()
    )
    try:
        yield registry
        assert not task.done(), "the runner goes on whatever happens"
    finally:
        await ended(task)


async def settled() -> None:
    """Let everything that is ready run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_loop_runs_at_its_start_and_after_changes_of_its_kinds() -> None:
    members, replicas = Loop(), Loop(kinds=frozenset({"replicas"}))
    async with storing() as stored, running(stored, members, replicas):
        await members.ran(1)
        await replicas.ran(1)
        await settled()
        await stored.write(NODE)
        await members.ran(2)
        await settled()
        assert (len(members.runs), len(replicas.runs)) == (2, 1)
        assert members.runs[1] == (stored.cache.revision, NOW), "it sees what woke it"


async def test_a_loop_runs_again_after_its_time_and_earlier_when_its_plan_says_so() -> None:
    regular, early, late = Loop(0.01), Loop(), Loop(0.01)
    early.act = lambda _: Plan(wake_after_seconds=0.01)
    late.act = lambda _: Plan(wake_after_seconds=3600.0)
    async with storing() as stored, running(stored, regular, early, late):
        for loop in (regular, early, late):
            await loop.ran(3)


async def test_being_asked_for_at_once_is_not_being_asked_for_never() -> None:
    loop = Loop()
    loop.act = lambda _: Plan(wake_after_seconds=0.0)
    async with storing() as stored, running(stored, loop):
        await loop.ran(3)


async def test_many_changes_during_a_run_are_decided_together() -> None:
    loop = Loop()
    async with storing() as stored, running(stored, loop):
        await loop.ran(1)
        begun, release = asyncio.Event(), asyncio.Event()
        commit = stored.store.commit

        async def slow(checks: list[Check], writes: list[object]) -> int:
            begun.set()
            await release.wait()
            return await commit(checks, writes)  # type: ignore[arg-type]

        stored.store.commit = slow  # type: ignore[method-assign,assignment]
        loop.act = lambda _: Plan(steps=[Step(puts=(NODE,))])
        loop.controller.awake.set()
        await begun.wait()
        loop.act = lambda _: Plan()
        stored.store.commit = commit  # type: ignore[method-assign]
        for name in "bcdef":
            await stored.write(member(name, revision=0))
            loop.controller.awake.set()
        assert len(loop.runs) == 2, "never twice at once"
        release.set()
        await loop.ran(3)
        await settled()
        assert len(loop.runs) == 3
        assert loop.runs[-1][0] == stored.cache.revision


async def test_a_change_while_a_decision_is_made_is_not_lost() -> None:
    loop = Loop()

    def wake_meanwhile(_: Snapshot) -> Plan:
        loop.act = lambda _: Plan()
        loop.controller.awake.set()
        return Plan()

    loop.act = wake_meanwhile
    async with storing() as stored, running(stored, loop):
        await loop.ran(2)


async def test_a_decision_that_fails_is_made_again_and_does_not_stop_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "RETRY_SECONDS", 0.01)
    broken, sound = Loop(), Loop()

    def fail(_: Snapshot) -> Plan:
        raise ZeroDivisionError

    broken.act = fail
    async with storing() as stored, running(stored, broken, sound):
        await broken.ran(3)
        await stored.write(NODE)
        await sound.ran(2)
        broken.act = lambda _: Plan(steps=[Step(puts=(member("b", revision=0),))])
        await until(lambda: stored.cache.get("members", "n-b"))


async def test_a_store_that_refuses_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "RETRY_SECONDS", 0.01)
    loop = Loop()
    loop.act = lambda found: Plan(steps=[] if found.members else [Step(puts=(NODE,))])
    async with storing() as stored:
        commit, refusals = stored.store.commit, iter([StoreError("disk full"), StoreError("disk full")])

        async def refuse_twice(checks: list[Check], writes: list[object]) -> int:
            for error in refusals:
                raise error
            return await commit(checks, writes)  # type: ignore[arg-type]

        stored.store.commit = refuse_twice  # type: ignore[method-assign,assignment]
        async with running(stored, loop):
            await until(lambda: stored.cache.get("members", "n-a"))
            assert len(loop.runs) >= 3


async def test_dropped_steps_are_decided_again_without_a_hot_loop() -> None:
    web = deployment(revision=0)
    first = replica(web, 0, ReplicaState.PENDING, revision=0)
    loop = Loop(kinds=frozenset())
    async with storing(web, msgspec.structs.replace(template(web), revision=0), first) as stored:
        stale = msgspec.structs.replace(first, revision=99)
        loop.act = lambda _: Plan(steps=[Step(puts=(stale,))])
        async with running(stored, loop) as registry:
            began = asyncio.get_running_loop().time()
            await loop.ran(4)
            assert asyncio.get_running_loop().time() - began > 0.2
            loop.act = lambda found: Plan(
                steps=[Step(puts=(msgspec.structs.replace(found.replicas["web-0"], slot=7),))]
            )
            await until(lambda: stored.replica("web-0").slot == 7)
            labels = {"loop": "test", "outcome": "dropped"}
            assert (registry.get_sample_value("fallow_loop_steps_total", labels) or 0) >= 2


@pytest.mark.parametrize(
    ("spent", "factor", "rest"),
    [
        (0.002, 1.0, 0.002),
        (0.002, 9.0, 0.018),
        (0.02, 9.0, 0.04),  # nobody waits for long because a loop is to take little
        (0.3, 9.0, 0.3),  # but never does one take more than half
        (5.0, 1.0, 1.0),
        (5.0, 9.0, 1.0),
    ],
)
def test_a_loop_rests_as_long_as_it_took_or_longer_within_bounds(spent: float, factor: float, rest: float) -> None:
    assert rest_seconds(spent, factor) == pytest.approx(rest)


async def test_a_loop_with_a_smaller_share_runs_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    sleep = asyncio.sleep

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await sleep(0)

    loop, clock = Loop(), iter(range(1000))
    loop.controller.rest_factor = 5.0
    async with storing() as stored:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: next(clock) * 0.004)
        monkeypatch.setattr(runner_module.asyncio, "sleep", nap)
        registry = LoopMetrics(CollectorRegistry())
        task = asyncio.create_task(Runner(stored.cache, stored.applier, [loop.controller], lambda: NOW, registry).run())
        while not naps:
            await sleep(0)
        monkeypatch.undo()
        await ended(task)
    assert naps[0] == pytest.approx(0.02)
