"""What both ends of a session do with their connection: read a frame, and break off."""

import asyncio
import contextlib

from fallow.model.wire import MAX_FRAME_BYTES


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next frame. Raises ValueError when it is too large, IncompleteReadError at the end."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes exceeds {MAX_FRAME_BYTES}")
    return await reader.readexactly(size)


def abort(transport: asyncio.WriteTransport) -> None:
    """Break a connection off. CPython 3.11.2, as in Debian 12, raises when the TLS transport has gone meanwhile."""
    with contextlib.suppress(AttributeError):
        transport.abort()
