"""A replica's log, from whichever process holds its node's session."""

from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
from litestar import Request

from fallow.api.services import Services
from fallow.client.transport import CONNECT_SECONDS, problem_of, tls_context
from fallow.control.hub import HubError
from fallow.model.credentials import SERVER_NAME
from fallow.model.deployments import Replica
from fallow.model.peers import Peer

HOPS_HEADER = "fallow-hops"
MAX_HOPS = 2  # by way of the process that leads, to the one that holds the session


def connected(services: Services, replica: Replica) -> bool:
    """Say whether some process holds the session of the replica's node."""
    return services.hub.link(replica.node_id) is not None or bool(services.hub.peer_of(replica.node_id))


def node_logs(
    services: Services, request: Request[Any, Any, Any], replica: Replica, follow: bool, tail: int
) -> AsyncIterator[str]:
    """Yield the log's lines. Raises HubError when the node cannot be asked."""
    if services.hub.link(replica.node_id) is not None:
        return services.hub.logs(replica.node_id, replica.id, follow, tail)
    peer = services.cache.get("peers", services.hub.peer_of(replica.node_id))
    hops = request.headers.get(HOPS_HEADER, "0")
    if not isinstance(peer, Peer) or hops not in {str(number) for number in range(MAX_HOPS)}:
        raise HubError("the replica's node is not connected just now")
    headers = {"Authorization": request.headers.get("authorization", ""), HOPS_HEADER: str(int(hops) + 1)}
    query = {"follow": str(follow).lower(), "tail": str(tail)}
    return _from_peer(services, f"{peer.address.url}/v1/replicas/{replica.id}/logs", query, headers)


async def _from_peer(
    services: Services, url: str, query: dict[str, str], headers: dict[str, str]
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
                raise HubError(problem_of(response).detail or "the node's control plane refused to send the log")
            async for line in response.aiter_lines():
                yield line
    except httpx.HTTPError as error:
        raise HubError(f"the control plane that the node is connected to does not answer: {error}") from error
