"""Container logs on their way up a session: in batches, within bounds, only as fast as they are read."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from fallow.drivers.engine.contract import Engine, EngineError
from fallow.model.wire import LogChunk, OpenLog

_log = structlog.get_logger("fallow.agent.logs")

STREAMS = 32
CHUNK_LINES = 500
CHUNK_CHARS = 64 * 1024
LINE_CHARS = 16 * 1024
GATHER_SECONDS = 0.05

Send = Callable[[LogChunk], Awaitable[None]]  # raises OSError when the session is over


class LogStreams:
    """The open log streams of one session. `container_id` finds a replica's container, empty when it has none."""

    def __init__(self, engine: Engine, send: Send, container_id: Callable[[str], str]) -> None:
        self._engine = engine
        self._send = send
        self._container_id = container_id
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def count(self) -> int:
        """Return how many streams are open."""
        return len(self._tasks)

    def open(self, wanted: OpenLog) -> None:
        """Start a stream; asked for twice it is still one."""
        if wanted.stream_id in self._tasks:
            return
        task = asyncio.create_task(self._stream(wanted, full=len(self._tasks) >= STREAMS))
        self._tasks[wanted.stream_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(wanted.stream_id, None))

    def close(self, stream_id: str) -> None:
        """End a stream nobody reads any more."""
        task = self._tasks.get(stream_id)
        if task is not None:
            task.cancel()

    def close_all(self) -> None:
        """End every stream: the session they belong to is over."""
        for task in list(self._tasks.values()):
            task.cancel()

    async def _stream(self, wanted: OpenLog, full: bool) -> None:
        error = f"this node already sends {STREAMS} logs; try again later" if full else ""
        container = self._container_id(wanted.replica_id)
        try:
            if not error and not container:
                error = f"{wanted.replica_id} has no container on this node"
            if not error:
                error = await self._copy(wanted, container)
            await self._send(LogChunk(stream_id=wanted.stream_id, end=True, error=error))
        except OSError as gone:
            _log.debug("log stream ended with its session", stream=wanted.stream_id, reason=str(gone))

    async def _copy(self, wanted: OpenLog, container: str) -> str:
        """Send lines until the log ends; return why it broke, empty when it did not. Raises OSError."""
        lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2 * CHUNK_LINES)
        reading = asyncio.create_task(self._read(wanted, container, lines))
        try:
            more = True
            while more:
                batch, more = await _gather(lines)
                if batch:
                    await self._send(LogChunk(stream_id=wanted.stream_id, lines=tuple(batch)))
            return await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _read(self, wanted: OpenLog, container: str, lines: "asyncio.Queue[str | None]") -> str:
        try:
            async for line in self._engine.logs(container, follow=wanted.follow, tail=wanted.tail):
                await lines.put(line[:LINE_CHARS])
        except EngineError as error:
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


async def _gather(lines: "asyncio.Queue[str | None]") -> tuple[list[str], bool]:
    """Wait for a line and return it with those that follow at once, and whether there may be more."""
    batch: list[str] = []
    chars = 0
    line = await lines.get()
    while line is not None:
        batch.append(line)
        chars += len(line)
        if len(batch) >= CHUNK_LINES or chars >= CHUNK_CHARS:
            return batch, True
        try:
            async with asyncio.timeout(GATHER_SECONDS):
                line = await lines.get()
        except TimeoutError:
            return batch, True
    return batch, False
