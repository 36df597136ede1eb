"""Logs from whichever process holds the session of the node, or of the cluster, that has them."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import httpx
from litestar import Request

from fallow.api.services import Services
from fallow.client.transport import CONNECT_SECONDS, problem_of, tls_context
from fallow.control.hub import HubError
from fallow.control.replica_logs import Lines
from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.credentials import SERVER_NAME
from fallow.model.deployments import Replica
from fallow.model.members import Member
from fallow.model.peers import Peer
from fallow.model.wire import OpenLog

HOPS_HEADER = "fallow-hops"
CLUSTER_HEADER = "fallow-cluster"  # the member cluster whose replicas alone one process asks another for
MAX_HOPS = 2  # by way of the process that leads, to the one that holds the session


def connected(services: Services, replica: Replica) -> bool:
    """Say whether some process holds the session of the replica's node."""
    return services.hub.link(replica.node_id) is not None or bool(services.hub.peer_of(replica.node_id))


def node_logs(services: Services, request: Request[Any, Any, Any], replica: Replica, wanted: OpenLog) -> Lines:
    """Yield the log's lines. Raises HubError when the node cannot be asked."""
    if services.hub.link(replica.node_id) is not None:
        return services.hub.logs(replica.node_id, wanted)
    found = _from_peer(services, request, replica.node_id, f"/v1/replicas/{replica.id}/logs", wanted)
    if found is None:
        raise HubError("the replica's node is not connected just now")
    return found


def cluster_logs(services: Services, request: Request[Any, Any, Any], cluster: Member, wanted: OpenLog) -> Lines | None:
    """Yield lines of what a member cluster has of a deployment, or of one replica of it.

    All of a deployment's are behind the names of cluster and replica. Raises HubError. None: nobody can ask it.
    """
    if services.hub.link(cluster.id) is not None:
        lines = services.cluster_logs(cluster.id, wanted)
        return _behind("" if wanted.replica_id else f"{cluster.name}/", lines) if lines is not None else None
    if wanted.replica_id:
        return _from_peer(services, request, cluster.id, f"/v1/replicas/{wanted.replica_id}/logs", wanted)
    path = services.cache.snapshot().deployments[wanted.deployment_id].path
    only = {CLUSTER_HEADER: cluster.name}
    return _from_peer(services, request, cluster.id, f"/v1/deployments/{path}/logs", wanted, only)


async def _behind(name: str, lines: Lines) -> Lines:
    async with aclosing(lines):
        try:
            async for line in lines:
                yield name + line
        except LogsRefused as error:
            raise HubError(str(error)) from error


def _from_peer(
    services: Services,
    request: Request[Any, Any, Any],
    member_id: str,
    path: str,
    wanted: OpenLog,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Lines | None:
    """Return what the process answers that holds a member's session, or knows who does; None: there is none to ask.

    `more` are headers that are sent beside the caller's credential.
    """
    peer = services.cache.get("peers", services.hub.peer_of(member_id))
    hops = request.headers.get(HOPS_HEADER, "0")
    if not isinstance(peer, Peer) or hops not in {str(number) for number in range(MAX_HOPS)}:
        return None
    headers = {"Authorization": request.headers.get("authorization", ""), HOPS_HEADER: str(int(hops) + 1), **more}
    query = {"follow": str(wanted.follow).lower(), "tail": str(wanted.tail)}
    return _lines_of(services, f"{peer.address.url}{path}", query, headers)


async def _lines_of(
    services: Services, url: str, query: Mapping[str, str], headers: Mapping[str, str]
) -> AsyncGenerator[str, None]:
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    try:
        async with (
            httpx.AsyncClient(verify=tls_context(services.ca_pem), timeout=timeout, trust_env=False) as http,
            http.stream(
                "GET", url, params=query, headers=headers, extensions={"sni_hostname": SERVER_NAME}
            ) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                await response.aread()
                raise HubError(problem_of(response).detail or "the control plane refused to send the log")
            async for line in response.aiter_lines():
                yield line
    except httpx.HTTPError as error:
        raise HubError(f"the control plane that has the session does not answer: {error}") from error
