"""Why a deployment is divided as it is, and what a cluster takes and gives up: short lines for a person."""

from fallow.decide.federation.reach import unreached_text
from fallow.decide.federation.views import division_view, stuck
from fallow.decide.federation.why import passed_over
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.shares import ShareView
from fallow.model.taints import taint_text

MOST = 20  # clusters, or deployments, that are named


def shares_explained(snapshot: Snapshot, deployment: Deployment, now: float) -> list[str]:
    """Return a line for each cluster that has, or should have, replicas, and why others have none.

    Nothing is said of what is not divided.
    """
    view = division_view(snapshot, deployment)
    lines = [_line(share) for share in view.shares if share.target or share.replicas]
    lines = [*lines[:MOST], *([f"and {len(lines) - MOST} more clusters"] if len(lines) > MOST else [])]
    if deployment.spec.routes:
        told = {share.cluster_id for share in snapshot.shares_by_deployment.get(deployment.id, ()) if share.replicas}
        lines.extend(
            text for id_ in sorted(told & snapshot.clusters.keys()) if (text := unreached_text(snapshot.clusters[id_]))
        )
    lines.extend(passed_over(snapshot, deployment, now))
    if view.unplaced:
        lines.append(f"{view.unplaced} have no place: {view.unplaced_reason}")
    if view.history:
        lines.append(f"divided so because {view.history[-1].cause}")
    return lines


def _line(share: ShareView) -> str:
    parts = [f"{share.cluster} ({share.cluster_state}): {share.ready} ready of {share.target}"]
    if share.rule:
        parts.append(share.rule)
    if share.replicas > share.target:
        parts.append(f"{share.replicas - share.target} leave it once others are ready")
    elif share.replicas < share.target:
        parts.append(f"told to run {share.replicas} so far")
    if share.reason:
        parts.append(f"it says: {share.reason}")
    return "; ".join(parts)


def cluster_explained(snapshot: Snapshot, cluster: Member) -> list[str]:
    """Return whether a cluster gets replicas, what it runs, and what cannot leave it."""
    shares = snapshot.shares_by_cluster.get(cluster.id, [])
    count = sum(share.replicas for share in shares)
    lines = [_use(cluster, bool(shares)), f"runs {count} replicas of {len(shares)} deployments"]
    lines += [f"taint {taint_text(taint)}" for taint in cluster.taints]
    lines += [text] if (text := unreached_text(cluster)) else []
    if cluster.scheduling is Scheduling.DRAINING:
        lines.extend(stuck(snapshot, shares))
    room = snapshot.rooms.get(cluster.id)
    if room is not None:
        summary = room.summary
        lines.append(f"{summary.nodes} nodes, {summary.free_cpus:g} of {summary.cpus:g} CPUs free by its own account")
    return lines


def _use(cluster: Member, holds: bool) -> str:
    if cluster.scheduling is Scheduling.CORDONED:
        return "cordoned by an operator: it keeps what it has and gets nothing new"
    if cluster.scheduling is Scheduling.DRAINING:
        return "draining: what it has moves to other clusters" if holds else "drained: nothing of ours is left in it"
    if cluster.state is MemberState.READY:
        return "it may get new replicas"
    return f"it gets no new replicas while it is {cluster.state}"
