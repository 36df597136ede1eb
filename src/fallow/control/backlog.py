"""Chunks of a log that wait for its reader."""

import asyncio
import sys
from collections import deque

from fallow.model.wire import LogChunk

LOG_BACKLOG_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 256  # what a chunk weighs beside its text


class Backlog:
    """Chunks of one log on their way to its reader, who may be slow: the oldest are dropped, nobody waits.

    Bounded in bytes, since a member chooses how large a chunk is; the newest chunk is kept whatever it weighs, so the
    bound is LOG_BACKLOG_BYTES and one frame.
    """

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, LogChunk]] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, chunk: LogChunk) -> None:
        """Add a chunk."""
        weight = CHUNK_BYTES + sum(map(sys.getsizeof, chunk.lines)) + sys.getsizeof(chunk.error)
        self._chunks.append((weight, chunk))
        self._bytes += weight
        while self._bytes > LOG_BACKLOG_BYTES and len(self._chunks) > 1:
            self._bytes -= self._chunks.popleft()[0]
        self._filled.set()

    def close(self) -> None:
        """Note that no more comes."""
        self._closed = True
        self._filled.set()

    async def get(self) -> LogChunk | None:
        """Return the oldest chunk that is left, once there is one; None: no more comes."""
        while not self._chunks:
            if self._closed:
                return None
            self._filled.clear()
            await self._filled.wait()
        weight, chunk = self._chunks.popleft()
        self._bytes -= weight
        return chunk
