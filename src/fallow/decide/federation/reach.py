"""Which of a host's gateways do not reach the nodes of a member cluster, and who is told.

A gateway sends nothing to what it does not reach, but a cluster counts what is ready by what it sees itself. Behind
NAT, or without a route between the clusters' networks, its replicas run, are healthy, and serve none of the requests
that come here.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member
from fallow.model.routes import ProxyReport

LASTING_SECONDS = 12.0  # a node that has died is refused for as long as its own cluster does not know it

Lapses = Mapping[tuple[str, str], float]  # cluster id and gateway id -> since when it does not reach all


def lapses(
    snapshot: Snapshot, reports: Mapping[str, ProxyReport], before: Lapses, at: float
) -> dict[tuple[str, str], float]:
    """Return since when which gateway does not reach endpoints of which cluster; `reports` are by gateway id.

    `before` is what was returned last, `at` the seconds now, by a clock that nobody sets.
    """
    found: dict[tuple[str, str], float] = {}
    for gateway in snapshot.live_gateways:
        report = reports.get(gateway.id)
        for endpoint_id in report.refused if report is not None else ():
            cluster_id, dot, _ = endpoint_id.partition(".")
            if dot and cluster_id in snapshot.clusters:
                found[cluster_id, gateway.id] = before.get((cluster_id, gateway.id), at)
    return found


def noted(snapshot: Snapshot, since: Lapses, at: float, now: float, new_id: Callable[[], str]) -> Iterator[Step]:
    """Yield what puts on record which gateways have not reached a cluster for long, and which do so again."""
    for cluster in snapshot.clusters.values():
        if cluster.id == HERE_ID:
            continue
        names = tuple(
            sorted(
                gateway.name
                for gateway in snapshot.live_gateways
                if at - since.get((cluster.id, gateway.id), at) >= LASTING_SECONDS
                or (gateway.name in cluster.unreached_by and (cluster.id, gateway.id) in since)
            )
        )
        if names != cluster.unreached_by:
            after = msgspec.structs.replace(cluster, unreached_by=names, updated_at=now)
            reached = f"gateways here reach all nodes of cluster {cluster.name} again"
            told = event(
                new_id(), now, "loop:reach", "member", cluster.id, cluster.name,
                "ClusterUnreached" if names else "ClusterReached", unreached_text(after) or reached,
                "warning" if names else "info",
            )  # fmt: skip
            yield Step(puts=(after, told))


def unreached_text(cluster: Member) -> str:
    """Say which gateways do not reach a cluster, and what comes of it; empty when all of them do."""
    if not cluster.unreached_by:
        return ""
    return (
        f"gateways here that do not reach nodes of cluster {cluster.name}: {', '.join(cluster.unreached_by)}. They "
        "send no requests there, though its replicas are ready by its own account; make a route to its nodes, or "
        "give it gateways of its own and nothing that others have to serve (`where`)"
    )
