"""Drift: nodes that have something else than the record says they should."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fallow.decide.snapshot import Snapshot
from fallow.model.image_jobs import ImageAction, ImageTask, TaskState
from fallow.model.image_requests import DriftView
from fallow.model.images import NodeImage, NodeImages, ResolvedImage
from fallow.model.members import Member

PULLING = (ImageAction.PULL, ImageAction.UPDATE)

When = tuple[float, int]  # and the revision, where the time is the same
NEVER: When = (0.0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Has:
    """What a node has told of its images."""

    node: Member
    told: NodeImages
    by_reference: Mapping[str, NodeImage]


def drift(snapshot: Snapshot, newest: Mapping[str, ResolvedImage] | None = None) -> list[DriftView]:
    """Return what differs, by node and reference.

    A tag has moved when a node has another image under a reference than it stood for when it was last resolved:
    by a job, or `newest`, which says so by reference. An image is missing when a node pulled it for a job, has told
    of its images since, and nothing we ordered has deleted it.
    """
    stands_for = {**_resolved(snapshot), **{key: (each, "") for key, each in (newest or {}).items()}}
    has = {
        node_id: _Has(
            node=node, told=told, by_reference={name: image for image in told.images for name in image.references}
        )
        for node_id, told in snapshot.node_images.items()
        if (node := snapshot.members.get(node_id)) is not None
    }
    found = [each for one in has.values() for each in _moved(one, stands_for)]
    found.extend(_missing(snapshot, has))
    return sorted(found, key=lambda each: (each.node, each.reference))


def _resolved(snapshot: Snapshot) -> dict[str, tuple[ResolvedImage, str]]:
    """Return what every reference stood for when a job last asked."""
    found: dict[str, tuple[ResolvedImage, str]] = {}
    for job in snapshot.image_jobs.values():
        if job.image is None:
            continue
        known = found.get(job.reference)
        if known is None or known[0].resolved_at < job.image.resolved_at:
            found[job.reference] = (job.image, job.id)
    return found


def _moved(has: _Has, stands_for: Mapping[str, tuple[ResolvedImage, str]]) -> Iterator[DriftView]:
    for reference in stands_for.keys() & has.by_reference.keys():
        image, (resolved, job_id) = has.by_reference[reference], stands_for[reference]
        wanted = resolved.for_architecture(has.node.facts.architecture)
        if wanted is None or wanted.image_id == image.id:
            continue
        # A store that names images by their manifests has not another image for that.
        if any(digest.endswith((resolved.digest, wanted.manifest.digest)) for digest in image.digests):
            continue
        yield DriftView(
            node=has.node.name,
            reference=reference,
            kind="other-image",
            wanted=wanted.image_id,
            found=image.id,
            because=f"image job {job_id}" if job_id else "its registry",
        )


def _missing(snapshot: Snapshot, has: Mapping[str, _Has]) -> Iterator[DriftView]:
    lacking = _lacking(snapshot, has)
    gone = _deleted(snapshot) if lacking else {}
    for (node_id, reference), task in lacking.items():
        told = has[node_id].told
        if told.seen_at <= task.ended_at or gone.get((node_id, reference), NEVER) > _when(task):
            continue
        by_id = task.image_id if "@" in reference else ""  # what a digest means is known by its id as well
        if any(reference in image.digests or image.id == by_id for image in told.images):
            continue
        yield DriftView(
            node=has[node_id].node.name,
            reference=reference,
            kind="missing",
            wanted=task.image_id,
            found="",
            because=f"image job {task.job_id}",
        )


def _lacking(snapshot: Snapshot, has: Mapping[str, _Has]) -> dict[tuple[str, str], ImageTask]:
    """Return the newest pull, by node and reference, of what nodes that tell all they have do not have by that name.

    There may be very many tasks, and nearly all are of images that are there.
    """
    found: dict[tuple[str, str], ImageTask] = {}
    for job_id, tasks in snapshot.image_tasks_by_job.items():
        job = snapshot.image_jobs.get(job_id)
        if job is None or job.action not in PULLING:
            continue
        reference = job.reference
        for task in tasks:
            one = has.get(task.member_id)
            if one is None or reference in one.by_reference or one.told.omitted or task.state is not TaskState.DONE:
                continue
            known = found.get((task.member_id, reference))
            if known is None or _when(known) < _when(task):
                found[task.member_id, reference] = task
    return found


def _deleted(snapshot: Snapshot) -> dict[tuple[str, str], When]:
    """Return when nodes last deleted what, by node and reference."""
    found: dict[tuple[str, str], When] = {}
    for job_id, tasks in snapshot.image_tasks_by_job.items():
        job = snapshot.image_jobs.get(job_id)
        if job is None or job.action in PULLING:
            continue
        for task in tasks:
            for verdict in task.verdicts if task.state is TaskState.DONE else ():
                if verdict.outcome == "deleted":
                    key = (task.member_id, verdict.reference)
                    found[key] = max(found.get(key, NEVER), _when(task))
    return found


def _when(task: ImageTask) -> When:
    return task.ended_at, task.revision
