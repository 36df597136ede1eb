"""Which replicas may be sent requests. Routes and names share this one rule."""

from collections import defaultdict
from collections.abc import Mapping

from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica
from fallow.model.members import MemberState


def endpoint_on(snapshot: Snapshot, replica: Replica) -> MemberState | None:
    """Return the state of the node of a replica that is an endpoint; None: it is none.

    An endpoint is a replica that runs, whose probes succeed, that is not being withdrawn, and that has an address.
    """
    if not replica.healthy or not replica.address:
        return None
    node = snapshot.members.get(replica.node_id)
    return node.state if node is not None else None


def endpoints_by_state(snapshot: Snapshot, deployment_id: str) -> Mapping[MemberState, list[Replica]]:
    """Return a deployment's endpoints by the state of their nodes."""
    found: dict[MemberState, list[Replica]] = defaultdict(list)
    for replica in snapshot.replicas_by_deployment.get(deployment_id, ()):
        if (state := endpoint_on(snapshot, replica)) is not None:
            found[state].append(replica)
    return found
