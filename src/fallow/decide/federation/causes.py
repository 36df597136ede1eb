"""What made another division necessary, in words; for people only, nothing is decided by it."""

from collections.abc import Mapping

from fallow.decide.federation.division import Target
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division
from fallow.model.members import Member, MemberState, Scheduling

MOST = 10  # clusters that are named


def cause_of(snapshot: Snapshot, deployment: Deployment, before: Division | None, after: Target) -> str:
    """Return what is most likely why `after` is not as `before`."""
    if before is None:
        return "it is new"
    total = deployment.spec.replicas
    causes = []
    if before.total != total:
        causes.append(f"scaled from {before.total} to {total}")
    if before.policy != after.fingerprint:
        causes.append("its policy has changed")
    for id_ in sorted(id_ for id_, count in before.shares.items() if after.shares.get(id_, 0) < count):
        found = trouble(snapshot.clusters.get(id_))
        if found:
            causes.append(found)
    if causes:
        return ", ".join(causes)
    for id_ in before.drained:
        cluster = snapshot.clusters.get(id_)
        if cluster is not None and cluster.scheduling is not Scheduling.DRAINING:
            return f"the drain of {cluster.name} was called off"
    return "another division fits better what clusters have room for, or are labelled with"


def trouble(cluster: Member | None) -> str:
    """Return why a cluster loses replicas, if that is to be seen at it."""
    if cluster is None:
        return "a cluster was removed"
    if cluster.state is MemberState.DEAD:
        return f"{cluster.name} is dead"
    if cluster.scheduling is Scheduling.DRAINING:
        return f"{cluster.name} is drained"
    return ""


def listed(shares: Mapping[str, int]) -> str:
    """Return shares by cluster name in words, the largest first."""
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{name} {count}" for name, count in ordered if count]
    more = f" and {len(told) - MOST} more clusters" if len(told) > MOST else ""
    return ", ".join(told[:MOST]) + more or "nowhere"
