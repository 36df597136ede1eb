"""One open session of a member, as the control plane holds it: what is sent on it, and how it ends."""

import asyncio

import structlog

from fallow.client.frames import abort
from fallow.control.intake import Unstored
from fallow.model.members import AgentRun, Member
from fallow.model.wire import PROTOCOL_VERSION, Goodbye, Hello, Reject, ToMember, encode_frame

_log = structlog.get_logger("fallow.sessions")

SEND_BUFFER_BYTES = 32 * 1024 * 1024


class SessionLink:
    """One open session of a start of an agent, `run`, opened while the start `after` had the member; see `hub.Link`."""

    def __init__(
        self, member: Member, writer: asyncio.StreamWriter, hello: Hello, run: AgentRun | None = None, after: str = ""
    ) -> None:
        self.member_id = member.id
        self.key_sha256 = member.key_sha256
        self.instance = run.instance if run is not None else ""
        self.opened_after = after
        self.agent_version = hello.agent_version
        self.protocol = min(hello.protocol, PROTOCOL_VERSION)
        self.ended = False  # what it still sends is not heard
        self.unstored = Unstored()  # of its observations
        self._writer = writer

    def send(self, frame: ToMember) -> None:
        """Queue a frame; a member that does not read is cut off, and so is one for which a frame is too large."""
        transport = self._writer.transport
        if self.ended or transport.is_closing():
            return
        try:
            data = encode_frame(frame)
        except ValueError as error:
            _log.error("frame not sent; the session is cut", member=self.member_id, error=str(error))
            abort(transport)
            return
        if transport.get_write_buffer_size() > SEND_BUFFER_BYTES:
            _log.warning("member does not read; its session is cut", member=self.member_id)
            abort(transport)
            return
        self._writer.write(data)

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        """End the session; `final` tells the member not to come back, `clean` to remove what it runs."""
        if self.ended:
            return
        self.send(Reject(reason=reason, final=True, clean=clean) if final else Goodbye(reason=reason))
        self.ended = True
        self._writer.close()
