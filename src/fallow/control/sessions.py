"""The listener for members' sessions: mutual TLS on a port of its own, frames in both directions.

Who a member is, its certificate tells: the id in its name and the key it was made for. Both must be those of a member
that is still in the store; what the member says of itself counts for nothing here.
"""

import asyncio
import asyncio.sslproto
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import msgspec
import structlog

from fallow.client.frames import abort, read_frame
from fallow.control.admission import Admission, Refused
from fallow.control.assignments import Assignments
from fallow.control.blobs import Blobs
from fallow.control.callers import SessionRefused, named_by, source_of
from fallow.control.claims import Claims, run_of
from fallow.control.door import Door, Room
from fallow.control.heartbeats import SessionProtocol
from fallow.control.hub import Hub
from fallow.control.images import Images
from fallow.control.network_reports import NetworkReports
from fallow.control.networks import Networks
from fallow.control.observations import Observations
from fallow.control.peers import APART, Peers
from fallow.control.pulls import Pulls
from fallow.control.reported import Greeting, KeyTaken, Reported
from fallow.control.servers import Servers
from fallow.control.session_link import SessionLink
from fallow.control.settings import Settings
from fallow.control.shares import Shares
from fallow.control.upgrades import Upgrades
from fallow.drivers.authority import key_sha256_of_certificate
from fallow.model.cluster_frames import RemotesApplied, RoomReported, SharesReported
from fallow.model.frames import Frame
from fallow.model.image_frames import BlobsChanged, ImageProgressed, ImagesReported, ImageTasksReported, PullAsked
from fallow.model.labels import variables_problem
from fallow.model.members import AgentRun, Member, RenewRequest, Revocation, Role
from fallow.model.names import DNS_PORT_VARIABLE
from fallow.model.peers import PEER_ROLE
from fallow.model.server_frames import ServerLeaving, ServerReported, VmTokenAsked
from fallow.model.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL_VERSION,
    SERVERS_PROTOCOL,
    FromMember,
    Goodbye,
    Heartbeat,
    Hello,
    LogChunk,
    NamesReported,
    NetworkReported,
    Observed,
    ObservedAck,
    ProxyReported,
    Reject,
    RenewAsked,
    Renewed,
    UpgradeReported,
    Welcome,
    decode_from_member,
    encode_frame,
)
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

_log = structlog.get_logger("fallow.sessions")

HELLO_SECONDS = 10.0
FACTS_SECONDS = 60.0
STOP_SECONDS = 1.0

# What only members of some roles say: a gateway runs no replicas, a node has no proxy.
_SPEAKERS: dict[type[Frame], tuple[Role, ...]] = {
    BlobsChanged: (Role.NODE,),
    Observed: (Role.NODE,),
    LogChunk: (Role.NODE, Role.CLUSTER),
    PullAsked: (Role.NODE,),
    ImageTasksReported: (Role.NODE,),
    ImageProgressed: (Role.NODE,),
    ImagesReported: (Role.NODE,),
    ProxyReported: (Role.GATEWAY,),
    NamesReported: (Role.GATEWAY,),
    SharesReported: (Role.CLUSTER,),
    RoomReported: (Role.CLUSTER,),
    RemotesApplied: (Role.CLUSTER,),
    ServerReported: (Role.SERVER,),
    VmTokenAsked: (Role.SERVER,),
    ServerLeaving: (Role.SERVER,),
}

# Every TLS connection of asyncio holds a read buffer of this size, 256 KiB unless told otherwise: too much for
# thousands of sessions that say a few hundred bytes a second.
asyncio.sslproto.SSLProtocol.max_size = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """Accepts sessions and hands what is said on them to those it concerns."""

    cache: Cache
    applier: Applier
    hub: Hub
    images: Images
    blobs: Blobs
    admission: Admission
    assignments: Assignments
    networks: Networks
    peers: Peers
    observations: Observations
    upgrades: Upgrades
    pulls: Pulls
    shares: Shares
    servers: Servers
    settings: Settings
    clock: Callable[[], float]
    hello_seconds: float = HELLO_SECONDS
    facts_seconds: float = FACTS_SECONDS
    _serving: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @cached_property
    def _reported(self) -> Reported:
        return Reported(self.cache, self.applier, self.clock, self.facts_seconds)

    @cached_property
    def _claims(self) -> Claims:
        return Claims(self.cache, self.applier, self.clock)

    @cached_property
    def _network_reports(self) -> NetworkReports:
        return NetworkReports(self.cache, self.applier, self.clock)

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> Door:
        """Start to accept sessions; `context` must demand a certificate of our CA. Raises OSError: it is taken."""
        loop = asyncio.get_running_loop()

        def protocol() -> SessionProtocol:
            return SessionProtocol(asyncio.StreamReader(limit=64 * 1024, loop=loop), self._serve, loop=loop)

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=4096)
        return Door(listening, protocol, context, Room(handshake_seconds=self.hello_seconds))

    async def stop(self, reason: str) -> None:
        """Say goodbye on every session and wait a moment until they have ended; what is left then is cut."""
        self._stopping.set()
        self._reported.stop()
        self._claims.stop()
        self._network_reports.stop()
        for link in self.hub.links():
            link.close(reason)
        if self._serving:
            _, left = await asyncio.wait(self._serving, timeout=STOP_SECONDS)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._stopping.is_set():  # a handshake that was under way when the listener closed
            abort(writer.transport)
            return
        self._serving.add(task)
        try:
            await self._hold(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, ssl.SSLError):
            pass  # it went away; how long it stays away is what counts
        except SessionRefused as refused:
            _log.info("session refused", reason=str(refused))
            writer.write(encode_frame(Reject(reason=str(refused), final=refused.final, clean=refused.clean)))
        except StoreError as error:
            _log.warning("session ended by the store", error=str(error))
            writer.write(encode_frame(Reject(reason="the store does not answer; try again")))
        except (msgspec.DecodeError, ValueError) as error:
            _log.warning("session broke the protocol", error=str(error))
            writer.write(encode_frame(Reject(reason=f"the protocol was broken: {error}")))
        except asyncio.CancelledError:
            abort(writer.transport)
            raise
        finally:
            self._serving.discard(task)
            writer.close()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hold one session, from its first frame to its end. Raises what ended it, but for a goodbye."""
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        role, id_ = named_by(certificate)
        structlog.contextvars.bind_contextvars(member=id_)  # every session is a task with a context of its own
        if role == PEER_ROLE:
            await self.peers.hold(id_, reader, writer)
            return
        if self.peers.apart:
            raise SessionRefused(APART)
        source = source_of(writer)
        member = await self._member(role, id_, certificate)
        try:
            member, hello = await self._admit(member, reader, source)
        except StoreError:
            self.hub.knocked(member.id)  # it is not the one that is silent
            raise
        run = run_of(hello, source, self.clock())
        link = SessionLink(member, writer, hello, run, self._claims.current(member.id))
        proved = self._prover(link, run)
        try:
            self._open(link, member, hello, source)
            self._hear_beats(link, writer, proved)
            await self._converse(link, member.role, reader, proved)
        finally:
            self.blobs.closed(link)
            self.hub.closed(link)
            self.assignments.closed(link)
            self.images.closed(link)
            self.networks.closed(link)
            self.pulls.closed(link)
            self.shares.ended(link)
            self.servers.ended(link)

    async def _admit(self, member: Member, reader: asyncio.StreamReader, source: str) -> tuple[Member, Hello]:
        """Return who it is and what it says at first. Raises SessionRefused."""
        async with asyncio.timeout(self.hello_seconds):
            hello = decode_from_member(await read_frame(reader))
        if not isinstance(hello, Hello):
            raise SessionRefused("the first frame must be a hello")
        if hello.protocol < OLDEST_PROTOCOL or (hello.oldest_protocol or hello.protocol) > PROTOCOL_VERSION:
            raise SessionRefused(
                f"the member speaks protocol {hello.protocol}, this control plane {OLDEST_PROTOCOL} to "
                f"{PROTOCOL_VERSION}: upgrade the older one"
            )
        if member.role is Role.SERVER and hello.protocol < SERVERS_PROTOCOL:
            raise SessionRefused(
                f"a server speaks protocol {SERVERS_PROTOCOL} or newer, this one {hello.protocol}: upgrade its agent"
            )
        problem = variables_problem(hello.variables)
        if problem:
            raise SessionRefused(problem)
        try:
            await self._reported.note(member.id, Greeting(hello=hello, source_address=source))
        except KeyTaken as taken:
            raise SessionRefused(str(taken)) from taken
        if hello.upgrade_failed is not None:
            await self.upgrades.failed(member.id, hello.upgrade_failed)
        if member.role is Role.CLUSTER:
            try:
                await self.shares.spoken.opening(member.id)
            except Refused as refused:
                raise SessionRefused(refused.problem.detail) from refused
        # What we tell it replaces all it knows: an old picture would stop what another process has told it to run.
        await self.applier.catch_up()
        return member, hello

    def _prover(self, link: SessionLink, run: AgentRun | None) -> Callable[[], None]:
        """Return what is to be called at the first word after the welcome; it tells nothing when called again."""
        told = run is None

        def proved() -> None:
            nonlocal told
            if not told and run is not None:
                told = True
                self._claims.made(link.member_id, link.opened_after, run, link.close)

        return proved

    def _open(self, link: SessionLink, member: Member, hello: Hello, source: str) -> None:
        """Welcome the member, make its session known, and tell it what it should do."""
        link.send(
            Welcome(
                member_id=member.id,
                name=member.name,
                heartbeat_seconds=self.settings.heartbeat_seconds,
                lease=member.lease,
                control=self.peers.others(),
                source_address=source,
                protocol=link.protocol,
                labels=member.labels if member.role is Role.CLUSTER else {},
                lead=self.peers.lead if member.role is Role.CLUSTER else "",
            )
        )
        # By what it says now, not by what is stored: an agent of another release does not know the frame.
        names = member.role is Role.GATEWAY and any(found.name == DNS_PORT_VARIABLE for found in hello.variables)
        self.hub.open(link, serves_names=names)
        self.assignments.greet(link)
        self.images.greet(link)
        self.shares.greet(link, partial(self.hub.logs, member.id, paced=True) if hello.relays_logs else None)
        self.servers.greet(link)
        if hello.wireguard_key:
            self.networks.greet(link)
        if hello.observations and member.role is Role.NODE:
            self.observations.submit(member.id, hello.observations)

    async def _member(self, role: str, member_id: str, certificate: bytes) -> Member:
        """Return the member that a certificate names. Raises SessionRefused."""
        member = await self.cache.latest("members", member_id)
        if not isinstance(member, Member) or member.role != role:
            raise await self._unknown(certificate, "this member was removed; join again with a new token")
        if key_sha256_of_certificate(certificate) != member.key_sha256:
            raise await self._unknown(certificate, "this member has another key now")
        if member.fence:
            raise SessionRefused(f"fenced: {member.fence}")
        return member

    async def _unknown(self, certificate: bytes, otherwise: str) -> SessionRefused:
        """Return the refusal of a key that is no member's: why, if that is on record."""
        found = await self.cache.latest("revocations", key_sha256_of_certificate(certificate))
        if isinstance(found, Revocation):
            return SessionRefused(found.reason, final=True, clean=not found.keep_containers)
        return SessionRefused(otherwise, final=True)

    def _hear_beats(self, link: SessionLink, writer: asyncio.StreamWriter, proved: Callable[[], None]) -> None:
        def on_beat(beat: Heartbeat) -> None:
            if link.ended:
                return
            proved()
            self._heard(link)
            self.hub.used(link.member_id, beat.usage)

        protocol = writer.transport.get_protocol()
        if isinstance(protocol, SessionProtocol):
            protocol.on_beat = on_beat

    def _heard(self, link: SessionLink) -> None:
        """Note a sign of life."""
        self.hub.heard(link.member_id)
        self.shares.spoken.heard(link.member_id)

    async def _converse(
        self, link: SessionLink, role: Role, reader: asyncio.StreamReader, proved: Callable[[], None]
    ) -> None:
        while True:
            frame = decode_from_member(await read_frame(reader))
            if link.ended:
                return
            proved()
            if role not in _SPEAKERS.get(type(frame), (role,)):
                raise ValueError(f"a {role} sends no {type(frame).__name__}")
            self._heard(link)
            if isinstance(frame, Goodbye):
                await self.shares.parted(link, frame)
                return
            await self._answer(link, frame)

    async def _answer(self, link: SessionLink, frame: FromMember) -> None:
        if isinstance(frame, Heartbeat):
            self.hub.used(link.member_id, frame.usage)
        elif isinstance(frame, Observed):
            await self._take_in(link, frame)
        elif isinstance(frame, ImageTasksReported | ImageProgressed | ImagesReported):
            await self.images.heard(link, frame)
        elif isinstance(frame, SharesReported | RoomReported):
            await self.shares.heard(link, frame)
        elif isinstance(frame, ServerReported | VmTokenAsked | ServerLeaving):
            await self.servers.heard(link, frame)
        else:
            await self._answer_other(link, frame)

    async def _answer_other(self, link: SessionLink, frame: FromMember) -> None:
        if isinstance(frame, ProxyReported | NamesReported | RemotesApplied):
            self._note(link, frame)
        elif isinstance(frame, NetworkReported):
            self._network_reports.note(link.member_id, frame.report)
        elif isinstance(frame, BlobsChanged):
            self.blobs.heard(link, frame)
        elif isinstance(frame, LogChunk):
            self.hub.log_chunk(link.member_id, frame)
        elif isinstance(frame, RenewAsked):
            await self._renew(link, frame)
        elif isinstance(frame, PullAsked):
            self.pulls.answer(link, frame)
        elif isinstance(frame, UpgradeReported):
            await self.upgrades.failed(link.member_id, frame)
        elif isinstance(frame, Hello):
            raise ValueError("a session has one hello")

    def _note(self, link: SessionLink, frame: ProxyReported | NamesReported | RemotesApplied) -> None:
        """Note what gateways do: one of ours, or all of a member."""
        if isinstance(frame, ProxyReported):
            self.hub.proxied(link.member_id, frame.report)
        elif isinstance(frame, NamesReported):
            self.hub.named(link.member_id, frame.report)
        else:
            self.hub.remotes_said(link.member_id, frame.revision)

    async def _take_in(self, link: SessionLink, frame: Observed) -> None:
        await link.unstored.take_in(
            frame.batch,
            lambda: self.observations.submit(link.member_id, frame.observations),
            lambda: link.send(ObservedAck(batch=frame.batch)),
        )

    async def _renew(self, link: SessionLink, frame: RenewAsked) -> None:
        try:
            identity = await self.admission.renew(RenewRequest(member_id=link.member_id, csr_pem=frame.csr_pem))
        except Refused as refused:
            _log.warning("certificate not renewed", member=link.member_id, reason=refused.problem.detail)
            return
        link.send(Renewed(identity=identity))
