"""Sockets of the name server: UDP and TCP, IPv4 and IPv6, in the event loop that makes it."""

import asyncio
import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fallow.decide.zone import Zone
from fallow.drivers.dns.answers import MAX_QUESTION, Answers, rcode_of, truncated
from fallow.drivers.dns.counters import NameCounters
from fallow.drivers.dns.failures import NameServerError
from fallow.drivers.dns.limits import ResponseLimit, Verdict, network_of
from fallow.model.names import NamesReport

AT_ONCE = 64  # packets read before others have their turn
BUFFER_BYTES = 1024 * 1024  # of the kernel, for bursts
IDLE_SECONDS = 10.0
QUERY_SECONDS = 3.0  # from the first byte of a question over TCP to its last
WRITE_SECONDS = 5.0
CONNECTIONS = 512
CONNECTIONS_PER_NETWORK = 64

_IP_PKTINFO = 8  # of Linux; Python names it from 3.14 on
_ANY = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, kw_only=True)
class TcpRoom:
    """How many connections there may be, in all and from one network, and for how many seconds they may do nothing."""

    connections: int = CONNECTIONS
    per_network: int = CONNECTIONS_PER_NETWORK
    idle_seconds: float = IDLE_SECONDS
    query_seconds: float = QUERY_SECONDS


@dataclass(eq=False)
class _Connection:
    network: str | bytes
    active_at: float
    writer: asyncio.StreamWriter


@dataclass
class NameServer:
    """Answers wherever it listens, from the newest zone it was given. Make and use it in one event loop."""

    limit: ResponseLimit = field(default_factory=ResponseLimit)
    room: TcpRoom = TcpRoom()
    counters: NameCounters = field(default_factory=NameCounters)
    clock: Callable[[], float] = time.perf_counter
    listens: tuple[str, ...] = ()
    _answers: Answers = field(default_factory=Answers, init=False)
    _udp: list[socket.socket] = field(default_factory=list, init=False)
    _tcp: list[asyncio.Server] = field(default_factory=list, init=False)
    _connections: dict[_Connection, None] = field(default_factory=dict, init=False)

    @property
    def zone(self) -> Zone | None:
        """Return what is answered from; None: nothing yet, and every question is answered by SERVFAIL."""
        return self._answers.zone

    def set(self, zone: Zone) -> None:
        """Answer from this zone from now on."""
        self._answers.set(zone)

    async def listen(self, host: str, port: int) -> int:
        """Answer at an address too, over UDP and TCP; return the port. Raises NameServerError.

        An IPv6 address of all interfaces takes IPv4 in as well. Port 0: any that is free.
        """
        shown = f"[{host}]" if ":" in host else host
        try:
            tcp = _tcp_socket(host, port)
        except OSError as error:
            raise NameServerError(f"names cannot be served at {shown}:{port}: {_why(error)}") from error
        port = int(tcp.getsockname()[1])
        try:
            udp = _udp_socket(host, port)
        except OSError as error:
            tcp.close()
            raise NameServerError(f"names cannot be served at {shown}:{port} over UDP: {_why(error)}") from error
        self._udp.append(udp)
        read = self._read_any if host in _ANY else self._read_one
        asyncio.get_running_loop().add_reader(udp, read, udp)
        self._tcp.append(await asyncio.start_server(self._serve, sock=tcp, limit=2 * MAX_QUESTION))
        self.listens = (*self.listens, f"{shown}:{port}")
        return port

    async def close(self) -> None:
        """Answer nothing any more."""
        loop = asyncio.get_running_loop()
        for udp in self._udp:
            loop.remove_reader(udp)
            udp.close()
        for server in self._tcp:
            server.close()
        for connection in list(self._connections):
            connection.writer.transport.abort()
        self._udp, self._tcp, self.listens = [], [], ()

    # UDP

    def _read_one(self, udp: socket.socket) -> None:
        """Answer what has come to a socket of one address."""
        with contextlib.suppress(
            OSError
        ):  # nothing left; or an answer that could not be sent, which is asked for again
            for _ in range(AT_ONCE):
                packet, source = udp.recvfrom(MAX_QUESTION + 1)
                reply = self._reply(packet, source[0])
                if reply is not None:
                    udp.sendto(reply, source)

    def _read_any(self, udp: socket.socket) -> None:
        """Answer what has come to a socket of all addresses, from the one that was asked: askers heed no other."""
        with contextlib.suppress(OSError):
            for _ in range(AT_ONCE):
                packet, told, _, source = udp.recvmsg(MAX_QUESTION + 1, 64)
                reply = self._reply(packet, source[0])
                if reply is not None:
                    udp.sendmsg([reply], _from_there(told), 0, source)

    def _reply(self, packet: bytes, host: str) -> bytes | None:
        began = self.clock()
        reply = self._answers.reply(packet, False) if len(packet) <= MAX_QUESTION else None
        if reply is None:
            self.counters.ignored += 1
            return None
        self.counters.udp += 1
        verdict = self.limit.judge(host, len(reply), began)
        if verdict is not Verdict.SEND:
            self.counters.limited += 1
            reply = truncated(reply) if verdict is Verdict.SHORTEN and reply[5] else None
        self.counters.answered(rcode_of(reply or packet), self.clock() - began)
        return reply

    # TCP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        connection = _Connection(network_of(peer[0]) if peer else "", self.clock(), writer)
        self._connections[connection] = None
        self._make_room(connection)
        try:
            while await self._serve_one(reader, connection):
                pass
        except (OSError, EOFError, TimeoutError):  # it went away, or said nothing, or did not read
            pass
        finally:
            del self._connections[connection]
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # it does not read
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, connection: _Connection) -> bool:
        """Answer one question; return whether there may be others. Raises OSError, EOFError and TimeoutError."""
        async with asyncio.timeout(self.room.idle_seconds):
            first = await reader.readexactly(1)
        async with asyncio.timeout(self.room.query_seconds):
            size = int.from_bytes(first + await reader.readexactly(1), "big")
            if size > MAX_QUESTION:
                return False
            packet = await reader.readexactly(size)
        began = connection.active_at = self.clock()
        reply = self._answers.reply(packet, True)
        if reply is None:
            self.counters.ignored += 1
            return False
        self.counters.tcp += 1
        self.counters.answered(rcode_of(reply), self.clock() - began)
        connection.writer.write(len(reply).to_bytes(2, "big") + reply)
        async with asyncio.timeout(WRITE_SECONDS):
            await connection.writer.drain()
        return True

    def _make_room(self, come: _Connection) -> None:
        """Cut the connection that has been idle for longest when there are too many, of one network or in all."""
        near = [found for found in self._connections if found.network == come.network]
        full = near if come.network and len(near) > self.room.per_network else []
        if not full and len(self._connections) > self.room.connections:
            full = list(self._connections)
        if full:
            self.counters.connections_cut += 1
            min(full, key=lambda found: found.active_at).writer.transport.abort()


def report_of(server: NameServer, now: float, message: str = "") -> NamesReport:
    """Return what a name server does; `now` in seconds that nobody sets, `message` what keeps it from doing more."""
    return NamesReport(
        revision=server.zone.revision if server.zone is not None else 0,
        listens=server.listens,
        queries=server.counters.queries,
        queries_per_second=round(server.counters.per_second(now), 1),
        rcodes=server.counters.by_rcode(),
        message=message[:500],
    )


def _tcp_socket(host: str, port: int) -> socket.socket:
    if ":" in host:
        return socket.create_server((host, port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=host == "::")
    return socket.create_server((host, port), backlog=256)


def _udp_socket(host: str, port: int) -> socket.socket:
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.setblocking(False)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        if ":" in host:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        udp.bind((host, port))
    except OSError:
        udp.close()
        raise
    return udp


def _from_there(told: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return what makes an answer leave from the address that a question came to; the kernel chooses the interface."""
    for level, kind, data in told:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(data) >= 12:
            _, asked, _ = struct.unpack("=I4s4s", data[:12])
            return [(level, kind, struct.pack("=I4s4s", 0, asked, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) >= 20:
            # A link-local address means nothing without its interface; any other is found by routing.
            link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            return [(level, kind, data if link_local else data[:16] + bytes(4))]
    return []


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program uses that address; `ss -lunp` shows which"
    if error.errno == errno.EACCES:
        return "ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE)"
    return error.strerror or str(error)
