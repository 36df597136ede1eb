"""Where TLS connections come in: who has not yet finished a handshake gets little room, and only for a while."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

_log = structlog.get_logger("fallow.door")

HANDSHAKE_SECONDS = 10.0
CLOSE_SECONDS = 5.0  # so long a peer may take to confirm the end of a connection
PER_SOURCE = 500
IN_ALL = 2000
GRACE_SECONDS = 1.0
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many handshakes may be under way, of one source address (IPv6: one /64) and of all; times in seconds.

    Past that the one that has taken longest is cut, for honest peers are through in milliseconds. While even that one
    is younger than `grace_seconds` there is simply a crowd, and who comes last has to come again.
    """

    per_source: int = PER_SOURCE
    in_all: int = IN_ALL
    grace_seconds: float = GRACE_SECONDS
    handshake_seconds: float = HANDSHAKE_SECONDS


ROOM = Room()


@dataclass
class Door:
    """Accepts connections at `listening` until closed, and gives each that finishes its handshake to a new protocol.

    Looks like an `asyncio.Server` to those who only close it. What asyncio's own server lacks is a limit on handshakes:
    a thousand peers that never finish theirs would hold memory and file descriptors that others need.
    """

    listening: socket.socket
    protocol: Callable[[], asyncio.Protocol]
    context: ssl.SSLContext
    room: Room = ROOM
    _crowds: dict[str, dict[asyncio.Task[None], float]] = field(default_factory=dict, init=False)  # oldest first
    _accepting: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        """Begin to accept; call it in a running loop."""
        self.listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept(), name="door")

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Return where it listens."""
        return (self.listening,)

    @property
    def waiting(self) -> int:
        """Return how many handshakes are under way."""
        return sum(map(len, self._crowds.values()))

    def close(self) -> None:
        """Accept no more; handshakes under way are broken off, connections are not."""
        self._accepting.cancel()
        for crowd in self._crowds.values():
            for task in crowd:
                task.cancel()
        self.listening.close()

    async def wait_closed(self) -> None:
        """Return once nothing is accepted any more."""
        await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.listening)
            except OSError as error:  # it went away again, or there are no file descriptors left
                _log.warning("connection not accepted", error=str(error))
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._enter(connection, source_key(str(address[0])), loop.time())
            await asyncio.sleep(0)  # accepting may not need to wait: others must have their turn

    def _enter(self, connection: socket.socket, source: str, now: float) -> None:
        crowd = self._crowds.get(source, {})
        full = crowd if len(crowd) >= self.room.per_source else None
        if full is None and self.waiting >= self.room.in_all:
            full = max(self._crowds.values(), key=len)
        if full is not None:
            oldest = next(iter(full))
            if now - full[oldest] < self.room.grace_seconds:
                connection.close()
                return
            del full[oldest]
            oldest.cancel()
        task = asyncio.create_task(self._shake_hands(connection))
        self._crowds.setdefault(source, {})[task] = now
        task.add_done_callback(lambda done: self._leave(source, done))

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # ssl.SSLError and TimeoutError are such: it went away, or is none of ours
            await loop.connect_accepted_socket(
                self.protocol,
                connection,
                ssl=self.context,
                ssl_handshake_timeout=self.room.handshake_seconds,
                ssl_shutdown_timeout=CLOSE_SECONDS,
            )

    def _leave(self, source: str, task: asyncio.Task[None]) -> None:
        crowd = self._crowds.get(source, {})
        crowd.pop(task, None)
        if not crowd:
            self._crowds.pop(source, None)
        if not task.cancelled() and task.exception() is not None:
            _log.error("handshake failed", exc_info=task.exception())


def source_key(source: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 an IPv6 address lies in."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return source[:64]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
