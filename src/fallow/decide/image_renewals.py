"""Deployments that are renewed once an image job has brought what their tag stands for now to its nodes."""

from collections.abc import Callable, Iterator
from itertools import islice

import msgspec

from fallow.decide.generations import Author, pinned, restarted
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.image_jobs import ImageJob
from fallow.model.references import qualified

AT_ONCE = 20  # deployments in one commit


def renewal(snapshot: Snapshot, job: ImageJob, now: float, new_id: Callable[[], str]) -> Step | None:
    """Return what renews the next deployments that a job is to renew, and notes them in it; None: none is left."""
    found = list(islice(to_renew(snapshot, job), AT_ONCE))
    if not found:
        return None
    author = Author(now, new_id, job.created_by)
    puts = [put for each in found for put in restarted(each, author).puts]
    noted = (*job.renewed, *(each.path for each in found))
    step = Step(puts=(msgspec.structs.replace(job, renewed=noted, updated_at=now), *puts))
    return pinned(step, {each.spec.container.image: job.image for each in found}) if job.image is not None else step


def to_renew(snapshot: Snapshot, job: ImageJob) -> Iterator[Deployment]:
    """Yield the deployments that a job has yet to renew.

    One that runs these very bytes already is left alone, and so is a generation that is younger than the job.
    """
    for deployment in snapshot.deployments.values():
        if deployment.deleting or deployment.origin is not None:
            continue
        if qualified(deployment.spec.container.image) != job.reference:
            continue
        template = snapshot.templates.get(f"{deployment.id}.{deployment.generation}")
        if template is None or template.created_at >= job.created_at:
            continue
        if template.image is None or job.image is None or template.image.digest != job.image.digest:
            yield deployment
