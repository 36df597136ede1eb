"""A world of image jobs without a store: records, the loop of jobs, and agents that report."""

from collections.abc import Iterable
from typing import Any

import msgspec
from records import NOW, ids, member, snapshot

from fallow.decide.image_jobs import advance
from fallow.decide.image_tasks import reported
from fallow.decide.snapshot import Snapshot
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTarget, ImageTask, TaskReport, TaskState
from fallow.model.members import Member
from fallow.model.meta import Record


def job(id_: str = "j1", **changes: Any) -> ImageJob:
    values: dict[str, Any] = {
        "id": id_, "created_at": NOW, "updated_at": NOW, "revision": 1, "action": ImageAction.PULL,
        "reference": "registry.example/shop/api:1", "target": ImageTarget(), "parallel": "2",
    }  # fmt: skip
    return ImageJob(**(values | changes))


class World:
    """Records in memory, and what a loop and agents do to them."""

    def __init__(self, *records: Record) -> None:
        self.records = {(type(record), record.id): record for record in records}
        self.now = NOW
        self.revision = 10
        self.new_id = ids()
        self.wake: float | None = None

    @property
    def snapshot(self) -> Snapshot:
        return snapshot(*self.records.values(), revision=self.revision)

    def put(self, *records: Record) -> None:
        self.revision += 1
        for record in records:
            self.records[type(record), record.id] = msgspec.structs.replace(record, revision=self.revision)

    def drop(self, record: Record) -> None:
        del self.records[type(record), record.id]

    def run(self, per_registry: int = 64) -> None:
        """Run the loop until it has nothing more to do now."""
        for _ in range(20):
            plan = advance(self.snapshot, self.now, self.new_id, {}, per_registry)
            self.wake = plan.wake_after_seconds
            if not plan.steps:
                return
            seen: set[tuple[type, str]] = set()
            for step in plan.steps:
                assert seen.isdisjoint({(type(put), put.id) for put in step.puts}), "one record twice in a plan"
                seen |= {(type(put), put.id) for put in step.puts}
                self.put(*(put for put in step.puts if type(put).__name__ != "Event"))
        raise AssertionError("the loop does not come to rest")

    def job(self, id_: str = "j1") -> ImageJob:
        return self.snapshot.image_jobs[id_]

    def tasks(self, state: TaskState | None = None, job_id: str = "") -> list[ImageTask]:
        return sorted(
            (
                task
                for task in self.snapshot.image_tasks.values()
                if (state is None or task.state is state) and job_id in ("", task.job_id)
            ),
            key=lambda task: task.id,
        )

    @property
    def working(self) -> list[str]:
        return [task.member_name for task in self.tasks(TaskState.WORKING)]

    def report(self, task: ImageTask, state: Any = "done", **more: Any) -> bool:
        told = TaskReport(task_id=task.id, attempt=task.attempt, state=state, **more)
        found = self.snapshot.image_tasks[task.id]
        after = reported(self.snapshot.image_jobs.get(task.job_id), found, told, self.now)
        if after is not None:
            self.put(after)
        return after is not None

    def finish(self, tasks: Iterable[ImageTask] | None = None, state: Any = "done", **more: Any) -> None:
        for task in self.tasks(TaskState.WORKING) if tasks is None else tasks:
            assert self.report(task, state, **more)


def nodes(count: int, **changes: Any) -> list[Member]:
    return [member(f"n{number:04d}", **changes) for number in range(count)]
