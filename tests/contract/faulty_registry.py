"""A registry for pulls that goes wrong as it is told: slow, silent, cut off, lying, overloaded. And it counts."""

import asyncio
import gzip
import json
import os
from collections import Counter
from contextlib import suppress

from aiohttp import web

from fallow.model.images import Blob, PlatformImage
from testbed.blobs import digest_of, tar_of
from testbed.images import ARCHITECTURE

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CHUNK = 64 * 1024


def random_layer(size_bytes: int) -> tuple[bytes, str]:
    """Return a layer that cannot be compressed, and its diff id."""
    content = tar_of({"noise": os.urandom(size_bytes)})
    return gzip.compress(content, compresslevel=0, mtime=0), digest_of(content)


class FaultyRegistry:
    """Use it as an async context manager; the faults are attributes that may be set at any time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.manifests: dict[str, bytes] = {}  # by `repository:tag` and digest
        self.blobs: dict[str, bytes] = {}
        self.status = 0  # answer everything with this
        self.headers: dict[str, str] = {}
        self.bytes_a_second = 0  # of blobs, for each connection; 0: as fast as can be
        self.stall_after = -1  # bytes of a blob after which nothing more comes
        self.cut_after = -1  # bytes of a blob after which the connection ends
        self.lie = False  # other bytes than the digest says
        self.sent: Counter[str] = Counter()  # bytes by blob
        self.asked: Counter[str] = Counter()  # manifests
        self.sending = 0  # blobs under way
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "FaultyRegistry":
        app = web.Application()
        app.router.add_get("/v2/", self._root)
        app.router.add_get("/v2/{name:.+}/manifests/{reference}", self._manifest)
        app.router.add_get("/v2/{name:.+}/blobs/{digest}", self._blob)
        app.router.add_get("/v2/{name:.+}/tags/list", self._tags)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        host, _, port = self.address.partition(":")
        await web.TCPSite(self._runner, host, int(port), reuse_address=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def add(self, name: str, *layers: tuple[bytes, str], architecture: str = ARCHITECTURE) -> PlatformImage:
        """Put an image of these layers under `repository:tag`."""
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": {"Cmd": ["/noise"], "Labels": {"name": name}},
                "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
                "history": [{"created": "1970-01-01T00:00:00Z"} for _ in layers],
            }
        ).encode()
        parts = [(config, _CONFIG), *((blob, _LAYER) for blob, _ in layers)]
        described = [{"mediaType": kind, "size": len(blob), "digest": digest_of(blob)} for blob, kind in parts]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described[0], "layers": described[1:]}
        ).encode()
        self.blobs |= {digest_of(blob): blob for blob, _ in parts}
        self.manifests[name] = self.manifests[digest_of(manifest)] = manifest
        return PlatformImage(
            platform=f"linux/{architecture}",
            manifest=Blob(digest=digest_of(manifest), size_bytes=len(manifest), media_type=_MANIFEST),
            image_id=digest_of(config),
            layers=tuple(Blob(digest=digest_of(blob), size_bytes=len(blob)) for blob, _ in layers),
        )

    def reference(self, name: str) -> str:
        return f"{self.address}/{name}"

    async def _root(self, _request: web.Request) -> web.StreamResponse:
        return self._fault() or web.json_response({})

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        tags = [each.partition(":")[2] for each in self.manifests if each.startswith(f"{name}:")]
        return self._fault() or web.json_response({"name": name, "tags": tags})

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        name, reference = request.match_info["name"], request.match_info["reference"]
        self.asked[reference] += 1
        if (fault := self._fault()) is not None:
            return fault
        found = self.manifests.get(reference) or self.manifests.get(f"{name}:{reference}")
        if found is None:
            return web.json_response(
                {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}, status=404
            )
        body = found + b" " if self.lie else found
        headers = {"Docker-Content-Digest": digest_of(found), "Content-Type": _MANIFEST}
        return web.Response(body=body, headers=headers)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["digest"]
        if (fault := self._fault()) is not None:
            return fault
        blob = self.blobs[name]
        answer = web.StreamResponse(headers={"Content-Length": str(len(blob)), "Docker-Content-Digest": name})
        await answer.prepare(request)
        self.sending += 1
        try:
            await self._send(request, answer, name, blob)
        except (ConnectionError, asyncio.CancelledError):
            with suppress(ConnectionError):
                return answer
        finally:
            self.sending -= 1
        return answer

    async def _send(self, request: web.Request, answer: web.StreamResponse, name: str, blob: bytes) -> None:
        large = len(blob) > 8 * _CHUNK
        for start in range(0, len(blob), _CHUNK):
            if large and self.cut_after >= 0 and start >= self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return
            while large and self.stall_after >= 0 and start >= self.stall_after:
                if request.transport is None or request.transport.is_closing():
                    raise ConnectionResetError
                await asyncio.sleep(0.05)
            piece = blob[start : start + _CHUNK]
            await answer.write(bytes(len(piece)) if self.lie else piece)
            self.sent[name] += len(piece)
            if self.bytes_a_second:
                await asyncio.sleep(len(piece) / self.bytes_a_second)

    def _fault(self) -> web.Response | None:
        if not self.status:
            return None
        codes = {429: "TOOMANYREQUESTS", 401: "UNAUTHORIZED", 403: "DENIED"}
        body = {"errors": [{"code": codes.get(self.status, "UNKNOWN"), "message": "as it was told"}]}
        return web.json_response(body, status=self.status, headers=self.headers)
