"""Which replicas may be sent requests. Routes and names share this one rule."""

from collections import defaultdict
from collections.abc import Mapping

from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica
from fallow.model.members import MemberState


def endpoints_by_state(snapshot: Snapshot, deployment_id: str) -> Mapping[MemberState, list[Replica]]:
    """Return a deployment's endpoints by the state of their nodes.

    An endpoint is a replica that runs, whose probes succeed, that is not being withdrawn, and that has an address.
    """
    found: dict[MemberState, list[Replica]] = defaultdict(list)
    for replica in snapshot.replicas_by_deployment.get(deployment_id, ()):
        node = snapshot.members.get(replica.node_id)
        if node is not None and replica.healthy and replica.address:
            found[node.state].append(replica)
    return found
