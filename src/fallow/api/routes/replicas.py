"""Replicas and what they write to their logs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from litestar import Request, get
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream
from litestar.types import Guard

from fallow.api.lists import ReplicaList
from fallow.api.lookups import deployment_called
from fallow.api.node_logs import CLUSTER_HEADER, cluster_logs, connected, node_logs
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.api.streams import text_stream
from fallow.control.hub import HubError
from fallow.control.ids import new_id
from fallow.control.refusals import Refused, not_found, refuse
from fallow.control.replica_logs import Lines, current, merged, refused
from fallow.decide.federation.elsewhere import ask_there, elsewhere, has_replica, told_there
from fallow.decide.views import replica_view
from fallow.model.deployments import Replica
from fallow.model.tokens import ApiRole
from fallow.model.wire import OpenLog

Tail = Annotated[int, QueryParameter(ge=0, le=10_000)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of replicas."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    logs: Any = {"guards": operator, "media_type": "text/plain", "responses": problems(404, 409)}
    return (
        get("/v1/replicas", guards=viewer, responses=problems())(list_replicas),
        get("/v1/replicas/{replica_id:str}/logs", **logs)(replica_logs),
        get("/v1/deployments/{project:str}/{name:str}/logs", **logs)(deployment_logs),
    )


async def list_replicas(
    services: Needs,
    project: FromQuery[str | None] = None,
    deployment: FromQuery[str | None] = None,
    node: FromQuery[str | None] = None,
) -> ReplicaList:
    """List replicas, all or those of a project, of a deployment by name, or of a node by name or id; ended ones too."""
    snapshot = services.cache.snapshot()
    ids = {found.id for found in snapshot.members.values() if node in (found.id, found.name)}
    chosen = [
        found
        for found in snapshot.replicas.values()
        if (project is None or found.project == project)
        and (deployment is None or found.deployment == deployment)
        and (node is None or found.node_id in ids)
    ]
    chosen.sort(key=lambda found: (found.project, found.deployment, found.slot, found.created_at, found.id))
    return ReplicaList(revision=services.cache.revision, items=tuple(replica_view(snapshot, found) for found in chosen))


async def replica_logs(
    services: Needs,
    request: Request[Any, Any, Any],
    replica_id: FromPath[str],
    follow: FromQuery[bool] = False,
    tail: Tail = 100,
) -> Stream:
    """Stream a replica's log: the last `tail` lines, and with `follow` everything after them."""
    snapshot = services.cache.snapshot()
    asks = partial(OpenLog, stream_id=new_id(12), replica_id=replica_id, follow=follow, tail=tail)
    replica = snapshot.replicas.get(replica_id)
    if replica is not None:
        _check_reachable(services, replica)
        return await text_stream(services.limits, node_logs(services, request, replica, asks()))
    if (there := has_replica(snapshot, replica_id)) is None:
        raise not_found(f"replica {replica_id[:80]!r}", "fallow replica list shows all")
    cluster, deployment = there
    lines = cluster_logs(services, request, cluster, asks(deployment_id=deployment.id))
    if lines is None:
        raise _elsewhere(deployment.path, {cluster.name: 1}, f"logs {replica_id}")
    return await text_stream(services.limits, lines)


async def deployment_logs(
    services: Needs,
    request: Request[Any, Any, Any],
    project: FromPath[str],
    name: FromPath[str],
    follow: FromQuery[bool] = False,
    tail: Tail = 100,
) -> Stream:
    """Stream the logs of all replicas that a deployment has now.

    Each line is behind its replica's id; of another cluster than this one, behind the cluster's name as well.
    """
    snapshot = services.cache.snapshot()
    found = deployment_called(snapshot, project, name)
    words = f"logs {found.path}"

    def ask(replica_id: str = "") -> OpenLog:
        ids = {"stream_id": new_id(12), "replica_id": replica_id, "deployment_id": found.id}
        return OpenLog(**ids, follow=follow, tail=tail)

    only = request.headers.get(CLUSTER_HEADER, "")
    own = current(snapshot, services.hub, found) if not only else []
    replicas = {each.id: node_logs(services, request, each, ask(each.id)) for each in own}
    clusters: dict[str, Lines] = {}
    silent: dict[str, int] = {}  # replicas by cluster
    for id_, count in elsewhere(snapshot, found).items():
        cluster = snapshot.clusters[id_]
        if only in {"", cluster.name}:
            lines = cluster_logs(services, request, cluster, ask())
            if lines is None:
                silent[cluster.name] = count
            clusters[cluster.name] = lines or refused(f"it is asked itself: {ask_there(cluster.name, words)}")
    if not replicas and len(silent) == len(clusters):
        if silent:
            raise _elsewhere(found.path, silent, words)
        raise HubError(f"{found.path} has no replica on a node that is connected just now")
    return await text_stream(services.limits, merged(replicas, clusters))


def _elsewhere(path: str, found: Mapping[str, int], words: str) -> Refused:
    hint = ask_there(min(found), words)
    return refuse(409, "runs-elsewhere", "It runs in other clusters", told_there(path, found), hint)


def _check_reachable(services: Needs, replica: Replica) -> None:
    """Raise Refused (409) when there cannot be a log, HubError when its node cannot be asked now."""
    if not replica.node_id:
        raise refuse(
            409,
            "not-placed",
            "No log yet",
            f"{replica.id} is {replica.state}; no node has it",
            f"fallow explain {replica.id}",
        )
    if not connected(services, replica):
        raise HubError("the replica's node is not connected just now")
