"""A whole image job over every store: orders out, outcomes in, a restart in the middle, and the record afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from image_world import job
from prometheus_client import CollectorRegistry
from records import member
from store_backends import DEADLINE_SECONDS, etcd, memory, sqlite

from fallow.control.hub import Hub
from fallow.control.ids import new_id
from fallow.control.image_jobs import image_jobs_controller
from fallow.control.images import Images
from fallow.control.runner import LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.decide.image_garbage import forgettable
from fallow.decide.image_records import Wanted, recorded
from fallow.decide.plan import Plan, Step
from fallow.model.image_frames import ImageTasksReported, ImageTasksStored, SetImageTasks
from fallow.model.image_jobs import ImageJob, JobState, TaskReport, TaskState
from fallow.model.wire import IMAGES_PROTOCOL, ToMember
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store

NOW = 1_000_000.0
NODES = 30


class Node:
    """A node's session: it does what it is told at once, but for those that are told to fail or to be silent."""

    def __init__(self, plane: "Plane", member_id: str, *, fails: bool = False, silent: bool = False) -> None:
        self.member_id = member_id
        self.instance = ""
        self.opened_after = ""
        self.agent_version = "1"
        self.protocol = IMAGES_PROTOCOL
        self.key_sha256 = ""
        self.done: list[tuple[str, int]] = []
        self.acknowledged: list[int] = []
        self._plane = plane
        self._fails = fails
        self.silent = silent

    def send(self, frame: ToMember) -> None:
        if isinstance(frame, ImageTasksStored):
            self.acknowledged.append(frame.batch)
        elif isinstance(frame, SetImageTasks) and frame.orders and not self.silent:
            self.done += [(order.task_id, order.attempt) for order in frame.orders]
            reports = [
                TaskReport(
                    task_id=order.task_id, attempt=order.attempt, fetched_bytes=7,
                    **({"state": "failed", "kind": "denied", "text": "no"} if self._fails else {"state": "done"}),
                )
                for order in frame.orders
            ]  # fmt: skip
            said = ImageTasksReported(batch=len(self.done), reports=tuple(reports))
            self._plane.say(self, said)

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        """Nothing to close."""


class Plane:
    """The part of a control plane that image jobs need, over a store."""

    def __init__(self, store: Store) -> None:
        self.cache = Cache(store)
        self.applier = Applier(store, self.cache)
        self.hub = Hub(lambda: NOW)
        self.images = Images(self.cache, self.applier, self.hub, lambda: NOW)
        controller = image_jobs_controller(new_id, dict, Settings())
        metrics = LoopMetrics(CollectorRegistry())
        self.runner = Runner(self.cache, self.applier, [controller], lambda: NOW, metrics)
        self._said: set[asyncio.Task[None]] = set()

    def say(self, node: Node, frame: ImageTasksReported) -> None:
        task = asyncio.ensure_future(self.images.heard(node, frame))
        self._said.add(task)
        task.add_done_callback(self._said.discard)

    def connect(self, **more: Any) -> list[Node]:
        nodes = [Node(self, f"n-n{number}", **more.get(f"n{number}", {})) for number in range(NODES)]
        for node in nodes:
            self.hub.open(node)
            self.images.greet(node)
        return nodes

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.cache.start()
        loops = [asyncio.create_task(self.images.run()), asyncio.create_task(self.runner.run())]
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self.cache.stop()

    def job(self) -> ImageJob:
        return self.cache.snapshot().image_jobs["j1"]

    async def until(self, state: JobState) -> None:
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            while "j1" not in self.cache.snapshot().image_jobs or self.job().state is not state:
                await asyncio.sleep(0.01)


BACKENDS: dict[str, Any] = {"memory": memory, "sqlite": sqlite, "etcd": etcd}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_job_is_done_once_on_every_node_through_a_restart(backend: str, tmp_path: Path) -> None:
    async with BACKENDS[backend](tmp_path) as found:
        first = Plane(found.store)
        async with first.running():
            await first.applier.commit(Step(puts=tuple(member(f"n{n}", revision=0) for n in range(NODES))))
            nodes = first.connect(n3={"fails": True}, n7={"silent": True}, n8={"silent": True})
            wanted = job(parallel="10", max_failures="5", revision=0)
            await first.applier.commit(Step(puts=(wanted,)))
            async with asyncio.timeout(2 * DEADLINE_SECONDS):
                while len(list(recorded(first.cache.snapshot(), Wanted(job="j1")))) < NODES:
                    await asyncio.sleep(0.01)
        before = {task for node in nodes for task in node.done}

        # Another process goes on: who was at work is told again, who had ended is not.
        second = Plane(found.store)
        async with second.running():
            again = second.connect()
            await second.until(JobState.COMPLETED)
            after = [task for node in again for task in node.done]
            assert {("j1.n-n7", 1), ("j1.n-n8", 1)} <= set(after)
            assert len(before | set(after)) == NODES, "no node had a second attempt"
            snapshot = second.cache.snapshot()
            tasks = list(recorded(snapshot, Wanted(job="j1")))
            assert {task.state for task in tasks} == {TaskState.DONE, TaskState.FAILED}
            assert [task.member_name for task in tasks if task.state is TaskState.FAILED] == ["n3"]
            assert all(task.fetched_bytes == 7 for task in tasks), "what a node did is counted once"
            assert second.job().reason == f"{NODES - 1} of {NODES} nodes are done, 1 failed"

            # The record goes after its time, the tasks first.
            for _ in range(2):
                later = msgspec.structs.replace(second.job()).ended_at + 100
                await second.applier.apply(Plan(steps=list(forgettable(second.cache.snapshot(), later, 50.0))))
            snapshot = second.cache.snapshot()
            assert (len(snapshot.image_tasks), len(snapshot.image_jobs)) == (0, 0)
