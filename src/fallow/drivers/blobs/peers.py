"""Serving blobs to other members, and fetching them from one: mutual TLS, one connection a blob, read-only."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from fallow.client.frames import abort, read_frame
from fallow.drivers.blobs.contract import BlobError, Opened
from fallow.drivers.blobs.growing import Growing, Stored
from fallow.model.blobs import CHUNK_BYTES, MAX_UPSTREAM, VOID, BlobAnswered, BlobAsked, BlobAwaited, decode, encode
from fallow.model.credentials import SERVER_NAME, parse_member_uri

_log = structlog.get_logger("fallow.blobs")

MAX_CONNECTIONS = 32
ASK_SECONDS = 10.0
CONNECT_SECONDS = 3.0
ALIVE_SECONDS = 1.0  # so often who serves says that it is alive
SILENCE_SECONDS = 4.0  # and after so long without a sign it is given up
SEND_SECONDS = 30.0  # so long a peer may take for one chunk

Obtain = Callable[[str], Awaitable["Stored | Growing | None"]]


class Throttle:
    """Lets through so many bytes a second; 0 means no bound."""

    def __init__(self, bytes_per_second: float = 0.0) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait for the turn of `count` bytes."""
        if not self._rate:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + count / self._rate
        await asyncio.sleep(max(0.0, self._free_at - now - count / self._rate))


class PeerServer:
    """Serves what `obtain` gives to members of the cluster, who prove by certificate who they are.

    `own_id` is the member that serves. More than `max_connections` at a time are turned away.
    """

    def __init__(
        self, own_id: str, obtain: Obtain, *, throttle: Throttle | None = None, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self._own_id = own_id
        self._obtain = obtain
        self._throttle = throttle or Throttle()
        self._max_connections = max_connections
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.sent_bytes = 0

    async def start(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Listen and return the port; `context` must demand a certificate of the cluster's CA. Raises OSError."""
        self._server = await asyncio.start_server(
            self._accept, host or None, port, ssl=context, ssl_handshake_timeout=ASK_SECONDS, family=_family(host)
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop to listen and cut who is served."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError, ValueError, msgspec.DecodeError) as error:
            _log.debug("a peer was not served", reason=str(error))
        except asyncio.CancelledError:
            abort(writer.transport)
        finally:
            self._serving.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, client = peer_of(writer)
        async with asyncio.timeout(ASK_SECONDS):
            asked = decode(await read_frame(reader), BlobAsked)
        if len(self._serving) > self._max_connections:
            writer.write(encode(BlobAnswered(error="busy: too many are served already")))
            return
        blob = await self._obtain(asked.digest)
        if blob is None:
            writer.write(encode(BlobAnswered(error="this blob is not here")))
            return
        upstream = self._upstream(blob)
        if client in upstream:
            writer.write(encode(BlobAnswered(error="this blob comes from you")))
            return
        writer.write(encode(BlobAnswered(size_bytes=blob.size_bytes, upstream=upstream)))
        if isinstance(blob, Growing):
            with blob.read_by(client):
                await self._send(writer, blob, blob.read(asked.offset, alive_seconds=ALIVE_SECONDS))
        else:
            await self._send(writer, blob, blob.read(asked.offset))

    def _upstream(self, blob: Stored | Growing) -> tuple[str, ...]:
        return (self._own_id, *(blob.upstream if isinstance(blob, Growing) else ()))[:MAX_UPSTREAM]

    async def _send(
        self, writer: asyncio.StreamWriter, blob: Stored | Growing, chunks: AsyncGenerator[bytes, None]
    ) -> None:
        try:
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    await self._throttle.take(len(chunk))
                    writer.write(len(chunk).to_bytes(4, "big"))
                    writer.write(chunk or encode(BlobAwaited(upstream=self._upstream(blob))))
                    self.sent_bytes += len(chunk)
                    async with asyncio.timeout(SEND_SECONDS):
                        await writer.drain()
        except BlobError as error:
            if error.void:
                writer.write(VOID.to_bytes(4, "big"))


@dataclass(frozen=True, kw_only=True)
class PeerWay:
    """Another member that may have a blob; see `Way`. An empty `id` stands for the control plane."""

    id: str
    host: str
    port: int
    context: ssl.SSLContext  # proves us, and trusts the cluster's CA; for members it checks no host name
    role: str = "node"
    silence_seconds: float = SILENCE_SECONDS
    is_last: bool = False

    @contextlib.asynccontextmanager
    async def open(self, digest: str, size_bytes: int, offset: int) -> AsyncIterator[Opened]:
        """Have the blob sent. Raises BlobError."""
        reader, writer = await self._connect()
        try:
            answer = await self._ask(reader, writer, BlobAsked(digest=digest, offset=offset))
            if answer.size_bytes != size_bytes:
                raise BlobError("wrong-content", f"{self}: has {answer.size_bytes} bytes of it, not {size_bytes}")
            opened = Opened(offset=offset, chunks=_nothing(), upstream=self._through(answer.upstream))
            opened.chunks = self._chunks(reader, size_bytes - offset, opened)
            yield opened
        finally:
            abort(writer.transport)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    self.host, self.port, ssl=self.context, server_hostname=SERVER_NAME
                )
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            raise BlobError("unreachable", f"{self}: {error or 'no answer in time'}") from None
        return reader, writer

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: BlobAsked) -> BlobAnswered:
        try:
            if self.id and peer_of(writer) != (self.role, self.id):
                raise BlobError("denied", f"{self}: another member answers there")
            writer.write(encode(asked))
            async with asyncio.timeout(ASK_SECONDS):
                answer = decode(await read_frame(reader), BlobAnswered)
        except (OSError, EOFError, TimeoutError, ValueError, msgspec.DecodeError) as error:
            raise BlobError("unreachable", f"{self}: {error or 'no answer in time'}") from None
        if answer.error:
            raise BlobError("not-found", f"{self}: {answer.error}")
        return answer

    def _through(self, told: tuple[str, ...]) -> tuple[str, ...]:
        """Return the members that the blob comes through; the control plane has it for good."""
        return (self.id, *(each for each in told if each != self.id)) if self.id else ()

    async def _chunks(self, reader: asyncio.StreamReader, left: int, opened: Opened) -> AsyncIterator[bytes]:
        try:
            while left > 0:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if size == VOID:
                    raise BlobError("wrong-content", f"{self}: takes back what it sent", void=True)
                if size > min(CHUNK_BYTES, left):
                    raise BlobError("wrong-content", f"{self}: sends more than there is")
                if size == 0:
                    opened.upstream = self._through(decode(await read_frame(reader), BlobAwaited).upstream)
                    yield b""
                left -= size
                while size:
                    piece = await reader.read(size)
                    if not piece:
                        raise BlobError("stalled", f"{self}: broke off")
                    size -= len(piece)
                    yield piece
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            raise BlobError("stalled", f"{self}: broke off: {error}") from None

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.id or 'the control plane'} at {self.host}:{self.port}"


async def _nothing() -> AsyncIterator[bytes]:
    """Stand in for the chunks of an answer until there is one to read them for."""
    for chunk in (b"",):
        yield chunk


def peer_of(writer: asyncio.StreamWriter) -> tuple[str, str]:
    """Return the role and the id in the certificate the other side has proved to hold. Raises ValueError."""
    certificate = writer.get_extra_info("ssl_object").getpeercert() or {}
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise ValueError("the certificate is not a member's")
    return parse_member_uri(uris[0])


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
