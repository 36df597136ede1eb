"""Image jobs and tasks whose moments were stored before the clock was set back, dated anew.

What lies ahead was meant to be so long after the record was written; it is put so long after now. Otherwise a task that
is tried again in two seconds would wait for as long as the clock went back, and an update for the images it pulls.
"""

from collections.abc import Iterable, Iterator

import msgspec

from fallow.decide.placement.standing import CLOCKS_APART_SECONDS
from fallow.model.image_jobs import ImageJob, ImageTask


def redated(job: ImageJob, tasks: Iterable[ImageTask], now: float) -> Iterator[ImageJob | ImageTask]:
    """Yield those of an open job and its open tasks that were written later than `now`, as of now."""
    if (ahead := job.updated_at - now) > CLOCKS_APART_SECONDS:
        yield msgspec.structs.replace(
            job,
            created_at=min(job.created_at, now),
            updated_at=now,
            deadline_at=job.deadline_at - ahead if job.deadline_at else 0.0,
        )
    for task in tasks:
        if (ahead := task.updated_at - now) > CLOCKS_APART_SECONDS:
            yield msgspec.structs.replace(
                task,
                updated_at=now,
                started_at=min(task.started_at, now),
                not_before=task.not_before - ahead if task.not_before else 0.0,
                lease_until=task.lease_until - ahead if task.lease_until else 0.0,
            )
