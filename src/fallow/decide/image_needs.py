"""Which images deployments need: no clean may take them, on any node."""

from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Template
from fallow.model.references import qualified

MAX_NEEDED = 10_000  # as many as an order may carry


def needed(snapshot: Snapshot) -> tuple[str, ...]:
    """Return the references, in full, and the ids that deployments need now or to go back: sorted, each once.

    That is the wanted generation, the last good one, the one an update came from, the one before, and whatever a
    replica still runs.
    """
    wanted = {replica.template_id for replica in snapshot.replicas.values() if not replica.ended}
    before: dict[str, Template] = {}  # by deployment, the newest that is not what is wanted now
    for template in snapshot.templates.values():
        deployment = snapshot.deployments.get(template.deployment_id)
        if deployment is None:
            continue
        if template.generation in _generations(deployment):
            wanted.add(template.id)
        known = before.get(deployment.id)
        if not deployment.wants(template.generation) and (known is None or known.generation < template.generation):
            before[deployment.id] = template
    wanted |= {template.id for template in before.values()}
    templates = [found for id_ in wanted if (found := snapshot.templates.get(id_)) is not None]
    references = {qualified(template.container.image) for template in templates}
    references |= {qualified(found.spec.container.image) for found in snapshot.deployments.values()}
    jobs = (job.image for job in snapshot.image_jobs.values() if job.reference in references)
    resolved = [image for image in (*jobs, *(template.image for template in templates)) if image is not None]
    ids = {each.image_id for image in resolved for each in image.platforms}
    return tuple(sorted(references | ids))[:MAX_NEEDED]


def _generations(deployment: Deployment) -> tuple[int, ...]:
    came_from = deployment.update.from_generation if deployment.update is not None else 0
    return deployment.generation, deployment.good_generation, came_from
