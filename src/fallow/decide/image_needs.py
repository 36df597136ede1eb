"""Which images deployments need: no clean may take them, on any node."""

from fallow.decide.snapshot import Snapshot
from fallow.model.references import qualified

MAX_NEEDED = 10_000  # as many as an order may carry


def needed(snapshot: Snapshot) -> tuple[str, ...]:
    """Return the references, in full, and the ids that deployments need now or to go back: sorted, each once.

    That is the wanted generation, the last good one, the one an update came from, and whatever a replica still runs.
    """
    wanted: set[str] = set()
    for deployment in snapshot.deployments.values():
        update = deployment.update
        for generation in {
            deployment.generation,
            deployment.good_generation,
            update.from_generation if update is not None else 0,
        }:
            wanted.add(f"{deployment.id}.{generation}")
    wanted |= {replica.template_id for replica in snapshot.replicas.values() if not replica.ended}
    references = {
        qualified(template.container.image) for id_ in wanted if (template := snapshot.templates.get(id_)) is not None
    }
    references |= {qualified(found.spec.container.image) for found in snapshot.deployments.values()}
    ids = {
        each.image_id
        for job in snapshot.image_jobs.values()
        if job.image is not None and job.reference in references
        for each in job.image.platforms
    }
    return tuple(sorted(references | ids))[:MAX_NEEDED]
