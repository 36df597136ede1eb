"""Images pulled ahead of an update, so that replacing replicas waits for no pull.

Before an update replaces anything, an image job of the deployment's own pulls on the nodes where its replicas are and
where the new ones are foretold to be, by the rules of placement. A replica is replaced once its node has ended that
task, well or not: whatever goes wrong here only means that the update goes on as it would without. Nodes that tell
nothing of their images take no part, and nor do those that have the image already.
"""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from fallow.decide.events import event
from fallow.decide.image_tasks import task_id
from fallow.decide.placement import foretell
from fallow.decide.plan import Step
from fallow.decide.slots import Slots
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica
from fallow.model.events import Event
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTarget, JobState, TaskState
from fallow.model.members import MemberState
from fallow.model.references import parse_reference
from fallow.model.units import format_bytes, format_duration
from fallow.model.updates import PulledAhead

DEADLINE_SECONDS = 600.0  # then the update goes on
LOOK_SECONDS = 0.25  # between looks at how far the pulls are
PARALLEL = "64"
ATTEMPTS = 2

_OPEN = (JobState.RUNNING, JobState.PAUSED)


def job_id(deployment: Deployment) -> str:
    """Return the id of the job that pulls ahead for the deployment's present generation.

    Another one each time that a generation begins: a store that is restored from a backup gives out numbers again, and
    nodes remember what became of a task.
    """
    began = deployment.update.started_at if deployment.update is not None else 0.0
    return f"a-{deployment.id}-{deployment.generation}-{int(began * 1000):x}"


def ahead(slots: Slots, owners: list[Replica]) -> tuple[list[Replica], list[Step]]:
    """Return those of `owners` that may be replaced now, and the steps that begin to pull for the others."""
    snapshot, deployment = slots.snapshot, slots.deployment
    status = deployment.update
    if not owners or status is None or status.rollback or status.generation != deployment.generation:
        return owners, []
    job = snapshot.image_jobs.get(job_id(deployment))
    if job is None:
        steps = list(_begun(slots, owners))
        return ([], steps) if steps else (owners, [])
    if job.state not in _OPEN or slots.now >= job.deadline_at:
        return owners, []
    waiting = {node_id for node_id in job.target.names if not _ended(snapshot, job, node_id)}
    return [owner for owner in owners if owner.node_id not in waiting], []


def told_ahead(snapshot: Snapshot, job: ImageJob, now: float, new_id: Callable[[], str]) -> Event | None:
    """Return what to tell of a job that has pulled ahead; None when it had nothing to fetch."""
    deployment = snapshot.deployments.get(job.deployment_id)
    found = _summary(snapshot, job)
    if deployment is None or not found.nodes:
        return None
    how_much = f", {format_bytes(found.fetched_bytes)}" if found.fetched_bytes else ""
    seconds = f"{found.seconds:.1f} s" if found.seconds < 60 else format_duration(found.seconds)
    nodes = f"{found.nodes} node" + ("s" if found.nodes > 1 else "")
    text = (
        f"{deployment.path}: images were pulled ahead on {nodes} in {seconds}{how_much}; "
        f"no replica had to wait up to {found.longest_seconds:.1f} s for its own pull"
    )
    return event(
        new_id(), now, "loop:deployments", "deployment", deployment.id, deployment.path, "ImagesPulledAhead", text
    )


def pulled_ahead(snapshot: Snapshot, deployment: Deployment, portion: int) -> PulledAhead | None:
    """Return what was pulled ahead for a deployment's newest generation, which is renewed in portions of that size.

    None: nothing was to be pulled, or its record is gone.
    """
    job = snapshot.image_jobs.get(job_id(deployment))
    return _summary(snapshot, job, portion) if job is not None else None


def _summary(snapshot: Snapshot, job: ImageJob, portion: int = 0) -> PulledAhead:
    tasks = snapshot.image_tasks_by_job.get(job.id, ())
    fetched = [task for task in tasks if task.state is TaskState.DONE and not task.unchanged]
    pulls = sorted((task.ended_at - task.started_at for task in fetched), reverse=True)
    seconds = max((task.ended_at for task in fetched), default=job.created_at) - job.created_at
    one_by_one = sum(pulls[:: portion or len(pulls) or 1])  # each portion waits for the slowest pull in it
    return PulledAhead(
        nodes=len(fetched),
        pending=0 if job.ended_at else len(job.target.names) - sum(task.ended for task in tasks),
        failed=sum(task.state is TaskState.FAILED for task in tasks),
        seconds=seconds,
        longest_seconds=pulls[0] if pulls else 0.0,
        saved_seconds=max(0.0, one_by_one - seconds),
        fetched_bytes=sum(task.fetched_bytes for task in fetched),
    )


def _begun(slots: Slots, owners: Iterable[Replica]) -> Iterator[Step]:
    snapshot, deployment, now = slots.snapshot, slots.deployment, slots.now
    try:
        reference = parse_reference(deployment.spec.container.image).text
    except ValueError:
        return
    nodes = _nodes(slots, owners, reference)
    if not nodes:
        return
    job = ImageJob(
        id=job_id(deployment),
        created_at=now,
        updated_at=now,
        action=ImageAction.PULL,
        reference=reference,
        target=ImageTarget(names=tuple(nodes)),
        instruction=f"pull ahead for generation {deployment.generation} of {deployment.path}",
        parallel=PARALLEL,
        max_failures="100%",
        attempts=ATTEMPTS,
        attempt_seconds=DEADLINE_SECONDS,
        deadline_at=now + DEADLINE_SECONDS,
        created_by="loop:deployments",
        project=deployment.project,
        deployment_id=deployment.id,
    )
    yield Step(puts=(job,), guards=(deployment,))
    for other in snapshot.image_jobs.values():
        if other.deployment_id == deployment.id and other.state in _OPEN:
            superseded = msgspec.structs.replace(
                other, state=JobState.CANCELLED, reason="a newer generation is wanted", ended_at=now, updated_at=now
            )
            yield Step(puts=(superseded,))


def _nodes(slots: Slots, owners: Iterable[Replica], reference: str) -> list[str]:
    """Return the ids of the nodes to pull on: those that can, and do not have the image."""
    snapshot, deployment = slots.snapshot, slots.deployment
    if not snapshot.node_images:
        return []
    wishes = [(deployment.name, deployment.spec)]
    told = foretell(snapshot, deployment.project, wishes, slots.now, slots.heard, slots.servers).get(deployment.name)
    names = set(told.placements) if told is not None else set()
    wanted = {owner.node_id for owner in owners}
    wanted |= {node.id for node in snapshot.nodes.values() if node.name in names}
    return sorted(node_id for node_id in wanted if _lacks(snapshot, node_id, reference))


def _lacks(snapshot: Snapshot, node_id: str, reference: str) -> bool:
    node, images = snapshot.members.get(node_id), snapshot.node_images.get(node_id)
    if node is None or node.state is not MemberState.READY or images is None:
        return False
    return not any(reference in (*image.references, *image.digests) for image in images.images)


def _ended(snapshot: Snapshot, job: ImageJob, node_id: str) -> bool:
    """Say whether a node is not waited for: its task has ended, or it is away and replaced for that anyway."""
    node = snapshot.members.get(node_id)
    if node is None or node.state is not MemberState.READY:
        return True
    task = snapshot.image_tasks.get(task_id(job, node_id))
    return task is not None and task.ended
