"""Takes in what agents say of their image tasks; progress stays in memory, only what ended is stored."""

from collections.abc import Callable, Iterable, Sequence

from fallow.control.intake import Batch, Intake
from fallow.decide.image_tasks import reported
from fallow.decide.plan import Step
from fallow.model.image_jobs import ImageJob, ImageTask, TaskProgress, TaskReport, TaskState
from fallow.store.applier import Applier
from fallow.store.cache import Cache


class ImageReports(Intake[TaskReport]):
    """Reports of image tasks, and how far those are that have not ended."""

    what = "image reports"

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float]) -> None:
        super().__init__(applier)
        self._cache = cache
        self._clock = clock
        self._progress: dict[str, TaskProgress] = {}

    def progressed(self, member_id: str, tasks: Iterable[TaskProgress]) -> None:
        """Note how far tasks of a node are; what is not its own, or not at work, is not noted."""
        for told in tasks:
            task = self._cache.get("image-tasks", told.task_id)
            if isinstance(task, ImageTask) and task.member_id == member_id and task.state is TaskState.WORKING:
                self._progress[told.task_id] = told

    def progress(self, task_id: str) -> TaskProgress | None:
        """Return how far a task is, as its session last told this process."""
        return self._progress.get(task_id)

    def steps(self, batches: Sequence[Batch[TaskReport]]) -> list[Step]:
        """Return the tasks that have ended by what their own nodes say."""
        now = self._clock()
        changed: dict[str, ImageTask] = {}
        for batch in batches:
            for report in batch.items:
                task = changed.get(report.task_id) or self._cache.get("image-tasks", report.task_id)
                if not isinstance(task, ImageTask) or task.member_id != batch.member_id:
                    continue  # forgotten already, or another node's: not this one's to speak of
                job = self._cache.get("image-jobs", task.job_id)
                after = reported(job if isinstance(job, ImageJob) else None, task, report, now)
                if after is not None:
                    changed[task.id] = after
        return [Step(puts=(task,)) for task in changed.values()]

    def taken_in(self) -> None:
        """Forget how far tasks were that have ended."""
        at_work = self._cache.snapshot().image_tasks_at_work
        known = {task.id for tasks in at_work.values() for task in tasks} if self._progress else set()
        self._progress = {id_: told for id_, told in self._progress.items() if id_ in known}
