"""Which records of images may be forgotten: old jobs with their tasks, and what removed nodes had."""

from collections.abc import Iterator

from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.image_jobs import ImageJob

MAX_TASKS = 200_000  # all records are held in memory


def forgettable(snapshot: Snapshot, now: float, keep_seconds: float) -> Iterator[Step]:
    """Yield the deletions due now; a job goes after its tasks, and nothing goes of a job that has not ended."""
    for images in snapshot.node_images.values():
        if images.id not in snapshot.members:
            yield Step(deletes=(images,))
    surplus = len(snapshot.image_tasks) - MAX_TASKS
    for job in sorted(_ended(snapshot), key=lambda job: job.ended_at):
        tasks = snapshot.image_tasks_by_job.get(job.id, [])
        if now - job.ended_at <= keep_seconds and surplus <= 0:
            continue
        surplus -= len(tasks)
        if tasks:
            yield from (Step(deletes=(task,)) for task in tasks)
        else:
            yield Step(deletes=(job,))
    for job_id, tasks in snapshot.image_tasks_by_job.items():
        if job_id not in snapshot.image_jobs:
            yield from (Step(deletes=(task,)) for task in tasks if task.ended_at)


def _ended(snapshot: Snapshot) -> list[ImageJob]:
    at_work = {task.job_id for tasks in snapshot.image_tasks_at_work.values() for task in tasks}
    return [job for job in snapshot.image_jobs.values() if job.ended_at and job.id not in at_work]
