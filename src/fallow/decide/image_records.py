"""The record of image tasks: which are asked for, in pages, newest first."""

from collections.abc import Iterator
from dataclasses import dataclass

from fallow.decide.snapshot import Snapshot
from fallow.model.image_jobs import ImageTask, TaskState
from fallow.model.references import qualified

Place = tuple[int, str]  # milliseconds, id


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which tasks are asked for; None: whichever. `since` and `until` are UTC seconds of when a task was made."""

    job: str | None = None
    node: str | None = None  # name or id
    state: TaskState | None = None
    image: str | None = None  # a reference in any form, an image id, or a digest
    since: float | None = None
    until: float | None = None


def recorded(snapshot: Snapshot, wanted: Wanted, after: Place | None = None) -> Iterator[ImageTask]:
    """Yield tasks newest first, those of a page that ended at `after` left out."""
    tasks = snapshot.image_tasks_by_job.get(wanted.job, ()) if wanted.job is not None else snapshot.image_tasks.values()
    jobs = _jobs_with(snapshot, wanted.image)
    chosen = [
        task
        for task in tasks
        if (wanted.node is None or wanted.node in (task.member_id, task.member_name))
        and (wanted.state is None or task.state is wanted.state)
        and (wanted.since is None or max(task.created_at, task.updated_at) >= wanted.since)
        and (wanted.until is None or task.created_at <= wanted.until)
        and (jobs is None or task.job_id in jobs or task.image_id == wanted.image or _told_of(task, wanted.image))
        and (after is None or place_of(task) < after)
    ]
    yield from sorted(chosen, key=place_of, reverse=True)


def place_of(task: ImageTask) -> Place:
    """Return where a task stands in the record."""
    return int(task.created_at * 1000), task.id


def _jobs_with(snapshot: Snapshot, image: str | None) -> set[str] | None:
    if image is None:
        return None
    reference = qualified(image)
    return {
        id_
        for id_, job in snapshot.image_jobs.items()
        if job.reference in (image, reference) or (job.image is not None and image == job.image.digest)
    }


def _told_of(task: ImageTask, image: str | None) -> bool:
    """Say whether a delete or a clean told of this image."""
    if not task.verdicts or image is None:
        return False
    names = (image, qualified(image))
    return any(verdict.reference in names or verdict.image_id == image for verdict in task.verdicts)
