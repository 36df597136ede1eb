"""What the processes of one control plane tell each other, and members of each other.

Each process hears only the members whose sessions it holds. The one that leads decides who is alive, and any may be
asked; so each of the others keeps a connection to it, and both tell each other all they know, twice a heartbeat.
"""

import asyncio
import contextlib
import ssl
import time
from pathlib import Path

import msgspec
import structlog

from fallow.client.frames import abort, read_frame
from fallow.client.tasks import first_to_end
from fallow.control.hub import Hub
from fallow.control.leader import Leadership
from fallow.control.runner import APPLIED, SESSIONS, Controller
from fallow.control.settings import Settings
from fallow.decide.federation.leads import lead_of
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.drivers.authority import Authority, write_pair
from fallow.model.credentials import SERVER_NAME
from fallow.model.kinds import KIND_OF
from fallow.model.peers import LEADER_ID, ControlAddress, Leader, Peer
from fallow.model.wire import ControlMoved, decode_digest, encode_frame
from fallow.store.cache import Cache

_log = structlog.get_logger("fallow.control")

CONNECT_SECONDS = 3.0
RETRY_SECONDS = 0.2
APART = "this process of the control plane does not reach the one that leads; another one may"


class Peers:
    """The other processes, and this one's place among them. Its certificates are written to `folder`."""

    def __init__(
        self, cache: Cache, hub: Hub, leadership: Leadership, authority: Authority, settings: Settings, folder: Path
    ) -> None:
        self._cache = cache
        self._hub = hub
        self._leadership = leadership
        self._authority = authority
        self._settings = settings
        self._pair = folder / "peer.pem"
        self._told: tuple[ControlAddress, ...] = ()
        self._news = asyncio.Event()
        self.steady = time.monotonic  # seconds that nobody sets
        self._leader_id = ""
        self._heard_at = 0.0  # when the one that leads was last heard, or began to lead, by `steady`

    @property
    def apart(self) -> bool:
        """Say whether another process leads and has not been heard for as long as makes a member suspect.

        What members tell us it does not hear either: it will take them for dead, and they should go elsewhere.
        """
        leader = self._leadership.leader
        leader_id = leader.id if leader is not None else ""
        if leader_id in ("", self._leadership.peer.id) or leader_id != self._leader_id:
            self._leader_id, self._heard_at = leader_id, self.steady()
            return False
        return self.steady() - self._heard_at > self._settings.suspect_after_seconds

    @property
    def lead(self) -> str:
        """Return the name of whoever leads; empty: nobody does just now."""
        found = self._cache.get("leaders", LEADER_ID)
        return lead_of(found) if isinstance(found, Leader) else ""

    def apart_controller(self) -> Controller:
        """Return the loop that sends members elsewhere when this process is apart from the one that leads."""

        def decide(_snapshot: Snapshot, _now: float) -> Plan:
            if self.apart:
                for link in self._hub.links():
                    self._hub.cut(link.member_id, APART)
            return Plan()

        return Controller(name="apart", kinds=frozenset({"leaders"}), every_seconds=0.5, decide=decide)

    def others(self) -> tuple[ControlAddress, ...]:
        """Return where members find the other processes."""
        found = [record for record in self._cache.records("peers").values() if isinstance(record, Peer)]
        found.sort(key=lambda peer: (peer.created_at, peer.id))
        return tuple(peer.address for peer in found if peer.id != self._leadership.peer.id)

    def controller(self) -> Controller:
        """Return the loop that tells members when there are other processes than before."""

        def decide(_snapshot: Snapshot, _now: float) -> Plan:
            self._news.set()  # all that wait
            self._news = asyncio.Event()
            others = self.others()
            if others != self._told:
                self._told = others
                for link in self._hub.links():
                    link.send(ControlMoved(control=others))
            return Plan()

        kinds = frozenset({KIND_OF[Peer], "leaders", SESSIONS, APPLIED})
        return Controller(name="peers", kinds=kinds, every_seconds=5.0, decide=decide)

    async def hold(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Exchange news with another process until it hangs up. Raises what ended it."""
        try:
            await first_to_end(self._listen(peer_id, reader), self._tell(peer_id, writer))
        finally:
            self._hub.peer_gone(peer_id)

    async def run(self) -> None:
        """Keep a connection to the process that leads, whenever it is not this one, until cancelled."""
        while True:
            leader, us = self._leadership.leader, self._leadership.peer
            # One that led from our own address ran here before us: who dials it talks to itself, without end.
            if leader is not None and leader.id != us.id and leader.address != us.address:
                try:
                    await self._converse(leader)
                except (OSError, EOFError, TimeoutError, ValueError, msgspec.DecodeError) as error:
                    _log.info("the process that leads is not reached", peer=leader.id, error=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _converse(self, leader: Peer) -> None:
        reader, writer = await self._dial(leader.address)
        try:
            await first_to_end(self.hold(leader.id, reader, writer), self._deposed(leader))
        finally:
            abort(writer.transport)

    async def _dial(self, address: ControlAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = await asyncio.to_thread(self._context)
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(
                address.session_host, address.session_port, ssl=context, server_hostname=SERVER_NAME
            )

    async def _deposed(self, leader: Peer) -> None:
        while self._leadership.leader == leader:
            await self._news.wait()

    async def _listen(self, peer_id: str, reader: asyncio.StreamReader) -> None:
        while True:
            digest = decode_digest(await read_frame(reader))
            if peer_id == self._leader_id:
                self._heard_at = self.steady()
            self._hub.absorb(peer_id, digest)

    async def _tell(self, peer_id: str, writer: asyncio.StreamWriter) -> None:
        while True:
            news = self._news
            writer.write(encode_frame(self._hub.digest(peer_id)))
            async with asyncio.timeout(CONNECT_SECONDS):
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.heartbeat_seconds / 2):
                    await news.wait()

    def _context(self) -> ssl.SSLContext:
        """Return a context that proves this process to others and trusts our CA alone."""
        pair = write_pair(self._pair, *self._authority.issue_peer(self._leadership.peer.id, time.time()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._authority.ca_pem)
        context.load_cert_chain(pair)
        return context
