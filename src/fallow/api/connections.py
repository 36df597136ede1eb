"""Connections of the API: requests must begin in time, and what is no HTTP is refused like everything else."""

import asyncio
from typing import Any, cast

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from fallow.model.problems import Problem

HEAD_SECONDS = 10.0
MAX_CONNECTIONS = 4000
GATHERED_BYTES = 16 * 1024

_NOT_HTTP = Problem(
    type="urn:fallow:bad-request",
    title="Bad request",
    status=400,
    detail="this is not HTTP/1.1, tells its length in two ways, or its headers have more than 64 KiB",
)


class _OneLength(h11.Connection):
    """Refuses a request that tells its length in two ways: whoever stands before us may have believed the other."""

    def next_event(self) -> Any:
        """Return what came next. Raises h11.RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


class _Gathering:
    """A transport that sends what is written in one turn of the event loop together: head and body of an answer.

    They would be a TLS record, a system call and a packet each.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send soon, or at once when it is much: whoever writes without end must feel that nobody reads."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > GATHERED_BYTES:
            self._flush()

    def close(self) -> None:
        """Send what is left, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data, self._parts, self._size = b"".join(self._parts), [], 0
            self._transport.write(data)


class Connection(H11Protocol):
    """One connection; give it to uvicorn as `http`.

    uvicorn itself would wait for the end of a request's headers for ever: a few thousand callers that never finish
    would use up all file descriptors. Past MAX_CONNECTIONS new ones are closed at once.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _turned_away = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        if len(self.connections) >= MAX_CONNECTIONS:
            self._turned_away = True
            transport.abort()
            return
        self.conn = _OneLength(h11.SERVER)
        super().connection_made(cast(asyncio.Transport, _Gathering(transport)))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        if not self._turned_away:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request; between requests, its beginning starts the clock."""
        if self._turned_away:
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        else:
            self._expect_head()

    def on_response_complete(self) -> None:
        """Serve what has come meanwhile; a request of which only a part has come must be finished in time."""
        super().on_response_complete()
        if self.cycle.response_complete and self.conn.trailing_data[0]:
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, and close; nothing of it is repeated."""
        if self.cycle is not None and not self.cycle.response_complete:
            # What came before it is being answered still: that answer has lost its connection.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = msgspec.json.encode(_NOT_HTTP)
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(cast(Any, self.conn).send(event))
        self.transport.close()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_late(self) -> None:
        self._head_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
