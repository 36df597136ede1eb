"""Logs on their way up a session: in batches, within bounds, only as fast as they are read."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from fallow.drivers.clusters.contract import LogsRefused
from fallow.drivers.engine.contract import Engine, EngineError
from fallow.model.cluster_frames import LogRead
from fallow.model.wire import LogChunk, OpenLog

_log = structlog.get_logger("fallow.agent.logs")

CHUNK_LINES = 500
LINE_CHARS = 16 * 1024
GATHER_SECONDS = 0.05

Send = Callable[[LogChunk], Awaitable[None]]  # raises OSError when the session is over
Lines = Callable[[OpenLog], AsyncGenerator[str, None]]  # raises EngineError and LogsRefused


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Of what is on its way: streams of a session, characters of a chunk, and chunks of a stream that are not read yet.

    `unread` is None where the other side does not say what has been read.
    """

    streams: int = 32
    chunk_chars: int = 64 * 1024
    unread: int | None = None


@dataclass(eq=False)
class _Stream:
    task: "asyncio.Task[None] | None" = None
    sent: int = 0  # chunks
    read: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)


def engine_lines(engine: Engine, container_id: Callable[[str], str]) -> Lines:
    """Return what reads the logs of containers; `container_id` finds a replica's, empty when it has none."""

    async def lines(wanted: OpenLog) -> AsyncGenerator[str, None]:
        container = container_id(wanted.replica_id)
        if not container:
            raise LogsRefused(f"{wanted.replica_id} has no container on this node")
        async for line in engine.logs(container, follow=wanted.follow, tail=wanted.tail):
            yield line

    return lines


class LogStreams:
    """The open log streams of one session; `lines` gives what one asks for."""

    def __init__(self, lines: Lines, send: Send, bounds: Bounds = Bounds()) -> None:
        self._lines = lines
        self._send = send
        self._bounds = bounds
        self._streams: dict[str, _Stream] = {}

    @property
    def count(self) -> int:
        """Return how many streams are open."""
        return len(self._streams)

    def open(self, wanted: OpenLog) -> None:
        """Start a stream; asked for twice it is still one."""
        if wanted.stream_id in self._streams:
            return
        full = len(self._streams) >= self._bounds.streams
        stream = self._streams[wanted.stream_id] = _Stream()
        stream.task = asyncio.create_task(self._run(wanted, stream, full))
        stream.task.add_done_callback(lambda _: self._streams.pop(wanted.stream_id, None))

    def read(self, frame: LogRead) -> None:
        """Note how much of a stream has been read; what was never sent does not count."""
        stream = self._streams.get(frame.stream_id)
        if stream is not None:
            stream.read = max(stream.read, min(frame.chunks, stream.sent))
            stream.moved.set()

    def close(self, stream_id: str) -> None:
        """End a stream nobody reads any more."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.task is not None:
            stream.task.cancel()

    def close_all(self) -> None:
        """End every stream: the session they belong to is over."""
        for stream_id in list(self._streams):
            self.close(stream_id)

    async def _run(self, wanted: OpenLog, stream: _Stream, full: bool) -> None:
        error = f"{self._bounds.streams} logs are sent from here already; try again later" if full else ""
        try:
            if not error:
                error = await self._copy(wanted, stream)
            await self._send(LogChunk(stream_id=wanted.stream_id, end=True, error=error))
        except OSError as gone:
            _log.debug("log stream ended with its session", stream=wanted.stream_id, reason=str(gone))

    async def _copy(self, wanted: OpenLog, stream: _Stream) -> str:
        """Send lines until the log ends; return why it broke, empty when it did not. Raises OSError."""
        lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2 * CHUNK_LINES)
        reading = asyncio.create_task(self._read(wanted, lines))
        try:
            more = True
            while more:
                batch, more = await _gather(lines, self._bounds.chunk_chars)
                if batch:
                    await self._awaited(stream)
                    stream.sent += 1  # before it is, for it may be read before we know that it has left
                    await self._send(LogChunk(stream_id=wanted.stream_id, lines=tuple(batch)))
            return await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _awaited(self, stream: _Stream) -> None:
        """Return once so much of a stream has been read that more of it may be sent."""
        while self._bounds.unread is not None and stream.sent - stream.read >= self._bounds.unread:
            stream.moved.clear()
            await stream.moved.wait()

    async def _read(self, wanted: OpenLog, lines: "asyncio.Queue[str | None]") -> str:
        try:
            async with contextlib.aclosing(self._lines(wanted)) as found:
                async for line in found:
                    await lines.put(line[:LINE_CHARS])
        except (EngineError, LogsRefused) as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever broke it, the reader is told that it broke
            _log.error("log broke", replica=wanted.replica_id, exc_info=True)
            return f"{type(error).__name__}: {error}"
        finally:
            # The end must be told even when the queue is full and its reader slow, but not when we are cancelled.
            if not _cancelled():
                await lines.put(None)
        return ""


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _gather(lines: "asyncio.Queue[str | None]", most_chars: int) -> tuple[list[str], bool]:
    """Wait for a line and return it with those that follow at once, and whether there may be more."""
    batch: list[str] = []
    chars = 0
    line = await lines.get()
    while line is not None:
        batch.append(line)
        chars += len(line)
        if len(batch) >= CHUNK_LINES or chars >= most_chars:
            return batch, True
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                line = await lines.get()
        except TimeoutError:
            return batch, True
    return batch, False
