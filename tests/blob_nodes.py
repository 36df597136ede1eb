"""Nodes that keep blobs, for tests: real disks, real TLS between them, and an origin that does what a test wants."""

import asyncio
import contextlib
import json
import random
import time
from dataclasses import dataclass, field

import aiohttp

from fallow.agent.blobs import Blobs, Settings
from fallow.agent.identity import IdentityStore
from fallow.drivers.authority import Authority
from fallow.drivers.blobs import BlobError, Opened
from fallow.model.images import Blob, BlobSource, PlatformImage, PullGrant
from fallow.model.members import Identity, Lease, Role
from fallow.model.wire import IMAGES_PROTOCOL
from testbed.blobs import digest_of

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class MadeImage:
    """An image of noise: `blobs` by digest, its manifest among them."""

    image: PlatformImage
    blobs: dict[str, bytes]
    reference: str = "registry.test:5000/shop/api:1"

    @property
    def size(self) -> int:
        return sum(map(len, self.blobs.values()))


def made_image(*sizes: int, seed: int = 1) -> MadeImage:
    """Return an image with layers of these sizes, in bytes."""
    layers = [random.Random(f"{seed} {n}").randbytes(size) for n, size in enumerate(sizes)]
    config = json.dumps({"architecture": "amd64", "os": "linux", "seed": seed}).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"digest": digest_of(config), "size": len(config), "mediaType": "application/json"},
            "layers": [{"digest": digest_of(each), "size": len(each), "mediaType": "x"} for each in layers],
        }
    ).encode()
    image = PlatformImage(
        platform="linux/amd64",
        manifest=Blob(digest=digest_of(manifest), size_bytes=len(manifest), media_type=MANIFEST),
        image_id=digest_of(config),
        layers=tuple(Blob(digest=digest_of(each), size_bytes=len(each)) for each in layers),
    )
    return MadeImage(image, {digest_of(each): each for each in (manifest, config, *layers)})


@dataclass
class Origin:
    """A registry without HTTP. `asked` are the digests it was asked for, `sent` the bytes it gave."""

    blobs: dict[str, bytes]
    id: str = "registry test"
    is_last: bool = True
    silence_seconds: float = 1.0
    chunk: int = 16 * 1024
    dead: bool = False
    refusal: BlobError | None = None
    lies: bool = False
    stop_after: int | None = None  # bytes; then it says nothing more, or breaks off
    breaks: bool = False
    bytes_per_second: float = 0.0
    asked: list[str] = field(default_factory=list)
    sent: int = 0

    def ways(self, _grant, _image):
        return [self]

    @contextlib.asynccontextmanager
    async def open(self, digest, _size_bytes, offset):
        self.asked.append(digest)
        if self.refusal is not None:
            raise self.refusal
        if self.dead or digest not in self.blobs:
            raise BlobError("unreachable", "the registry is dead")
        yield Opened(offset=offset, chunks=self._chunks(self.blobs[digest], offset))

    async def _chunks(self, body, offset):
        for start in range(offset, len(body), self.chunk):
            if self.stop_after is not None and self.sent >= self.stop_after:
                if self.breaks:
                    raise BlobError("stalled", "cut off")
                await asyncio.Event().wait()
            chunk = body[start : start + self.chunk]
            if self.lies:
                chunk = bytes(len(chunk))
            self.sent += len(chunk)
            yield chunk
            await asyncio.sleep(len(chunk) / self.bytes_per_second if self.bytes_per_second else 0)


class Neighbourhood:
    """A cluster's CA, and nodes that have joined."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.authority = Authority.create_or_load(folder / "ca")
        self._nodes = contextlib.AsyncExitStack()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self._nodes.aclose()

    def identity(self, member_id: str, role: Role = Role.NODE) -> IdentityStore:
        store = IdentityStore(self.folder / member_id)
        if not store.exists:
            issued = self.authority.issue_member(store.csr_pem(), role, member_id, time.time(), 3600)
            store.save(
                "https://127.0.0.1:1",
                Identity(
                    member_id=member_id,
                    name=member_id,
                    role=role,
                    certificate_pem=issued.certificate_pem,
                    ca_pem=self.authority.ca_pem,
                    session_host="127.0.0.1",
                    session_port=1,
                    lease=Lease(address="127.0.0.1"),
                ),
            )
        return store

    async def node(self, member_id: str, origin, **settings) -> "Node":
        node = Node(self, member_id, origin, Settings(address="127.0.0.1", **settings))
        await node.start()
        self._nodes.push_async_callback(node.stop)
        return node


class Node:
    """One node's blobs, with what it told, and an engine that only pulls bytes."""

    def __init__(self, neighbourhood: Neighbourhood, member_id: str, origin, settings: Settings) -> None:
        self.id = member_id
        self.told = []
        self.folder = neighbourhood.folder / member_id / "blobs"
        self._with = neighbourhood.identity(member_id), origin, settings
        self.blobs = None
        self._task = None

    async def start(self) -> None:
        self.told.clear()
        self.blobs = Blobs(self.folder, *self._with)
        self._task = asyncio.create_task(self.blobs.run(self._send))
        self.blobs.opened(IMAGES_PROTOCOL)
        await until(lambda: any(frame.port for frame in self.told))

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _send(self, frame) -> None:
        self.told.append(frame)

    @property
    def port(self) -> int:
        return self.told[-1].port

    @property
    def source(self) -> BlobSource:
        return BlobSource(member_id=self.id, address="127.0.0.1", port=self.port)

    async def place(self, made: MadeImage, *sources: "Node", mirror: str = "") -> str | None:
        """Grant the image, and return where the engine is told to pull."""
        grant = PullGrant(
            reference=made.reference, image=made.image, mirror=mirror, sources=tuple(each.source for each in sources)
        )
        return await self.blobs.source(grant, made.image)

    async def pull(self, made: MadeImage, *sources: "Node", tries: int = 3) -> dict[str, bytes]:
        """Pull as an engine does: the manifest, then all else at once; a blob that broke off is asked for again."""
        name = await self.place(made, *sources)
        assert name, "the engine was sent to the registry"
        host, _, path = name.partition("/")
        repository, _, manifest = path.partition("@")
        async with aiohttp.ClientSession() as session:

            async def get(kind: str, digest: str) -> bytes:
                for left in reversed(range(tries)):
                    try:
                        url = f"http://{host}/v2/{repository}/{kind}/{digest}"
                        async with session.get(url, raise_for_status=True) as answer:
                            body = await answer.read()
                            assert digest_of(body) == digest
                            return body
                    except aiohttp.ClientError:
                        if not left:
                            raise
                raise AssertionError

            rest = [digest for digest in made.blobs if digest != manifest]
            bodies = await asyncio.gather(get("manifests", manifest), *(get("blobs", each) for each in rest))
        return dict(zip([manifest, *rest], bodies, strict=True))


async def until(condition, seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
