"""Takes in what agents say of their image tasks; progress stays in memory, only what ended is stored."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from fallow.decide.image_tasks import reported
from fallow.decide.plan import Plan, Step
from fallow.model.image_jobs import ImageJob, ImageTask, TaskProgress, TaskReport, TaskState
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class _Batch:
    member_id: str
    reports: Sequence[TaskReport]
    stored: asyncio.Future[None]


class ImageReports:
    """Gathers what arrives from every session while the last commit was under way, and stores it in one go."""

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._queue: asyncio.Queue[_Batch] = asyncio.Queue()
        self._progress: dict[str, TaskProgress] = {}

    def submit(self, member_id: str, reports: Sequence[TaskReport]) -> asyncio.Future[None]:
        """Return a future that is done once the reports of a node are stored, or were found to say nothing new.

        It is cancelled when they cannot be taken in at all.
        """
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Batch(member_id=member_id, reports=reports, stored=stored))
        return stored

    def progressed(self, member_id: str, tasks: Iterable[TaskProgress]) -> None:
        """Note how far tasks of a node are; what is not its own, or not at work, is not noted."""
        for told in tasks:
            task = self._cache.get("image-tasks", told.task_id)
            if isinstance(task, ImageTask) and task.member_id == member_id and task.state is TaskState.WORKING:
                self._progress[told.task_id] = told

    def progress(self, task_id: str) -> TaskProgress | None:
        """Return how far a task is, as its session last told this process."""
        return self._progress.get(task_id)

    async def run(self) -> None:
        """Store what arrives until cancelled."""
        while True:
            batches = [await self._queue.get()]
            while not self._queue.empty():
                batches.append(self._queue.get_nowait())
            try:
                await self._take_in(batches)
            except Exception:  # noqa: BLE001 - one node's words must not end the loop for all; it is logged whole
                _log.exception("image reports not taken in", members=sorted({batch.member_id for batch in batches}))
                await self._one_by_one(batches)
            for batch in batches:
                if not batch.stored.done():
                    batch.stored.set_result(None)
            self._forget_progress()

    async def _one_by_one(self, batches: Sequence[_Batch]) -> None:
        """Take in all batches but those that fail by themselves."""
        for batch in batches:
            try:
                await self._take_in([batch])
            except Exception:  # noqa: BLE001 - as above
                batch.stored.cancel()

    async def _take_in(self, batches: Sequence[_Batch]) -> None:
        """Store until nothing is left that a conflict kept out."""
        while True:
            try:
                steps = self._steps(batches)
                if not steps or (await self._applier.apply(Plan(steps=steps))).dropped == 0:
                    return
            except StoreError as error:
                _log.warning("store refused image reports; they are tried again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _steps(self, batches: Sequence[_Batch]) -> list[Step]:
        now = self._clock()
        changed: dict[str, ImageTask] = {}
        for batch in batches:
            for report in batch.reports:
                task = changed.get(report.task_id) or self._cache.get("image-tasks", report.task_id)
                if not isinstance(task, ImageTask) or task.member_id != batch.member_id:
                    continue  # forgotten already, or another node's: not this one's to speak of
                job = self._cache.get("image-jobs", task.job_id)
                after = reported(job if isinstance(job, ImageJob) else None, task, report, now)
                if after is not None:
                    changed[task.id] = after
        return [Step(puts=(task,)) for task in changed.values()]

    def _forget_progress(self) -> None:
        at_work = self._cache.snapshot().image_tasks_at_work
        known = {task.id for tasks in at_work.values() for task in tasks} if self._progress else set()
        self._progress = {id_: told for id_, told in self._progress.items() if id_ in known}
