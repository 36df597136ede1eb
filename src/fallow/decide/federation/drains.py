"""What is left of shares that came to an end, and clusters that have become empty."""

from collections.abc import Callable, Container, Iterable, Iterator

from fallow.decide.events import event
from fallow.decide.federation.migrate import obeyed
from fallow.decide.federation.words import ALL_HEARD, Words
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member, MemberState, Scheduling
from fallow.model.shares import Share

ORPHAN_SECONDS = 60.0  # so long a cluster that is back may say what is left of a deployment that is gone
DELETED_AT_ONCE = 50  # shares of a cluster that has become empty, in one commit


def forgotten(
    snapshot: Snapshot,
    now: float,
    new_id: Callable[[], str],
    written: Container[str] = (),
    words: Words = ALL_HEARD,
) -> Iterator[Step]:
    """Return what deletes records of what is no more: empty shares, and all of removed clusters and deployments.

    Shares whose ids are in `written` are just being changed, and stay.
    """
    empty: dict[str, list[Share]] = {}
    for share in _ended(snapshot):
        if share.id not in written and _over(snapshot, share, now, words):
            empty.setdefault(share.cluster_id, []).append(share)
    for cluster_id, shares in empty.items():
        cluster = snapshot.clusters.get(cluster_id)
        all_over = len(shares) == len(snapshot.shares_by_cluster[cluster_id])
        drained = cluster is not None and cluster.scheduling is Scheduling.DRAINING and all_over
        last = shares[-DELETED_AT_ONCE:] if drained else []
        for share in shares[: len(shares) - len(last)]:
            yield Step(deletes=(share,))
        if cluster is not None and last and len(last) == len(shares):
            told = event(
                new_id(), now, "loop:federation", "member", cluster.id, cluster.name, "ClusterDrained",
                f"{cluster.name} is empty: it can be shut down",
            )  # fmt: skip
            yield Step(puts=(told,), deletes=tuple(last))
    for division in snapshot.divisions.values():
        if division.deployment_id not in snapshot.deployments:
            yield Step(deletes=(division,))
    for room in snapshot.rooms.values():
        if room.id not in snapshot.clusters:
            yield Step(deletes=(room,))


def _ended(snapshot: Snapshot) -> Iterable[Share]:
    """Return the shares of which nothing may be left: told to run nothing, or of what is no more; each once."""
    by_cluster, by_deployment = snapshot.shares_by_cluster, snapshot.shares_by_deployment
    lists = [
        *(by_cluster[id_] for id_ in sorted(by_cluster.keys() - snapshot.clusters.keys())),
        *(by_deployment[id_] for id_ in sorted(by_deployment.keys() - snapshot.deployments.keys())),
        *snapshot.shares_empty.values(),
    ]
    return {share.id: share for found in lists for share in found}.values()


def _over(snapshot: Snapshot, share: Share, now: float, words: Words) -> bool:
    """Say whether nothing of a share is left, as far as anybody can still tell."""
    cluster = snapshot.clusters.get(share.cluster_id)
    deployment = snapshot.deployments.get(share.deployment_id)
    if cluster is None:
        return True
    if deployment is None:
        waited = cluster.state is MemberState.READY and now - cluster.state_since > ORPHAN_SECONDS
        return waited or share.cluster_id == HERE_ID or _gone(share, cluster, words)
    return share.replicas == 0 and obeyed(share) and _gone(share, cluster, words)


def _gone(share: Share, cluster: Member, words: Words) -> bool:
    """Say whether a cluster that can be heard says that nothing is left."""
    spoken = cluster.state is MemberState.READY and words.count(cluster)
    return spoken and share.reported is not None and share.reported.remaining == 0


def lingering(snapshot: Snapshot, deployment_id: str) -> bool:
    """Say whether clusters that can be reached have yet to say that nothing of a deployment is left in them."""
    for share in snapshot.shares_by_deployment.get(deployment_id, ()):
        cluster = snapshot.clusters.get(share.cluster_id)
        if cluster is not None and cluster.id != HERE_ID and cluster.state is not MemberState.DEAD:
            return True
    return False
