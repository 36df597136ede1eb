"""Image jobs, their tasks, and what nodes have, as the API shows them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from fallow.decide.image_standing import standing_of
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.image_jobs import ImageJob, ImageTask, TaskProgress, TaskState
from fallow.model.image_requests import ImageJobView, ImageTaskView, ImageView, JobCounts, NodeImagesView
from fallow.model.images import NodeImage, NodeImages

Progress = Callable[[str], TaskProgress | None]


def job_view(snapshot: Snapshot, job: ImageJob, heard: Heard, now: float) -> ImageJobView:
    """Return a job with its nodes counted by what became of them."""
    found = standing_of(snapshot, job, heard, now)
    tasks = snapshot.image_tasks_by_job.get(job.id, ())
    deployment = snapshot.deployments.get(job.deployment_id)
    return ImageJobView(
        id=job.id,
        action=job.action,
        reference=job.reference,
        digest=job.image.digest if job.image is not None else "",
        target=job.target,
        rules=job.rules,
        instruction=job.instruction,
        project=job.project,
        parallel=job.parallel,
        canary=job.canary,
        max_failures=job.max_failures,
        attempts=job.attempts,
        attempt_seconds=job.attempt_seconds,
        stall_seconds=job.stall_seconds,
        deadline_at=job.deadline_at,
        wait_for_nodes=job.wait_for_nodes,
        state=job.state,
        reason=job.reason,
        created_at=job.created_at,
        created_by=job.created_by,
        ended_at=job.ended_at,
        deployment=deployment.path if deployment is not None else job.deployment_id,
        schedule=job.schedule_id,
        counts=JobCounts(
            nodes=found.nodes,
            queued=len(found.queued),
            working=len(found.working),
            waiting=len(found.waiting),
            done=len(found.done),
            failed=len(found.failed),
            cancelled=len(found.cancelled),
            away=found.away,
        ),
        fetched_bytes=sum(task.fetched_bytes for task in tasks),
        freed_bytes=sum(task.freed_bytes for task in tasks),
        roll=job.roll,
        renewed=job.renewed,
    )


def task_view(task: ImageTask, job: ImageJob | None, progress: Progress) -> ImageTaskView:
    """Return a task with what it was asked to do; `progress` says how far one at work is."""
    told = progress(task.id) if task.state is TaskState.WORKING else None
    return ImageTaskView(
        id=task.id,
        job_id=task.job_id,
        node=task.member_name,
        node_id=task.member_id,
        action=job.action if job is not None else "pull",  # type: ignore[arg-type]
        reference=job.reference if job is not None else "",
        instruction=job.instruction if job is not None else "",
        state=task.state,
        attempt=task.attempt,
        created_at=task.created_at,
        started_at=task.started_at,
        ended_at=task.ended_at,
        seconds=max(0.0, task.ended_at - task.started_at) if task.ended_at else 0.0,
        not_before=task.not_before,
        kind=task.kind,
        text=told.text if told is not None and told.text else task.text,
        current_bytes=told.current_bytes if told is not None else 0,
        total_bytes=told.total_bytes if told is not None and told.total_bytes else task.total_bytes,
        fetched_bytes=task.fetched_bytes,
        freed_bytes=task.freed_bytes,
        image_id=task.image_id,
        unchanged=task.unchanged,
        verdicts=task.verdicts,
        log=task.log,
    )


def node_images_view(snapshot: Snapshot, found: NodeImages) -> NodeImagesView:
    """Return what one node has."""
    node = snapshot.members.get(found.id)
    return NodeImagesView(
        node=node.name if node is not None else found.id,
        node_id=found.id,
        images=found.images,
        omitted=found.omitted,
        image_bytes=min(2**60, sum(image.size_bytes for image in found.images)),
        disk_bytes=found.disk_bytes,
        disk_free_bytes=found.disk_free_bytes,
        seen_at=found.seen_at,
    )


def image_views(snapshot: Snapshot, wanted: Callable[[NodeImage], bool]) -> Iterator[ImageView]:
    """Yield every image that some node has, by id, with everybody who has it; those most nodes have come first."""
    holders: dict[str, list[tuple[str, NodeImage]]] = defaultdict(list)
    for found in snapshot.node_images.values():
        node = snapshot.members.get(found.id)
        for image in found.images:
            if node is not None and wanted(image):
                holders[image.id].append((node.name, image))
    shared = _shared_layers(snapshot)
    for id_, having in sorted(holders.items(), key=lambda each: (-len(each[1]), each[0])):
        first = having[0][1]
        yield ImageView(
            id=id_,
            references=_each_once(name for _, image in having for name in image.references),
            digests=_each_once(name for _, image in having for name in image.digests),
            architecture=first.architecture,
            size_bytes=first.size_bytes,
            shared_layers=sum(layer in shared for layer in first.layers),
            layers=len(first.layers),
            nodes=tuple(sorted(name for name, _ in having)),
            in_use_on=tuple(sorted(name for name, image in having if image.containers)),
        )


def _shared_layers(snapshot: Snapshot) -> set[str]:
    """Return the layers that more than one image has."""
    owner: dict[str, str] = {}
    shared: set[str] = set()
    for found in snapshot.node_images.values():
        for image in found.images:
            for layer in image.layers:
                if owner.setdefault(layer, image.id) != image.id:
                    shared.add(layer)
    return shared


def _each_once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))
