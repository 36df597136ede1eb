"""What a node should run, told from the replicas it was given."""

from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState, Template
from fallow.model.wire import Assignment

_RUN = (ReplicaState.PLACED, ReplicaState.RUNNING, ReplicaState.LEAVING)


def assignment_of(replica: Replica, template: Template) -> Assignment | None:
    """Return what the replica's node should do about it; None: nothing any more."""
    if not replica.node_id or replica.ended:
        return None
    return Assignment(
        replica_id=replica.id,
        deployment=f"{replica.project}/{replica.deployment}",
        generation=replica.generation,
        run=replica.state in _RUN,
        container=template.container,
        host_ports=replica.host_ports,
    )


def assignments_of(snapshot: Snapshot, node_id: str) -> dict[str, Assignment]:
    """Return every assignment of a node by replica id."""
    found = {}
    for replica in snapshot.replicas_by_node.get(node_id, ()):
        template = snapshot.templates.get(replica.template_id)
        wanted = assignment_of(replica, template) if template is not None else None
        if wanted is not None:
            found[replica.id] = wanted
    return found
