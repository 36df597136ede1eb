"""The listener for members' sessions: mutual TLS on a port of its own, frames in both directions.

Who a member is, its certificate tells: the id in its name and the key it was made for. Both must be those of a member
that is still in the store; what the member says of itself counts for nothing here.
"""

import asyncio
import asyncio.sslproto
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
from cryptography import x509

from fallow.control.admission import Admission, Refused
from fallow.control.assignments import Assignments
from fallow.control.hub import Hub
from fallow.control.observations import Observations
from fallow.control.settings import Settings
from fallow.decide.plan import Step
from fallow.drivers.authority import key_sha256_of_certificate
from fallow.model.credentials import parse_member_uri
from fallow.model.members import Member, RenewRequest, Role
from fallow.model.wire import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    FromMember,
    Goodbye,
    Heartbeat,
    Hello,
    LogChunk,
    Observed,
    ObservedAck,
    ProxyReported,
    Reject,
    RenewAsked,
    Renewed,
    ToMember,
    Welcome,
    decode_from_member,
    encode_frame,
)
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict

_log = structlog.get_logger("fallow.sessions")

HELLO_SECONDS = 10.0
SEND_BUFFER_BYTES = 32 * 1024 * 1024
UNSTORED_BATCHES = 16

# Every TLS connection of asyncio holds a read buffer of this size, 256 KiB unless told otherwise: too much for
# thousands of sessions that say a few hundred bytes a second.
asyncio.sslproto.SSLProtocol.max_size = 16 * 1024


class SessionRefused(Exception):  # noqa: N818 - an outcome, told to the member
    """The peer is not let in; `final` when asking again cannot help."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class SessionLink:
    """One open session; see `hub.Link`."""

    def __init__(self, member_id: str, writer: asyncio.StreamWriter) -> None:
        self.member_id = member_id
        self.unstored: set[asyncio.Future[None]] = set()
        self._writer = writer

    def send(self, frame: ToMember) -> None:
        """Queue a frame; a member that does not read is cut off."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > SEND_BUFFER_BYTES:
            _log.warning("member does not read; its session is cut", member=self.member_id)
            transport.abort()
            return
        self._writer.write(encode_frame(frame))

    def close(self, reason: str, final: bool = False) -> None:
        """End the session; `final` tells the member not to come back."""
        self.send(Reject(reason=reason, final=True) if final else Goodbye(reason=reason))
        self._writer.close()


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """Accepts sessions and hands what is said on them to those it concerns."""

    cache: Cache
    applier: Applier
    hub: Hub
    admission: Admission
    assignments: Assignments
    observations: Observations
    settings: Settings
    clock: Callable[[], float]

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Start to accept sessions; `context` must demand a certificate of our CA."""
        return await asyncio.start_server(
            self._serve, host, port, ssl=context, limit=64 * 1024, backlog=4096, ssl_handshake_timeout=HELLO_SECONDS
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link: SessionLink | None = None
        try:
            link = await self._admit(reader, writer)
            await self._converse(link, reader)
        except SessionRefused as refused:
            _log.info("session refused", reason=str(refused))
            writer.write(encode_frame(Reject(reason=str(refused), final=refused.final)))
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, ssl.SSLError):
            pass  # it went away; how long it stays away is what counts
        except (msgspec.DecodeError, ValueError) as error:
            _log.warning("session broke the protocol", member=link.member_id if link else "", error=str(error))
        finally:
            if link is not None:
                self.hub.closed(link)
                self.assignments.closed(link)
            writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> SessionLink:
        member = self._member_of(writer)
        async with asyncio.timeout(HELLO_SECONDS):
            hello = decode_from_member(await read_frame(reader))
        if not isinstance(hello, Hello):
            raise SessionRefused("the first frame must be a hello")
        if hello.protocol != PROTOCOL_VERSION:
            raise SessionRefused(
                f"the member speaks protocol {hello.protocol}, this control plane {PROTOCOL_VERSION}: "
                "upgrade the older one"
            )
        await self._note_facts(member.id, hello)
        link = SessionLink(member.id, writer)
        link.send(
            Welcome(
                member_id=member.id,
                name=member.name,
                heartbeat_seconds=self.settings.heartbeat_seconds,
                lease=member.lease,
            )
        )
        self.hub.open(link)
        self.assignments.greet(link)
        if hello.observations and member.role is Role.NODE:
            self.observations.submit(member.id, hello.observations)
        return link

    def _member_of(self, writer: asyncio.StreamWriter) -> Member:
        """Return the member that the peer's certificate names. Raises SessionRefused."""
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
            (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
            role, member_id = parse_member_uri(uri)
        except (ValueError, x509.ExtensionNotFound) as error:
            raise SessionRefused("the certificate is not a member's", final=True) from error
        member = self.cache.get("members", member_id)
        if not isinstance(member, Member) or member.role != role:
            raise SessionRefused("this member was removed; join again with a new token", final=True)
        if key_sha256_of_certificate(der) != member.key_sha256:
            raise SessionRefused("this member has another key now", final=True)
        return member

    async def _note_facts(self, member_id: str, hello: Hello) -> None:
        """Store what the machine says of itself, where it has changed."""
        while True:
            member = self.cache.get("members", member_id)
            if not isinstance(member, Member):
                raise SessionRefused("this member was removed; join again with a new token", final=True)
            if (member.facts, member.variables) == (hello.facts, hello.variables):
                return
            changed = msgspec.structs.replace(
                member, facts=hello.facts, variables=hello.variables, updated_at=self.clock()
            )
            try:
                await self.applier.commit(Step(puts=(changed,)))
            except Conflict as conflict:
                _log.debug("facts are written again", member=member_id, conflict=str(conflict))
            else:
                return

    async def _converse(self, link: SessionLink, reader: asyncio.StreamReader) -> None:
        while True:
            frame = decode_from_member(await read_frame(reader))
            self.hub.heard(link.member_id)
            if isinstance(frame, Goodbye):
                return
            await self._answer(link, frame)

    async def _answer(self, link: SessionLink, frame: FromMember) -> None:
        if isinstance(frame, Heartbeat):
            self.hub.used(link.member_id, frame.usage)
        elif isinstance(frame, Observed):
            await self._take_in(link, frame)
        elif isinstance(frame, ProxyReported):
            self.hub.proxied(link.member_id, frame.report)
        elif isinstance(frame, LogChunk):
            self.hub.log_chunk(link.member_id, frame)
        elif isinstance(frame, RenewAsked):
            await self._renew(link, frame)
        else:
            raise ValueError("a session has one hello")

    async def _take_in(self, link: SessionLink, frame: Observed) -> None:
        """Store observations without holding up the heartbeats behind them, but for a member that sends too many."""
        stored = self.observations.submit(link.member_id, frame.observations)
        link.unstored.add(stored)
        stored.add_done_callback(link.unstored.discard)
        stored.add_done_callback(lambda _: link.send(ObservedAck(batch=frame.batch)))
        if len(link.unstored) > UNSTORED_BATCHES:
            await asyncio.wait(link.unstored, return_when=asyncio.FIRST_COMPLETED)

    async def _renew(self, link: SessionLink, frame: RenewAsked) -> None:
        try:
            identity = await self.admission.renew(RenewRequest(member_id=link.member_id, csr_pem=frame.csr_pem))
        except Refused as refused:
            _log.warning("certificate not renewed", member=link.member_id, reason=refused.problem.detail)
            return
        link.send(Renewed(identity=identity))


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the body of the next frame. Raises ValueError when it is too large, IncompleteReadError at the end."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes exceeds {MAX_FRAME_BYTES}")
    return await reader.readexactly(size)
