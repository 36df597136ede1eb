"""What runs in other clusters than this one, and how to ask for it there: their replicas have no records here."""

from collections.abc import Mapping

from fallow.decide.federation.causes import listed
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.members import Member


def elsewhere(snapshot: Snapshot, deployment: Deployment) -> dict[str, int]:
    """Return how many replicas of a deployment other clusters said that they have last, by their ids."""
    return {
        share.cluster_id: share.reported.placed
        for share in snapshot.shares_by_deployment.get(deployment.id, ())
        if share.cluster_id != HERE_ID
        and share.cluster_id in snapshot.clusters
        and share.reported is not None
        and share.reported.placed
    }


def has_replica(snapshot: Snapshot, replica_id: str) -> tuple[Member, Deployment] | None:
    """Return the other cluster whose ready replica it is, and of which deployment; None: no cluster has said so."""
    for share in snapshot.shares.values():
        cluster, deployment = snapshot.clusters.get(share.cluster_id), snapshot.deployments.get(share.deployment_id)
        if share.reported is None or share.cluster_id == HERE_ID or cluster is None or deployment is None:
            continue
        if any(endpoint.id == replica_id for endpoint in share.reported.endpoints):
            return cluster, deployment
    return None


def told_there(path: str, found: Mapping[str, int]) -> str:
    """Return where replicas of a deployment run."""
    return f"{path} runs in other clusters ({listed(found)}), which have its replicas and their logs"


def ask_there(cluster: str, words: str) -> str:
    """Return the command that asks a cluster."""
    return f"fallow --context {cluster} {words} (a context of cluster {cluster}; `fallow context list` shows yours)"
