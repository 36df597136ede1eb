"""Which of a host's gateways do not reach the nodes of a member cluster, who is told, and what waits for it.

A gateway sends nothing to what it does not reach, but a cluster counts what is ready by what it sees itself. Behind
NAT, or without a route between the clusters' networks, its replicas run, are healthy, and serve none of the requests
that come here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.services import gateway_id, is_elsewhere
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment
from fallow.model.members import Member
from fallow.model.routes import ProxyReport

# Until the cluster itself knows of a node that has died; and until a gateway has tried what has just become ready.
LASTING_SECONDS = 12.0

Reach = Literal["all", "some", "none"]
Seen = Mapping[tuple[str, str], tuple[Reach, float]]  # by cluster id and gateway id: what it reaches, and since when


def seen(snapshot: Snapshot, reports: Mapping[str, ProxyReport], before: Seen, at: float) -> Seen:
    """Return what gateways reach of the clusters that they, or others before, did not wholly reach.

    `reports` are by gateway id, `before` is what was returned last, `at` the seconds now, by a clock that nobody sets.
    """
    gateways = [(gateway.id, reports[gateway.id]) for gateway in snapshot.live_gateways if gateway.id in reports]
    refused = {id_.partition(".")[0] for _, report in gateways for id_ in report.refused if is_elsewhere(id_)}
    found: dict[tuple[str, str], tuple[Reach, float]] = {}
    for cluster in snapshot.clusters.values():
        if cluster.id not in refused and not cluster.unreached_by and not cluster.partly_reached_by:
            continue
        asked = _asked(snapshot, cluster.id)
        for gateway_id_, report in gateways if asked else ():
            left = asked.difference(report.refused)
            reach: Reach = "none" if not left else "all" if left == asked else "some"
            was = before.get((cluster.id, gateway_id_))
            found[cluster.id, gateway_id_] = was if was is not None and was[0] == reach else (reach, at)
    return found


def noted(snapshot: Snapshot, found: Seen, at: float, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Yield what puts on record which gateways have not reached a cluster for long, and which have done so again.

    What was noted stays until something else has lasted: there may be nothing in the cluster that could be reached.
    """
    for cluster_id in sorted({cluster_id for cluster_id, _ in found}):
        cluster = snapshot.clusters[cluster_id]
        after = msgspec.structs.replace(
            cluster,
            unreached_by=_named(snapshot, cluster, found, at, "none"),
            partly_reached_by=_named(snapshot, cluster, found, at, "some"),
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


def _named(snapshot: Snapshot, cluster: Member, found: Seen, at: float, reach: Reach) -> tuple[str, ...]:
    """Return the names of gateways that have reached so much of a cluster for long; others are as they were noted."""
    before = cluster.unreached_by if reach == "none" else cluster.partly_reached_by
    names = []
    for gateway in snapshot.gateways.values():
        now_reach, since = found.get((cluster.id, gateway.id), (None, at))
        lasts = at - since >= LASTING_SECONDS
        if (now_reach == reach) if lasts else (gateway.name in before):
            names.append(gateway.name)
    return tuple(sorted(names))


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
