"""What a cluster says of its part of one deployment; the host's own nodes are told of in the same words."""

from collections.abc import Iterable

from fallow.decide.endpoints import endpoint_on
from fallow.decide.harvest.throttled import FULL, Weights, weight_on
from fallow.decide.slots import LIVE
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import deployment_view
from fallow.model.deployments import Deployment, Replica, ReplicaState
from fallow.model.members import MemberState
from fallow.model.shares import RemoteEndpoint, ShareOrder, ShareReport

MAX_ENDPOINTS = 10_000  # of one report, see `ShareReport`
MAX_REASON = 1024
FENCED = "nothing was heard of the host for so long that it may run elsewhere: stopped here, as `fence` asks"

_SERVING = (MemberState.READY, MemberState.SUSPECT)
_PLACED = (ReplicaState.PLACED, ReplicaState.RUNNING)


def report_of(
    snapshot: Snapshot, deployment: Deployment, revision: int | None = None, weights: Weights | None = None
) -> ShareReport:
    """Return the report of a deployment. `revision` is of the order it follows; None: of the one it was changed by.

    `weights` are of nodes on lent capacity that are throttled.

    Without an origin it is of the host's own nodes, and the deployment's generation is the host's.
    """
    origin = deployment.origin
    replicas = snapshot.replicas_by_deployment.get(deployment.id, [])
    endpoints = [
        found for found in (_endpoint(snapshot, replica, weights or {}) for replica in replicas) if found is not None
    ]
    serving = {found.id for found in endpoints}
    view = deployment_view(snapshot, deployment)
    slots = {replica.slot for replica in replicas if replica.state in LIVE}
    fenced = origin is not None and origin.fenced
    return ShareReport(
        deployment_id=deployment.id,
        revision=revision if revision is not None else origin.revision if origin is not None else 0,
        generation=origin.generation if origin is not None else deployment.generation,
        replicas=0 if deployment.deleting else max(deployment.replicas_here, min(deployment.keep, len(slots))),
        placed=sum(replica.state in _PLACED for replica in replicas),
        running=sum(replica.state is ReplicaState.RUNNING for replica in replicas),
        ready=len(endpoints),
        updated=sum(replica.id in serving and _as_ordered(deployment, replica) for replica in replicas),
        leaving=tuple(replica.id for replica in replicas if _is_leaving(replica))[:MAX_ENDPOINTS],
        remaining=sum(bool(replica.node_id) and not replica.ended for replica in replicas),
        state="fenced" if fenced else view.state,
        reason=(FENCED if fenced else view.reason)[:MAX_REASON],
        endpoints=tuple(endpoints[:MAX_ENDPOINTS]),
    )


def concerned(snapshot: Snapshot, changed: Iterable[tuple[str, str]]) -> set[str]:
    """Return the deployments whose reports may differ after changes of records, by kind and id."""
    found: set[str] = set()
    for kind, id_ in changed:
        if kind == "deployments":
            found.add(id_)
        elif kind == "replicas":
            replica = snapshot.replicas.get(id_)
            if isinstance(replica, Replica):
                found.add(replica.deployment_id)
        elif kind == "members":
            found.update(replica.deployment_id for replica in snapshot.replicas_by_node.get(id_, ()))
    return found


def refused(order: ShareOrder, reason: str) -> ShareReport:
    """Return the report of an order that is not taken in."""
    return ShareReport(
        deployment_id=order.deployment_id,
        revision=order.revision,
        generation=order.generation,
        state="refused",
        reason=reason[:MAX_REASON],
    )


def _endpoint(snapshot: Snapshot, replica: Replica, weights: Weights) -> RemoteEndpoint | None:
    state = endpoint_on(snapshot, replica)
    if state not in _SERVING:
        return None
    suspect = state is MemberState.SUSPECT
    return RemoteEndpoint(
        id=replica.id,
        address=replica.address,
        ports=replica.host_ports,
        suspect=suspect,
        weight=FULL if suspect else weight_on(weights, replica.node_id),
    )


def _as_ordered(deployment: Deployment, replica: Replica) -> bool:
    """Say whether a replica is made of what the order wants; one that was rolled back here is not."""
    origin = deployment.origin
    if origin is None or origin.taken_as == deployment.generation:
        return deployment.wants(replica.generation)
    return replica.generation == origin.taken_as


def _is_leaving(replica: Replica) -> bool:
    return replica.state is ReplicaState.LEAVING and bool(replica.host_ports)
