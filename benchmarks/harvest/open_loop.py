"""An open-loop load that does not measure its own waiting for a processor.

Client and server share a machine here, as they do not where it matters. So the client goes before everything else
(first in, first out), wakes once for an answer instead of once for each piece of it, and takes as the end of an answer
the moment at which the kernel received its last piece, not the moment at which the client got to read it.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

REQUEST = b"GET /page.txt HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n"
FAILED_SECONDS = 60.0
PATIENCE_SECONDS = 20.0
WHOLE_ANSWER_BYTES = 1 << 20  # more than an answer: the client wakes when the server closes
_STAMPS = 35  # SO_TIMESTAMPNS
_RECEIVE_BUFFER = 33  # SO_RCVBUFFORCE


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: `due` in seconds since the load began; `took` and `late` in seconds since it was due.

    `late` is how long after that the client sent it.
    """

    due: float
    took: float
    late: float


def go_first() -> None:
    """Let this process run before all others of the usual classes; where a group may not have that, before most."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        os.nice(-20)


def load(port: int, seconds: float, rate: Callable[[float], float]) -> list[Answer]:
    """Send requests when they are due, `rate` a second; return what became of each. One that fails took a minute."""
    began, due = time.time(), 0.0
    open_ones: dict[socket.socket, tuple[float, float]] = {}
    found: list[Answer] = []
    with _connection(port) as _:  # the kernel stamps while any socket asks for it, and begins a moment after the first
        while due < seconds or open_ones:
            pause = began + due - time.time() if due < seconds else PATIENCE_SECONDS
            ready = select.select(list(open_ones), [], [], max(0.0, pause))[0]
            for connection in ready:
                at, late = open_ones.pop(connection)
                found.append(Answer(at, _ended(connection) - began - at, late))
            now = time.time() - began
            if due < seconds and now >= due:
                try:
                    open_ones[_asked(port)] = (due, now - due)
                except OSError:
                    found.append(Answer(due, FAILED_SECONDS, now - due))
                due += 1 / rate(due)
            for connection in [one for one, (at, _) in open_ones.items() if now - at > PATIENCE_SECONDS]:
                at, late = open_ones.pop(connection)
                connection.close()
                found.append(Answer(at, FAILED_SECONDS, late))
    return found


def _connection(port: int) -> socket.socket:
    connection = socket.socket()
    try:
        with suppress(PermissionError):
            connection.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER, 2 * WHOLE_ANSWER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, WHOLE_ANSWER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, _STAMPS, 1)
        connection.connect(("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    return connection


def _asked(port: int) -> socket.socket:
    connection = _connection(port)
    connection.sendall(REQUEST)
    return connection


def _ended(connection: socket.socket) -> float:
    """Read a whole answer; return when its last piece came, by the clock of the day; far in the future: it failed."""
    stamp, size = 0.0, 0
    with connection:
        connection.setblocking(False)
        try:
            while part := connection.recvmsg(WHOLE_ANSWER_BYTES, 64):
                if not part[0]:
                    break
                size += len(part[0])
                for _, kind, data in part[1]:
                    if kind == _STAMPS:
                        whole, parts = struct.unpack("qq", data[:16])
                        stamp = whole + parts / 1e9
        except OSError:
            size = 0
    if not size:
        return time.time() + FAILED_SECONDS
    return stamp or time.time()
