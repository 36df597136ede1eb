"""What a node does with blobs, put together: see the package."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from fallow.agent.blobs.endpoint import Endpoint
from fallow.agent.blobs.fetches import Fetches
from fallow.agent.blobs.granted import Granted, GrantedImage
from fallow.agent.identity import IdentityError, IdentityStore
from fallow.client.tasks import first_to_end
from fallow.drivers.blobs import BlobCache, BlobError, Growing, Stored, Way
from fallow.drivers.blobs.cache import MAX_AGE_SECONDS, MAX_BYTES
from fallow.drivers.blobs.peers import PeerServer, PeerWay, Throttle
from fallow.drivers.folders import FolderError
from fallow.model.frames import Frame
from fallow.model.image_frames import BlobsChanged
from fallow.model.images import BlobSource, PlatformImage, PullGrant
from fallow.model.pools import NetworkMode
from fallow.model.wire import IMAGES_PROTOCOL

_log = structlog.get_logger("fallow.agent.blobs")

TELL_SECONDS = 0.2  # changes of so long are told together
CLEAN_SECONDS = 60.0
RETRY_SECONDS = 5.0
MANIFEST_SECONDS = 30.0
EARLY_SECONDS = 3.0  # so long another node waits for our grant, which was on its way before its own
UNPACKED = 3  # a layer is about so much larger in the engine's store than in ours
MAX_TOLD = 10_000

Send = Callable[[Frame], Awaitable[None]]


class Origins(Protocol):
    """Registries, from which a blob can be had in the end."""

    def ways(self, grant: PullGrant, image: PlatformImage) -> list[Way]:
        """Return the cluster's mirror, if the grant names one, and the image's registry."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much a node keeps and gives; `address` is where it serves, empty: where its lease says."""

    max_bytes: int = MAX_BYTES
    max_age_seconds: float = MAX_AGE_SECONDS
    bytes_per_second: float = 0.0  # to other nodes; 0: no bound
    address: str = ""


class Blobs:
    """A node's blobs. While `run` runs it is the `Fetcher` of the node's pulls.

    Nothing here can make a pull fail that the registry could have served: `source` returns None when anything is wrong.
    """

    def __init__(
        self,
        folder: Path,
        identity: IdentityStore,
        origins: Origins,
        settings: Settings = Settings(),
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._origins = origins
        self._settings = settings
        self._granted = Granted(steady)
        self._steady = steady
        self._cache: BlobCache | None = None
        self._fetches: Fetches | None = None
        self._server: PeerServer | None = None
        self._endpoint = Endpoint(self._for_engine)
        self._certificate = ""
        self._dialling: ssl.SSLContext | None = None
        self._port = 0
        self._changed: set[str] = set()
        self._news = asyncio.Event()
        self._more = asyncio.Event()  # granted; another one each time
        self._full = True
        self._listening = False  # the control plane understands what we would tell

    @property
    def fetched_bytes(self) -> dict[str, int]:
        """Return how many bytes came from each member, mirror and registry."""
        return dict(self._fetches.fetched_bytes) if self._fetches is not None else {}

    # what a node calls

    async def run(self, send: Send) -> None:
        """Serve the engine and other nodes, and tell the control plane what there is, until cancelled."""
        while True:
            try:
                await self._start()
                break
            except (OSError, FolderError, IdentityError) as error:
                _log.error("blobs are not kept here; images are pulled from their registries", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
        try:
            await first_to_end(self._serve_peers(), self._tell(send), self._clean())
        finally:
            await self._stop()

    async def source(self, grant: PullGrant, image: PlatformImage) -> str | None:
        """Return the name under which the engine can pull an image here; None: from its registry."""
        cache, fetches = self._cache, self._fetches
        if cache is None or fetches is None:
            return None
        fetches.forget(_digests(image))
        missing = sum(layer.size_bytes for layer in image.layers if not cache.has(layer.digest))
        try:
            if missing and not cache.has_room(missing * (1 + UNPACKED)):
                raise BlobError("no-space", f"{missing} bytes beside the image itself would not fit on the disk")
            granted = self._grant(grant, image)
            async with asyncio.timeout(MANIFEST_SECONDS):
                await self._learn(fetches, granted)
        except (BlobError, IdentityError, OSError, TimeoutError, ValueError) as error:
            _log.info("the engine pulls from the registry itself", image=grant.reference, reason=str(error))
            return None
        return self._endpoint.name(granted.name, image.manifest.digest) or None

    def fault(self, image: PlatformImage) -> BlobError | None:
        """Return why its registry did not give an image since `source` was called last, where that was it."""
        return self._fetches.fault(_digests(image)) if self._fetches is not None else None

    def granted(self, grant: PullGrant) -> None:
        """Note what the control plane answered to a question about a pull, which may come much later.

        Other nodes may have been told already to fetch the image here.
        """
        if grant.image is not None and not grant.kind and self._cache is not None:
            try:
                self._grant(grant, grant.image)
            except (IdentityError, OSError, ValueError) as error:
                _log.info("an image is not passed on", image=grant.reference, reason=str(error))

    def fetched(self, image: PlatformImage) -> int:
        """Return how many bytes of an image's layers have come, whoever they were for."""
        return sum(self._come(layer.digest, layer.size_bytes) for layer in image.layers)

    def _come(self, digest: str, size_bytes: int) -> int:
        if self._cache is None:
            return 0
        growing = self._cache.growing(digest)
        return growing.written if growing is not None else size_bytes * self._cache.has(digest)

    def opened(self, protocol: int) -> None:
        """Note that a session is open, and what it speaks: what was told before counts no more."""
        self._full = True
        self._listening = protocol >= IMAGES_PROTOCOL
        self._news.set()

    # inside

    async def _start(self) -> None:
        settings = self._settings
        cache = await asyncio.to_thread(
            lambda: BlobCache(self._folder, max_bytes=settings.max_bytes, max_age_seconds=settings.max_age_seconds)
        )
        cache.on_change = self._on_change
        own_id = self._identity.identity.member_id
        self._fetches = Fetches(cache, own_id, steady=self._steady)
        self._server = PeerServer(own_id, self._for_peer, throttle=Throttle(settings.bytes_per_second))
        self._refresh()
        await self._endpoint.start()
        self._cache = cache

    async def _stop(self) -> None:
        self._cache = None
        await self._endpoint.stop()
        if self._server is not None:
            await self._server.stop()
        if self._fetches is not None:
            await self._fetches.stop()

    def _grant(self, grant: PullGrant, image: PlatformImage) -> GrantedImage:
        """Remember a grant. Raises IdentityError, OSError and ValueError."""
        self._refresh()
        granted = self._granted.add(grant, image)
        self._more.set()
        self._more = asyncio.Event()
        return granted

    async def _learn(self, fetches: Fetches, granted: GrantedImage) -> None:
        """Have an image's manifest, and know the sizes of its blobs from there. Raises BlobError and ValueError."""
        wanted = granted.image.manifest
        manifest = await fetches.whole(wanted.digest, wanted.size_bytes, lambda: self._ways(granted))
        granted.learn(b"".join([chunk async for chunk in manifest.read()]))

    def _refresh(self) -> None:
        """Dial with our newest certificate. Raises IdentityError and OSError."""
        certificate = self._identity.identity.certificate_pem
        if certificate != self._certificate:
            self._dialling = self._identity.tls_for_peers()
            self._certificate = certificate

    async def _serve_peers(self) -> None:
        """Listen for other nodes; anew whenever our certificate is another."""
        served = ("", "")
        while self._server is not None:
            wanted = (self._identity.identity.certificate_pem, self._address())
            if wanted != served:
                try:
                    await self._listen(self._server, wanted[1])
                    served = wanted
                except (OSError, IdentityError) as error:  # a lease's address may come later
                    _log.warning("blobs are not served to other nodes", reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    def _address(self) -> str:
        """Return where to serve: in an overlay at the lease's address alone."""
        lease = self._identity.identity.lease
        everywhere = "::" if ":" in lease.address else "0.0.0.0"  # noqa: S104 - who is let in, its certificate says
        return self._settings.address or (lease.address if lease.mode is NetworkMode.WIREGUARD else everywhere)

    async def _listen(self, server: PeerServer, address: str) -> None:
        """Listen at the port we have told, or the lease's, or any. Raises OSError and IdentityError."""
        context = self._identity.tls_to_serve()
        await server.stop()
        for port in (self._port, self._identity.identity.lease.agent_port):
            if port:
                with contextlib.suppress(OSError):
                    self._port = await server.start(address, port, context)
                    break
        else:
            self._port = await server.start(address, 0, context)
        self._full = True
        self._news.set()

    async def _clean(self) -> None:
        while self._cache is not None:
            await asyncio.to_thread(self._cache.clean)
            await asyncio.sleep(CLEAN_SECONDS)

    async def _for_engine(self, name: str, digest: str) -> Stored | Growing | None:
        granted = self._granted.named(name, digest)
        return await self._obtain(granted, digest) if granted is not None else None

    async def _for_peer(self, digest: str) -> Stored | Growing | None:
        """Return what we have, or fetch: another may need what our engine has not asked for yet, or never will.

        It may even have been told of us before we were told of the image.
        """
        until = self._steady() + EARLY_SECONDS
        try:
            while (found := await self._here(digest)) is None:
                async with asyncio.timeout(until - self._steady()):
                    await self._more.wait()
        except (BlobError, OSError, ValueError) as error:
            _log.info("a blob was not there for another node", digest=digest, reason=str(error) or "not granted")
            return None
        return found

    async def _here(self, digest: str) -> Stored | Growing | None:
        cache, granted = self._cache, self._granted.with_blob(digest)
        if granted is not None:
            return await self._obtain(granted, digest)
        return (await cache.stored(digest) or cache.growing(digest)) if cache is not None else None

    async def _obtain(self, granted: GrantedImage, digest: str) -> Stored | Growing | None:
        fetches = self._fetches
        if fetches is None:
            return None
        if digest not in granted.sizes:
            await self._learn(fetches, granted)
        return await fetches.obtain(digest, granted.sizes[digest], lambda: self._ways(granted))

    def _ways(self, granted: GrantedImage) -> list[Way]:
        """Return where an image's blobs may be had, the best first: members, then the mirror, then the registry."""
        members: list[Way] = [self._way_to(each) for each in granted.grant.sources]
        return members + self._origins.ways(granted.grant, granted.image)

    def _way_to(self, source: BlobSource) -> Way:
        if not source.member_id:  # the control plane itself
            host, _ = self._identity.session_address()
            return PeerWay(id="", host=source.address or host, port=source.port, context=self._identity.tls())
        if self._dialling is None:
            raise AssertionError
        return PeerWay(id=source.member_id, host=source.address, port=source.port, context=self._dialling)

    # what is told

    def _on_change(self, digest: str, _state: str) -> None:
        self._changed.add(digest)
        self._news.set()

    async def _tell(self, send: Send) -> None:
        while True:
            await self._news.wait()
            if not self._full:
                await asyncio.sleep(TELL_SECONDS)
            self._news.clear()
            if not self._listening or self._cache is None:
                continue
            frame = self._frame(self._cache)
            try:
                await send(frame)
            except OSError as error:
                _log.debug("blobs not told; the next session hears it", reason=str(error))
                self._full = True

    def _frame(self, cache: BlobCache) -> BlobsChanged:
        """Return what has changed since it was told last."""
        changed, self._changed = self._changed, set()
        whole, fetching = cache.whole, cache.fetching
        if self._full:
            self._full = False
            return BlobsChanged(full=True, whole=whole[-MAX_TOLD:], fetching=fetching[-MAX_TOLD:], port=self._port)
        known = {*whole, *fetching}
        return BlobsChanged(
            whole=tuple(each for each in whole if each in changed)[-MAX_TOLD:],
            fetching=tuple(each for each in fetching if each in changed)[-MAX_TOLD:],
            gone=tuple(changed - known)[:MAX_TOLD],
            port=self._port,
        )


def _digests(image: PlatformImage) -> list[str]:
    return [image.manifest.digest, image.image_id, *(layer.digest for layer in image.layers)]
