"""The registry on this machine that its engine pulls from: read-only, of what was granted, on loopback.

OCI distribution specification 1.1, the part that a pull needs. A blob goes out while it is still coming in. Every name
begins with a word that only this process and its engine know: no other program here pulls what it was not given.
"""

import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import msgspec
import structlog
from aiohttp import web

from fallow.drivers.blobs import BlobError, Growing, Stored
from fallow.model.references import DIGEST_PATTERN

_log = structlog.get_logger("fallow.agent.blobs")

HOST = "127.0.0.1"  # Docker takes registries there for insecure ones by itself
ENGINE = "engine"  # whom `Growing` counts as reading
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})\Z")
_DIGEST = re.compile(DIGEST_PATTERN)
_OCTETS = "application/octet-stream"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_FINAL = frozenset({"denied", "not-found", "rate-limited"})

Obtain = Callable[[str, str], Awaitable["Stored | Growing | None"]]


class _Kind(msgspec.Struct, frozen=True):
    media_type: str = msgspec.field(default=_MANIFEST, name="mediaType")


class Endpoint:
    """Serves what `obtain(name, digest)` gives; that returns None for what was not granted, and raises BlobError."""

    def __init__(self, obtain: Obtain) -> None:
        self._obtain = obtain
        self._secret = secrets.token_hex(8)
        self._runner: web.AppRunner | None = None
        self._place = ""

    async def start(self) -> None:
        """Listen on a port of its own. Raises OSError."""
        app = web.Application()
        app.router.add_get("/v2/", self._version)
        app.router.add_get(f"/v2/{self._secret}/{{name:.+}}/{{kind:manifests|blobs}}/{{digest}}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self._place = f"{HOST}:{port}/{self._secret}"

    async def stop(self) -> None:
        """Listen no more."""
        self._place = ""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def name(self, name: str, digest: str) -> str:
        """Return what the engine is to pull; empty while nobody listens."""
        return f"{self._place}/{name}@{digest}" if self._place else ""

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({}, headers={"Docker-Distribution-Api-Version": "registry/2.0"})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        digest, of = request.match_info["digest"], request.match_info["kind"]
        if not _DIGEST.match(digest):
            return _refusal(404, "MANIFEST_UNKNOWN", "only digests are served here")
        try:
            blob = await self._obtain(request.match_info["name"], digest)
            if blob is None:
                return _refusal(404, "MANIFEST_UNKNOWN" if of == "manifests" else "BLOB_UNKNOWN", "it was not granted")
            if of == "manifests":
                return await self._manifest(blob)
            return await self._blob(request, blob)
        except BlobError as error:
            # Engines try again for minutes what they take for a passing trouble.
            final = error.kind in _FINAL
            return _refusal(403 if final else 502, "DENIED" if final else "UNKNOWN", str(error))

    async def _manifest(self, blob: Stored | Growing) -> web.Response:
        body = b"".join([chunk async for chunk in _reading(blob, 0, blob.size_bytes)])
        try:
            kind = msgspec.json.decode(body, type=_Kind).media_type
        except (msgspec.DecodeError, UnicodeDecodeError):
            kind = _MANIFEST
        headers = {"Docker-Content-Digest": blob.digest, "Content-Type": kind}
        return web.Response(body=body, headers=headers)

    async def _blob(self, request: web.Request, blob: Stored | Growing) -> web.StreamResponse:
        size = blob.size_bytes
        headers = {"Docker-Content-Digest": blob.digest, "Content-Type": _OCTETS, "Accept-Ranges": "bytes"}
        status, start, end = 200, 0, size
        wanted = _RANGE.match(request.headers.get("Range", ""))
        if wanted:
            start, end = int(wanted[1]), min(size, int(wanted[2]) + 1 if wanted[2] else size)
            if start >= end:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{size}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = end - start
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        async with contextlib.aclosing(_reading(blob, start, end)) as chunks:
            # An answer begins once there is something to say: that nobody has the blob is then an answer too.
            first = await anext(chunks, b"")
            await response.prepare(request)
            await self._send(request, response, first, chunks)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, first: bytes, chunks: AsyncIterator[bytes]
    ) -> None:
        try:
            await response.write(first)
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
        except BlobError as error:
            digest = request.match_info["digest"]
            _log.warning("a blob broke off on its way to the engine", digest=digest, reason=str(error))
            if request.transport is not None:
                request.transport.abort()


async def _reading(blob: Stored | Growing, start: int, end: int) -> AsyncGenerator[bytes, None]:
    counted = blob.read_by(ENGINE) if isinstance(blob, Growing) else contextlib.nullcontext()
    with counted:
        async with contextlib.aclosing(blob.read(start, end)) as chunks:
            async for chunk in chunks:
                yield chunk


def _refusal(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"errors": [{"code": code, "message": text}]}, status=status)
