"""Image jobs under anything that may happen: limits hold at every moment, and every node ends exactly once."""

from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from image_world import World, job
from records import member

from fallow.decide.image_jobs import AWAY_SECONDS
from fallow.model.image_jobs import ImageJob, ImageTarget, ImageTask, JobState, TaskState
from fallow.model.members import Member, MemberState

PER_REGISTRY = 4
OPEN = (JobState.RUNNING, JobState.PAUSED)


class Life(RuleBasedStateMachine):
    """Two jobs for one image, nodes that come, go and die, agents that succeed, fail or repeat themselves."""

    @initialize(
        count=st.integers(1, 8),
        parallel=st.sampled_from(["1", "3", "50%"]),
        canary=st.booleans(),
        attempts=st.integers(1, 3),
        failures=st.sampled_from(["0", "2", "100%"]),
    )
    def begin(self, count: int, parallel: str, canary: bool, attempts: int, failures: str) -> None:
        more: dict[str, Any] = {
            "parallel": parallel, "canary": canary, "attempts": attempts, "max_failures": failures,
        }  # fmt: skip
        self.world = World(job(**more), job("j2", target=ImageTarget(percent=50), **more))
        self.joined = 0
        self.ends: dict[str, int] = {}  # task id -> how often it was seen to end
        self.before: dict[str, ImageTask] = {}
        self.gone: set[str] = set()
        for _ in range(count):
            self.join()
        self.run()

    def run(self) -> None:
        self.world.run(PER_REGISTRY)
        self.note()

    def note(self) -> None:
        for task in self.world.tasks():
            old = self.before.get(task.id)
            if task.ended and (old is None or not old.ended):
                self.ends[task.id] = self.ends.get(task.id, 0) + 1
            if old is not None and old.ended:
                assert task == old, "what has ended stays as it is"
            self.before[task.id] = task

    @rule()
    def join(self) -> None:
        self.joined += 1
        self.world.put(member(f"n{self.joined:03d}"))

    @rule(pick=st.integers(0, 99), state=st.sampled_from(list(MemberState)[:4]))
    def change_node(self, pick: int, state: MemberState) -> None:
        node = self._node(pick)
        if node is not None:
            self.world.put(msgspec.structs.replace(node, state=state, state_since=self.world.now))
            self.run()

    @rule(pick=st.integers(0, 99))
    def remove_node(self, pick: int) -> None:
        node = self._node(pick)
        if node is not None:
            self.world.drop(node)
            self.run()

    @rule(
        pick=st.integers(0, 99),
        outcome=st.sampled_from(
            [("done", ""), ("failed", "unreachable"), ("failed", "denied"), ("failed", "rate-limited")]
        ),
        twice=st.booleans(),
    )
    def report(self, pick: int, outcome: Any, twice: bool) -> None:
        working = self.world.tasks(TaskState.WORKING)
        if not working:
            return
        task = working[pick % len(working)]
        assert self.world.report(task, outcome[0], kind=outcome[1])
        self.note()
        if twice:
            assert not self.world.report(task, outcome[0], kind=outcome[1])
        self.run()
        if twice:
            assert not self.world.report(task, "done")

    @rule(seconds=st.sampled_from([1.0, 20.0, 200.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        self.run()

    @rule(state=st.sampled_from([JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED]), first=st.booleans())
    def steer(self, state: JobState, first: bool) -> None:
        found = self.world.job("j1" if first else "j2")
        if found.state in OPEN:
            ended = self.world.now if state is JobState.CANCELLED else 0.0
            self.world.put(msgspec.structs.replace(found, state=state, ended_at=ended))
            self.run()

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "world"):
            return
        working = self.world.tasks(TaskState.WORKING)
        assert len(working) <= PER_REGISTRY
        assert len({task.member_id for task in working}) == len(working)
        for found in self._jobs():
            mine = [task for task in working if task.job_id == found.id]
            if not found.parallel.endswith("%"):
                assert len(mine) <= int(found.parallel)
            tasks = self.world.tasks(job_id=found.id)
            if found.canary and found.state is JobState.RUNNING and not any(task.ended for task in tasks):
                assert len(mine) <= 1
        assert all(times == 1 for times in self.ends.values())

    @invariant()
    def a_job_ends_exactly_when_it_should(self) -> None:
        if not hasattr(self, "world"):
            return
        for found in self._jobs():
            tasks = self.world.tasks(job_id=found.id)
            if found.state is JobState.COMPLETED:
                assert all(task.ended for task in tasks)
                assert found.ended_at
            if found.state is JobState.CANCELLED:
                assert all(task.ended for task in tasks)
            if found.state is JobState.STOPPED:
                assert any(task.state is TaskState.FAILED for task in tasks)

    @precondition(lambda self: hasattr(self, "world"))
    @rule()
    def with_patient_agents_all_ends(self) -> None:
        """From whatever there is: if every node answers from now on, both jobs end with every node counted."""
        kept = (dict(self.world.records), self.world.now, self.world.revision)
        were_open = {found.id for found in self._jobs() if found.state in OPEN}
        for node in list(self.world.snapshot.members.values()):
            self.world.put(msgspec.structs.replace(node, state=MemberState.READY))
        for found in self._jobs():
            if found.state is JobState.PAUSED:
                self.world.put(msgspec.structs.replace(found, state=JobState.RUNNING))
        for _ in range(100):
            self.world.run(PER_REGISTRY)
            if not any(found.state in OPEN for found in self._jobs()) and not self.world.tasks(TaskState.WORKING):
                break
            self.world.finish()
            self.world.now += min(self.world.wake or 1.0, AWAY_SECONDS)
        for found in self._jobs():
            assert found.state not in OPEN
            tasks = self.world.tasks(job_id=found.id)
            assert all(task.ended for task in tasks)
            if found.state is JobState.COMPLETED and found.id == "j1" and "j1" in were_open:
                there = {task.member_id for task in tasks}
                assert there >= set(self.world.snapshot.members)
        self.world.records, self.world.now, self.world.revision = kept

    def _jobs(self) -> list[ImageJob]:
        return list(self.world.snapshot.image_jobs.values())

    def _node(self, pick: int) -> Member | None:
        nodes = sorted(self.world.snapshot.members.values(), key=lambda found: found.id)
        return nodes[pick % len(nodes)] if nodes else None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
