"""The one connection a member keeps to its control plane: it dials out, and dials again for as long as it lives."""

import asyncio
import contextlib
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import structlog

from fallow.agent.control_addresses import ControlAddresses
from fallow.agent.identity import IdentityError, IdentityStore, utc_text
from fallow.agent.renewal import Renewal
from fallow.agent.repeating import Repeating
from fallow.agent.versions import Upgrader
from fallow.client.errors import ClientError
from fallow.client.frames import abort, read_frame
from fallow.client.joining import JoinError
from fallow.client.tasks import first_to_end
from fallow.model.credentials import SERVER_NAME
from fallow.model.frames import Frame
from fallow.model.units import format_duration
from fallow.model.wire import (
    ControlMoved,
    Goodbye,
    Heartbeat,
    Hello,
    ObservedAck,
    Reject,
    Renewed,
    ToMember,
    Upgrade,
    UpgradeReported,
    Usage,
    Welcome,
    decode_to_member,
    encode_frame,
)

_log = structlog.get_logger("fallow.agent.session")

CONNECT_SECONDS = 10.0
WRITE_SECONDS = 10.0
USER_TIMEOUT_MS = 6000  # unacknowledged for this long means that the other side is gone
RETRY_SECONDS = 0.2
RETRY_CAP_SECONDS = 5.0
GOOD_SECONDS = 5.0  # a session that lasted this long was a good one: the next try is a first one
REMIND_SECONDS = 60.0
CLOSE_SECONDS = 0.5
UNANSWERED = 3  # hellos in a row; then our certificate may be the reason
CLOCK_CODES = (9, 10)  # of X509_verify_cert(3): not yet valid, has expired
FINAL_PROBLEMS = ("urn:fallow:member-removed", "urn:fallow:key-mismatch")


class SessionRefused(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The control plane does not know this member any more; asking again cannot help. The text says what to do.

    `clean`: the member was removed, and what this machine runs for it should go.
    """

    def __init__(self, reason: str, clean: bool = False) -> None:
        super().__init__(reason)
        self.clean = clean

    exit_code = 77  # EX_NOPERM of sysexits.h; our systemd unit does not restart after it


class SessionBroken(ConnectionError):  # noqa: N818
    """There is no session now, or it has just ended; the text says why."""


class SessionDeclined(SessionBroken):
    """We do not want this session: who welcomed us is not to be obeyed any more. It is told so."""


class Member(Protocol):
    """What a session needs of the member it is for. Calls come from the event loop and must not block."""

    def hello(self) -> Hello:
        """Return the first frame."""

    def usage(self) -> Usage:
        """Return one sample for a heartbeat."""

    def opened(self, welcome: Welcome) -> None:
        """Note that a session is open."""

    def received(self, frame: ToMember) -> None:
        """Take in a frame that is about the member's work."""

    def closed(self) -> None:
        """Note that the session has ended; what belonged to it is over."""


class Session:
    """Keeps a session open until told to stop. `clock` gives UTC seconds, `chance` a number 0..1."""

    def __init__(
        self,
        identity: IdentityStore,
        member: Member,
        outbox: Repeating[Any, Any],
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._identity = identity
        self._member = member
        self._outbox = outbox
        self._chance = chance
        self.upgrader: Upgrader | None = None
        self.before_hello: Callable[[], Awaitable[object]] | None = None  # may keep us from saying it, by raising
        self.on_welcome: Callable[[Welcome], Awaitable[object]] | None = None  # may raise SessionDeclined
        self._upgrading: set[asyncio.Task[None]] = set()
        self._control = ControlAddresses(identity)
        self._renewal = Renewal(identity, clock, chance)
        self._writer: asyncio.StreamWriter | None = None
        self._writing = asyncio.Lock()
        self._complained = ("", 0.0)
        self._good_at = 0.0
        self._unanswered = 0

    @property
    def connected(self) -> bool:
        """Say whether a session is open."""
        return self._writer is not None

    @property
    def problem(self) -> str:
        """Return why there is no session; empty when there is one, or none was tried yet."""
        return self._complained[0]

    async def send(self, frame: Frame) -> None:
        """Send a frame on the open session, waiting while the peer is slow. Raises SessionBroken."""
        if self._writer is None:
            raise SessionBroken("there is no session")
        await self._write(self._writer, frame)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the session until `stop`, then say goodbye. Raises SessionRefused and IdentityError."""
        await first_to_end(self._keep(), self._part(stop))

    async def _part(self, stop: asyncio.Event) -> None:
        await stop.wait()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.send(Goodbye(reason="the agent stops"))

    async def _keep(self) -> None:
        """Dial until cancelled; waits grow, with full jitter, so that a crowd does not come back as one."""
        tries = 0
        while True:
            silent = False
            try:
                await self._renew_alone()
                await self._converse()
            except (OSError, EOFError, TimeoutError, ValueError, msgspec.DecodeError) as error:
                silent = isinstance(error, TimeoutError)
                self._complain(self._explained(error))
            except (SessionRefused, IdentityError):
                raise
            except Exception:  # noqa: BLE001 - a fault of ours in one session must not end the containers' agent
                _log.exception("the session failed; trying again")
            if self._good_at and time.monotonic() - self._good_at >= GOOD_SECONDS:
                tries = 0
            if silent or not self._good_at:  # who fell silent would be dialled for CONNECT_SECONDS
                self._control.move_on()
            self._good_at = 0.0
            rounds = min(tries // len(self._control), 16)
            await asyncio.sleep(self._chance() * min(RETRY_CAP_SECONDS, RETRY_SECONDS * 2.0**rounds))
            tries += 1

    def _explained(self, error: Exception) -> str:
        """Return what a person should know of why there is no session."""
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in CLOCK_CODES:
            return (
                f"the control plane's certificate is not valid by this machine's clock, which says {utc_text()}: "
                f"{error.verify_message}; set the clock{self._skew_text()}"
            )
        return str(error) or type(error).__name__

    def _skew_text(self) -> str:
        skew = self._identity.clock_skew()
        return f" (it was off by {format_duration(abs(skew))} when the certificate was issued)" if skew else ""

    def _complain(self, reason: str) -> None:
        """Log why there is no session, but the same reason not at every try."""
        before, at = self._complained
        now = time.monotonic()
        if reason != before or now - at >= REMIND_SECONDS:
            self._complained = (reason, now)
            address = self._control.current
            _log.warning(
                "no session; trying again", control=f"{address.session_host}:{address.session_port}", reason=reason
            )

    async def _renew_alone(self) -> None:
        try:
            await self._renewal.without_session(self._control.current.url)
        except JoinError as error:
            if error.problem.type in FINAL_PROBLEMS:
                raise self._refused(str(error), error.problem.clean) from error
        except ClientError:
            return  # logged; the old certificate may still do

    async def _converse(self) -> None:
        """Hold one session, from dialling to its end. Raises what ended it."""
        reader, writer = await self._dial()
        try:
            welcome = await self._greet(reader, writer)
            self._outbox.restart()
            self._writer = writer
            self._good_at = time.monotonic()
            self._complained = ("", 0.0)
            _log.info("session open", member=welcome.member_id, name=welcome.name)
            self._member.opened(welcome)
            await first_to_end(
                self._read(reader),
                self._beat(min(60.0, max(0.05, welcome.heartbeat_seconds))),
                self._tell(),
                self._renew_when_due(),
            )
        finally:
            if self._writer is not None:
                self._writer = None
                self._renewal.session_ended()
                self._member.closed()
            await _close(writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = await asyncio.to_thread(self._identity.tls)
        address = self._control.current
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                address.session_host, address.session_port, ssl=context, server_hostname=SERVER_NAME
            )
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        return reader, writer

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Welcome:
        if self.before_hello is not None:
            await self.before_hello()
        hello = self._member.hello()
        if self.upgrader is not None:
            hello = msgspec.structs.replace(hello, upgrade_failed=self.upgrader.failed)
        await self._write(writer, hello)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                answer = decode_to_member(await read_frame(reader))
        except (EOFError, ConnectionError, ssl.SSLError):
            # So ends the handshake of a certificate that has expired by the control plane's clock, whatever ours says:
            # TLS 1.3 lets us believe that it succeeded, and what it failed of seldom arrives.
            self._unanswered += 1
            if self._unanswered >= UNANSWERED:
                self._renewal.distrust()
            raise
        self._unanswered = 0
        if isinstance(answer, Reject):
            raise self._rejected(answer)
        if not isinstance(answer, Welcome):
            raise SessionBroken(f"the control plane began with {type(answer).__name__} instead of a welcome")
        if self.on_welcome is not None:
            try:
                await self.on_welcome(answer)
            except SessionDeclined as declined:
                await self._write(writer, Goodbye(reason=str(declined), stale=True))
                raise
        if self._identity.refusal:
            self._identity.clear_refusal()
        self._control.learn(answer.control)
        if self.upgrader is not None:
            self.upgrader.confirm()
        return answer

    def _rejected(self, frame: Reject) -> Exception:
        return self._refused(frame.reason, frame.clean) if frame.final else SessionBroken(f"refused: {frame.reason}")

    def _refused(self, reason: str, clean: bool) -> SessionRefused:
        """Remember that asking again cannot help, so that the next join with a token makes a new identity."""
        try:
            self._identity.note_refusal(reason)
        except OSError as error:
            _log.warning("refusal not noted", reason=str(error))
        return SessionRefused(f"the control plane turned this member away for good: {reason}", clean)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            frame = decode_to_member(await read_frame(reader))
            if isinstance(frame, ObservedAck):
                self._outbox.ack(frame.batch)
            elif isinstance(frame, ControlMoved):
                self._control.learn(frame.control)
            elif isinstance(frame, Renewed):
                self._renewal.take_in(frame.identity)
            elif isinstance(frame, Upgrade):
                task = asyncio.create_task(self._upgrade(frame))
                self._upgrading.add(task)
                task.add_done_callback(self._upgrading.discard)
            elif isinstance(frame, Reject):
                raise self._rejected(frame)
            elif isinstance(frame, Goodbye):
                raise SessionBroken(f"the control plane said goodbye: {frame.reason}")
            else:
                self._member.received(frame)

    async def _upgrade(self, order: Upgrade) -> None:
        """Carry out an order to upgrade; should it fail, say why on the session there is then."""
        if self.upgrader is None:
            error = "this agent is part of `fallow up`, which is upgraded as a whole"
            failed: UpgradeReported | None = UpgradeReported(
                version=order.version, upgrade_id=order.upgrade_id, error=error
            )
        else:
            _log.info("upgrading", version=order.version)
            failed = await asyncio.to_thread(self.upgrader.take, order)
        if failed is None:
            return
        _log.warning("not upgraded", version=order.version, reason=failed.error)
        with contextlib.suppress(OSError, TimeoutError):  # the same order comes again with the next session
            await self.send(failed)

    async def _beat(self, seconds: float) -> None:
        while True:
            await self.send(Heartbeat(usage=self._member.usage()))
            await asyncio.sleep(seconds)

    async def _tell(self) -> None:
        while True:
            await self.send(await self._outbox.next())

    async def _renew_when_due(self) -> None:
        while True:
            # A clock that is set while we sleep must not keep us asleep.
            await asyncio.sleep(min(60.0, self._renewal.due_in()))
            if self._renewal.due_in() <= 0:
                await self.send(await self._renewal.request())

    async def _write(self, writer: asyncio.StreamWriter, frame: Frame) -> None:
        data = encode_frame(frame)
        async with self._writing, asyncio.timeout(WRITE_SECONDS):
            writer.write(data)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close in good order; a peer that does not answer is not waited for."""
    writer.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        abort(writer.transport)
