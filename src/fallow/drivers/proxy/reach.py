"""Whether an endpoint answers from here: HAProxy holds a new server to be up until its first check says otherwise."""

import asyncio
import contextlib
from collections.abc import Iterable

from fallow.model.routes import Endpoint

CONNECT_SECONDS = 1.0
_AT_ONCE = 128


TcpAddress = tuple[str, int]  # address and port


def tcp_address(endpoint: Endpoint) -> TcpAddress:
    """Return where an endpoint is."""
    return endpoint.address, endpoint.port


async def reachable(endpoints: Iterable[Endpoint]) -> set[TcpAddress]:
    """Return where those are that accept a TCP connection within CONNECT_SECONDS, tried side by side."""
    places = sorted(set(map(tcp_address, endpoints)))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def answers(address: str, port: int) -> bool:
        async with gate:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    _, writer = await asyncio.open_connection(address, port)
            except (OSError, TimeoutError):
                return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    results = await asyncio.gather(*(answers(*place) for place in places))
    return {place for place, answered in zip(places, results, strict=True) if answered}
