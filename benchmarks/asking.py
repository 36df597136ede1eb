"""Requests over HTTP/1.1, with as little around them as can be, so that the asking is not what is measured."""

import asyncio
import contextlib
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT_SECONDS = 10.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(connection: Connection, host: str, *, keep: bool = True) -> tuple[int, str]:
    """Send one GET and return status and body. Raises OSError, EOFError and ValueError."""
    reader, writer = connection
    ending = "" if keep else "Connection: close\r\n"
    writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n{ending}\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = await reader.readexactly(int(size.partition(b":")[2]))
    return int(head.split(b" ", 2)[1]), body.decode()


@dataclass(frozen=True)
class Asked:
    """One request: when it was due (UTC seconds), how long from then to its answer, and why it failed."""

    at: float
    seconds: float
    why: str


class OpenLoop:
    """Requests at an even pace, whether or not those before are answered: who waits is not spared the next ones.

    Every second one is sent over a new connection, the others over those that are kept open. Nothing is tried again.
    """

    def __init__(self, port: int, host: str, per_second: float) -> None:
        """Prepare; it runs in a thread of its own."""
        self.asked: list[Asked] = []
        self._port = port
        self._host = host
        self._pace = 1.0 / per_second
        self._idle: deque[Connection] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_SECONDS + 5)

    def told(self, since: float, until: float) -> dict[str, Any]:
        """Return the figures of the requests that were due between two UTC times."""
        found = [one for one in self.asked if since <= one.at < until]
        seconds = sorted(one.seconds for one in found)
        return {
            "sent": len(found),
            "failed": sum(bool(one.why) for one in found),
            "first_failures": [one.why for one in found if one.why][:3],
            "median_ms": round(1000 * statistics.median(seconds), 2),
            "p99_ms": round(1000 * statistics.quantiles(seconds, n=100)[98], 1),
            "largest_ms": round(1000 * seconds[-1], 1),
        }

    async def _run(self) -> None:
        due, number = time.time(), 0
        async with asyncio.TaskGroup() as under_way:
            while not self._stop.is_set():
                under_way.create_task(self._one(due, keep=number % 2 == 0))
                due, number = due + self._pace, number + 1
                await asyncio.sleep(max(0.0, due - time.time()))
        for _, writer in self._idle:
            writer.close()

    async def _one(self, due: float, *, keep: bool) -> None:
        why = ""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, _ = await self._ask(keep)
            why = "" if status == 200 else f"status {status}"
        except (OSError, EOFError, ValueError) as error:  # a timeout is an OSError
            why = f"{type(error).__name__}: {error}"
        self.asked.append(Asked(due, time.time() - due, why))

    async def _ask(self, keep: bool) -> tuple[int, str]:
        connection = self._kept() if keep else None
        connection = connection or await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.ExitStack() as broken:
            broken.callback(connection[1].close)
            answer = await ask(connection, self._host, keep=keep)
            if keep:
                broken.pop_all()
                self._idle.append(connection)
            return answer

    def _kept(self) -> Connection | None:
        """Return the connection that has been idle for longest, so that none is idle for long; None: none is open."""
        while self._idle:
            reader, writer = self._idle.popleft()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None
