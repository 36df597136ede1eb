"""Connections in memory: ordered, delayed, cut, cut off, and now and then a frame twice - real bytes, no TLS."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from fallow.model.peers import PEER_ROLE
from fallow.model.wire import decode_from_member, decode_to_member
from simulation.clock import NOBODY

USER_TIMEOUT_SECONDS = 6.0  # see agent/session.py: so long a member's kernel waits for an acknowledgement
_ONCE = ("Hello", "Welcome", "Reject", "Goodbye", "RenewAsked", "Renewed")


class End(asyncio.Transport):
    """One end of a connection. `host` is where it is; bytes for the other end travel through `Network`."""

    def __init__(self, network: "Network", host: str, name: str, patience: float | None) -> None:
        super().__init__()
        self.network = network
        self.host = host
        self.role, _, self.id = name.partition("/")  # who a certificate would say has dialled
        self.certificate = name.encode()
        self.peer: End
        self.protocol: Any = None
        self._patience = patience
        self._closing = False
        self._lost = False
        self._last_arrival = 0.0
        self._held: list[bytes | None] = []  # what a partition keeps from leaving; None: the end of the stream
        self._impatient: asyncio.TimerHandle | None = None

    # what asyncio asks of a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "ssl_object" else default

    def getpeercert(self, binary_form: bool) -> bytes:
        """Return what names the other end, as a TLS object would."""
        return self.certificate

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def get_write_buffer_size(self) -> int:
        return sum(len(part) for part in self._held if part)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_closing():
            self._send(bytes(data))
            if self.network.repeats():
                self._repeat(bytes(data))

    def close(self) -> None:
        if not self.is_closing():
            self._closing = True
            self._send(None)
            asyncio.get_running_loop().call_soon(self.lose, None)

    def abort(self) -> None:
        self.lose(None)
        self.peer.notice_reset()

    # the way

    def _repeat(self, frame: bytes) -> None:
        """Let a frame arrive again, where the protocol allows it: observations also long after newer ones."""
        if self.role == PEER_ROLE:
            self._send(frame)
            return
        decode: Callable[[bytes], Any] = decode_from_member if self._patience is not None else decode_to_member
        kind = type(decode(frame[4:])).__name__
        if kind in ("Observed", "SharesReported"):
            loop = asyncio.get_running_loop()
            loop.call_later(self.network.lateness(), self.peer.arrive, frame, context=NOBODY)
        elif kind not in _ONCE:
            self._send(frame)

    def _send(self, data: bytes | None) -> None:
        if self.network.cut_off(self):
            self._held.append(data)
            self._lose_patience()
            return
        if self.network.unanswered(self):
            self._lose_patience()
        loop = asyncio.get_running_loop()
        # never at the same instant as the one before: timers of one instant fire in any order
        self._last_arrival = max(self._last_arrival + 1e-6, loop.time() + self.network.delay(self))
        loop.call_at(self._last_arrival, self.peer.arrive, data, context=NOBODY)

    def _lose_patience(self) -> None:
        if self._patience is not None and self._impatient is None:
            loop = asyncio.get_running_loop()
            error = TimeoutError("no acknowledgement")
            self._impatient = loop.call_later(self._patience, self.lose, error, context=NOBODY)

    def healed(self) -> None:
        """Send what was held back."""
        if self._impatient is not None:
            self._impatient.cancel()
            self._impatient = None
        held, self._held = self._held, []
        for data in held:
            self._send(data)

    def arrive(self, data: bytes | None) -> None:
        if self._lost:
            self.peer.notice_reset()
        elif (unread := self.network.unread.get(self.host)) is not None:
            unread.append((self, data))
        elif data is None:
            self.protocol.eof_received()
        else:
            if self._patience is None and self.role != PEER_ROLE:
                self.network.hear(self.id, asyncio.get_running_loop().time())
            self.protocol.data_received(data)

    def notice_reset(self) -> None:
        """Hear that the other end is no more; not through a partition."""
        if not self._lost and not self.network.cut_off(self):
            loop = asyncio.get_running_loop()
            error = ConnectionResetError("reset by peer")
            loop.call_later(self.network.delay(self), self.lose, error, context=NOBODY)

    def lose(self, why: Exception | None) -> None:
        """End for good."""
        if self._lost:
            return
        self._lost = self._closing = True
        if self._impatient is not None:
            self._impatient.cancel()
        self.network.forget(self)
        self.protocol.connection_lost(why)


class Network:
    """Every connection there is. `serve` has the control planes that listen, by host."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._ends: dict[End, None] = {}
        self._partitioned: dict[str, None] = {}
        self._mute: dict[str, None] = {}  # nothing they send arrives
        self._deaf: dict[str, None] = {}  # nothing that is sent to them arrives
        self.slow: dict[str, float] = {}  # host -> up to so many seconds more for each frame
        self.repeat_share = 0.0
        self.hear: Callable[[str, float], None] = lambda member_id, at: None  # told of every word of a member
        self.serve: dict[str, Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]] = {}
        self.unread: dict[str, list[tuple[End, bytes | None]]] = {}  # what frozen hosts have yet to read

    def cut_off(self, end: End) -> bool:
        """Say whether nothing goes from this end to the other."""
        if end.host in self._mute or end.peer.host in self._deaf:
            return True
        return end.host in self._partitioned or end.peer.host in self._partitioned

    def unanswered(self, end: End) -> bool:
        """Say whether what this end sends arrives, but no acknowledgement of it comes back."""
        return end.peer.host in self._mute or end.host in self._deaf

    def cut_one_way(self, host: str, mute: bool) -> None:
        """Let nothing that a host sends arrive; or, if not `mute`, nothing that is sent to it."""
        (self._mute if mute else self._deaf)[host] = None

    def delay(self, end: End) -> float:
        slow = self.slow.get(end.host, 0.0) + self.slow.get(end.peer.host, 0.0)
        return 0.0005 + self._chance.random() * (0.004 + slow)

    def repeats(self) -> bool:
        return self.repeat_share > 0 and self._chance.random() < self.repeat_share

    def lateness(self) -> float:
        return 0.01 + self._chance.random() * 3.0

    def forget(self, end: End) -> None:
        self._ends.pop(end, None)

    def freeze(self, host: str) -> None:
        """Let a host read nothing; what is sent to it waits, and who sends does not notice."""
        self.unread.setdefault(host, [])

    def thaw(self, host: str) -> None:
        for end, data in self.unread.pop(host, []):
            end.arrive(data)

    def is_partitioned(self, host: str) -> bool:
        return host in self._partitioned

    def partition(self, host: str) -> None:
        self._partitioned[host] = None

    def heal(self, host: str) -> None:
        cuts = [cut for cut in (self._partitioned, self._mute, self._deaf) if host in cut]
        for cut in cuts:
            del cut[host]
        if cuts:
            for end in list(self._ends):
                if not self.cut_off(end):
                    end.healed()

    def reset(self, host: str) -> None:
        """Break every connection of a host off; what is under way is lost."""
        for end in list(self._ends):
            if end.host == host:
                end.lose(ConnectionResetError("cut"))
                end.peer.lose(ConnectionResetError("cut"))

    def vanish(self, host: str) -> None:
        """Let a host's ends go without a word, as when its process is killed: the other side hears of it."""
        for end in list(self._ends):
            if end.host == host:
                end.lose(ConnectionResetError("killed"))
                end.peer.notice_reset()

    async def dial(self, host: str, name: str, to: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect `name` (role/id) to a control plane. Raises OSError; waits without end while either is cut off."""
        while any(place in cut for place in (host, to) for cut in (self._partitioned, self._mute, self._deaf)):
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.002 + self._chance.random() * 0.01)
        if to not in self.serve:
            raise ConnectionRefusedError("nobody listens")
        near, far = End(self, host, name, USER_TIMEOUT_SECONDS), End(self, to, name, None)
        near.peer, far.peer = far, near
        streams = [_streams(end) for end in (near, far)]
        for end in (near, far):
            self._ends[end] = None
        self.serve[to](*streams[1])
        return streams[0]


def _streams(end: End) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    end.set_protocol(protocol)
    protocol.connection_made(end)
    return reader, asyncio.StreamWriter(end, protocol, reader, loop)
