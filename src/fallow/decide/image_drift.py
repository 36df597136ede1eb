"""Drift: nodes that have something else than the record says they should."""

from collections.abc import Iterator, Mapping

from fallow.decide.snapshot import Snapshot
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTask, TaskState
from fallow.model.image_requests import DriftView
from fallow.model.images import NodeImage, ResolvedImage
from fallow.model.members import Member

PULLING = (ImageAction.PULL, ImageAction.UPDATE)


def drift(snapshot: Snapshot, newest: Mapping[str, ResolvedImage] | None = None) -> list[DriftView]:
    """Return what differs, by node and reference.

    A tag has moved when a node has another image under a reference than it stood for when it was last resolved:
    by a job, or `newest`, which says so by reference. An image is missing when a node pulled it for a job, has told
    of its images since, and nothing we ordered has deleted it.
    """
    stands_for = {**_resolved(snapshot), **{key: (each, "") for key, each in (newest or {}).items()}}
    pulled = _pulled(snapshot)
    found: list[DriftView] = []
    for node_id, images in snapshot.node_images.items():
        node = snapshot.members.get(node_id)
        if node is None:
            continue
        by_reference = {name: image for image in images.images for name in image.references}
        found.extend(_moved(node, by_reference, stands_for))
        if not images.omitted:
            found.extend(_missing(node, by_reference, images.images, pulled.get(node_id, {}), images.seen_at))
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


def _moved(
    node: Member, by_reference: Mapping[str, NodeImage], stands_for: Mapping[str, tuple[ResolvedImage, str]]
) -> Iterator[DriftView]:
    for reference, image in by_reference.items():
        known = stands_for.get(reference)
        wanted = known[0].for_architecture(node.facts.architecture) if known is not None else None
        if known is None or wanted is None or wanted.image_id == image.id:
            continue
        # A store that names images by their manifests has not another image for that.
        if any(digest.endswith((known[0].digest, wanted.manifest.digest)) for digest in image.digests):
            continue
        yield DriftView(
            node=node.name,
            reference=reference,
            kind="other-image",
            wanted=wanted.image_id,
            found=image.id,
            because=f"image job {known[1]}" if known[1] else "its registry",
        )


def _pulled(snapshot: Snapshot) -> dict[str, dict[str, tuple[ImageJob, ImageTask]]]:
    """Return the newest pull of every reference that each node has done, and that no later order took away."""
    found: dict[str, dict[str, tuple[ImageJob, ImageTask]]] = {}
    done = [task for task in snapshot.image_tasks.values() if task.state is TaskState.DONE]
    for task in sorted(done, key=lambda task: (task.ended_at, task.revision)):
        job = snapshot.image_jobs.get(task.job_id)
        mine = found.setdefault(task.member_id, {})
        if job is None:
            continue
        if job.action in PULLING:
            mine[job.reference] = (job, task)
        else:
            for verdict in task.verdicts:
                if verdict.outcome == "deleted":
                    mine.pop(verdict.reference, None)
    return found


def _missing(
    node: Member,
    by_reference: Mapping[str, NodeImage],
    images: tuple[NodeImage, ...],
    pulled: Mapping[str, tuple[ImageJob, ImageTask]],
    seen_at: float,
) -> Iterator[DriftView]:
    digests = {digest for image in images for digest in image.digests}
    for reference, (job, task) in pulled.items():
        if seen_at > task.ended_at and reference not in by_reference and reference not in digests:
            yield DriftView(
                node=node.name,
                reference=reference,
                kind="missing",
                wanted=task.image_id,
                found="",
                because=f"image job {job.id}",
            )
