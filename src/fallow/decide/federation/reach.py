"""Which of a host's gateways do not reach the nodes of a member cluster, who is told, and what waits for it.

A gateway sends nothing to what it does not reach, but a cluster counts what is ready by what it sees itself. Behind
NAT, or without a route between the clusters' networks, its replicas run, are healthy, and serve none of the requests
that come here.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.services import gateway_id, is_elsewhere
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.members import Member, MemberState
from fallow.model.routes import ProxyReport

LASTING_SECONDS = 12.0  # a node that has died is refused for as long as its own cluster does not know it

Lapses = Mapping[tuple[str, str, bool], float]  # cluster id, gateway id, whether it reaches none -> since when


def lapses(
    snapshot: Snapshot, reports: Mapping[str, ProxyReport], before: Lapses, at: float
) -> dict[tuple[str, str, bool], float]:
    """Return since when which gateway does not reach endpoints of which cluster; `reports` are by gateway id.

    `before` is what was returned last, `at` the seconds now, by a clock that nobody sets.
    """
    refused: dict[str, dict[str, set[str]]] = {}  # cluster id -> gateway id -> endpoints
    for gateway in snapshot.live_gateways:
        report = reports.get(gateway.id)
        for id_ in report.refused if report is not None else ():
            cluster_id = id_.partition(".")[0]
            if is_elsewhere(id_) and cluster_id in snapshot.clusters:
                refused.setdefault(cluster_id, {}).setdefault(gateway.id, set()).add(id_)
    found: dict[tuple[str, str, bool], float] = {}
    for cluster_id, by_gateway in refused.items():
        asked = _asked(snapshot, cluster_id)
        for gateway_id_, ids in by_gateway.items():
            if asked & ids:
                key = (cluster_id, gateway_id_, asked <= ids)
                found[key] = before.get(key, at)
    return found


def noted(snapshot: Snapshot, since: Lapses, at: float, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Yield what puts on record which gateways have not reached a cluster for long, and which do so again.

    What was noted stays for as long as there is nothing in the cluster that could be reached.
    """
    lapsed = {cluster_id for cluster_id, _, _ in since}
    for cluster in snapshot.clusters.values():
        known = cluster.unreached_by or cluster.partly_reached_by
        if cluster.id not in lapsed and not (known and _asked(snapshot, cluster.id)):
            continue
        after = msgspec.structs.replace(
            cluster,
            unreached_by=_named(snapshot, cluster, since, at, none=True),
            partly_reached_by=_named(snapshot, cluster, since, at, none=False),
        )
        if after == cluster:
            continue
        text = unreached_text(after)
        reached = f"gateways here reach the nodes of cluster {cluster.name} again"
        told = event(
            new_id(), now, "loop:reach", "member", cluster.id, cluster.name,
            "ClusterUnreached" if text else "ClusterReached", text or reached, "warning" if text else "info",
        )  # fmt: skip
        yield Step(puts=(msgspec.structs.replace(after, updated_at=now), told))


def _asked(snapshot: Snapshot, cluster_id: str) -> set[str]:
    """Return the endpoints of a cluster that routes lead to, as gateways know them."""
    found: set[str] = set()
    for share in snapshot.shares_by_cluster.get(cluster_id, ()):
        deployment = snapshot.deployments.get(share.deployment_id)
        if share.reported is not None and deployment is not None and deployment.spec.routes:
            leaving = set(share.reported.leaving)
            found.update(gateway_id(cluster_id, each.id) for each in share.reported.endpoints if each.id not in leaving)
    return found


def _named(snapshot: Snapshot, cluster: Member, since: Lapses, at: float, none: bool) -> tuple[str, ...]:
    """Return the names of gateways that reach none of a cluster, or only some; those that are silent are as before."""
    before = cluster.unreached_by if none else cluster.partly_reached_by
    found = []
    for gateway in snapshot.gateways.values():
        began, known = since.get((cluster.id, gateway.id, none)), gateway.name in before
        if gateway.state is not MemberState.READY:
            lasts = known
        else:
            lasts = began is not None and (known or at - began >= LASTING_SECONDS)
        if lasts:
            found.append(gateway.name)
    return tuple(sorted(found))


def unreached_text(cluster: Member) -> str:
    """Say which gateways do not reach a cluster, and what comes of it; empty when all of them do."""
    parts = []
    if cluster.unreached_by:
        parts.append(f"gateways here that reach no node of cluster {cluster.name}: {', '.join(cluster.unreached_by)}")
    if cluster.partly_reached_by:
        parts.append(f"that reach some of its nodes and not others: {', '.join(cluster.partly_reached_by)}")
    if not parts:
        return ""
    return (
        f"{'; '.join(parts)}. They send no requests there, though its replicas are ready by its own account; make a "
        "route to its nodes, or give it gateways of its own and nothing that others have to serve (`where`)"
    )


def only_unreached(snapshot: Snapshot, deployment: Deployment, target: Mapping[str, int]) -> bool:
    """Say whether a deployment with routes is to be where gateways here reach nothing, and nowhere else.

    `target` are replicas by cluster id.
    """
    clusters = [snapshot.clusters[id_] for id_, count in target.items() if count and id_ in snapshot.clusters]
    return bool(deployment.spec.routes and clusters) and all(cluster.unreached_by for cluster in clusters)
