"""The images of the scripted engine: what its registry has, what its machine has, and who uses it."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from fallow.drivers.engine.archives import ArchiveError, unpacked
from fallow.drivers.engine.contract import (
    Credentials,
    EngineError,
    EngineInfo,
    Image,
    Progress,
    PullProgress,
    StoredImage,
)
from fallow.model.images import Blob, PlatformImage
from fallow.model.references import parse_reference, qualified


@dataclass(frozen=True, kw_only=True)
class RegistryImage:
    """An image that can be pulled, by those who know `password` when there is one."""

    image: Image
    platform: PlatformImage
    password: str = ""
    layers: tuple[str, ...] = ()


class ImageShelf:
    """The images of a fake machine and of the registry it sees. Names are in full."""

    info: EngineInfo

    def __init__(self) -> None:
        self.registry: dict[str, RegistryImage] = {}  # by name, with a tag and with a digest
        self.images: dict[str, Image] = {}  # by name
        self.held: dict[str, asyncio.Event] = {}  # pulls of a name that say half and wait for this, or for good
        self.loaded_bytes = 0
        self._nameless: dict[str, Image] = {}  # by id
        self._layers: dict[str, tuple[str, ...]] = {}
        self._watching: list[asyncio.Queue[str | None]] = []

    def publish(
        self, reference: str, *, architecture: str = "", password: str = "", version: str = "", layers: int = 1
    ) -> PlatformImage:
        """Put an image into the registry; another `version` of the same name is another image."""
        name = qualified(reference)
        image_id, manifest = digest_of(f"{name} {version}"), digest_of(f"{name} {version} manifest")
        made_for = architecture or self.info.architecture
        image = Image(id=image_id, references=(name,), architecture=made_for, size_bytes=1_000_000)
        blobs = tuple(Blob(digest=digest_of(f"{image_id} {n}"), size_bytes=500_000 // layers) for n in range(layers))
        platform = PlatformImage(
            platform=f"linux/{made_for}",
            manifest=Blob(digest=manifest, size_bytes=500),
            image_id=image_id,
            layers=blobs,
        )
        diffs = tuple(digest_of(f"{blob.digest} unpacked") for blob in blobs)
        entry = RegistryImage(image=image, platform=platform, password=password, layers=diffs)
        self.registry[name] = self.registry[f"{parse_reference(name).name}@{manifest}"] = entry
        return platform

    def keep(self, name: str, entry: RegistryImage) -> None:
        """Put a pulled image under a name; what had the name before is left without, unless it has another."""
        self._layers[entry.image.id] = entry.layers
        self.name(entry.image, name)

    def name(self, image: Image, name: str) -> None:
        """Let a name stand for an image."""
        before = self.images.get(name)
        self.images[name] = image
        self._nameless.pop(image.id, None)
        if before is not None and before.id not in {each.id for each in self.images.values()}:
            self._nameless[before.id] = replace(before, references=())
        self.tell("tag")

    def known(self, name: str) -> Image | None:
        """Return an image by a name in full or by its id."""
        by_id = {**{each.id: each for each in self.images.values()}, **self._nameless}
        return self.images.get(name) or by_id.get(name)

    def forget(self, name: str) -> None:
        """Take a name, or a nameless image's id, away."""
        self.images.pop(name, None)
        self._nameless.pop(name, None)
        self.tell("delete")

    def stored(self, used: Iterable[str]) -> list[StoredImage]:
        """Return all images; `used` has the image id of every container."""
        users = list(used)
        whole = {**{each.id: each for each in self.images.values()}, **self._nameless}
        return [self._stored(whole[id_], users.count(id_)) for id_ in sorted(whole)]

    def _stored(self, image: Image, containers: int) -> StoredImage:
        names = sorted(name for name, each in self.images.items() if each.id == image.id)
        layers = self._layers.get(image.id, ())
        return StoredImage(
            id=image.id,
            references=tuple(name for name in names if "@" not in name),
            digests=tuple(name for name in names if "@" in name),
            architecture=image.architecture,
            size_bytes=image.size_bytes,
            layers=layers,
            layer_bytes=tuple(image.size_bytes // len(layers) for _ in layers),
            containers=containers,
        )

    def watch(self) -> asyncio.Queue[str | None]:
        """Return a queue of what happens to images from now on; None says that the stream broke."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._watching.append(queue)
        return queue

    def unwatch(self, queue: asyncio.Queue[str | None]) -> None:
        """End what `watch` began."""
        self._watching.remove(queue)

    def tell(self, word: str | None) -> None:
        """Say to those who watch what happened; None breaks their streams."""
        for queue in self._watching:
            queue.put_nowait(word)


class ImageHost(Protocol):
    """What the fake's images need of its machine."""

    @property
    def shelf(self) -> ImageShelf:
        """Return its images."""

    async def enter(self, method: str, subject: str = "") -> None:
        """Begin a call."""

    def used_images(self) -> list[str]:
        """Return the image id of every container."""


class FakeImages:
    """The half of the fake driver that is about images; see the contract."""

    def __init__(self, host: ImageHost) -> None:
        self._host = host
        self._shelf = host.shelf

    async def image(self, reference: str) -> Image | None:
        """Return the image if the machine has it."""
        await self._host.enter("image", reference)
        return self._shelf.known(_name(reference))

    async def pull(
        self,
        reference: str,
        credentials: Credentials | None = None,
        on_progress: Progress | None = None,
        insecure: bool = False,
    ) -> Image:
        """Take an image from the registry."""
        await self._host.enter("pull", reference)
        shelf, name = self._shelf, qualified(reference)
        entry = shelf.registry.get(name)
        if entry is None:
            raise EngineError("not-found", f"manifest unknown: {reference}")
        if entry.password and (credentials is None or credentials.password != entry.password):
            raise EngineError("denied", "unauthorized: authentication required")
        size, tell = entry.platform.size_bytes, on_progress or _nothing
        if name in shelf.held:
            tell(PullProgress(current_bytes=size // 2, total_bytes=size, text="Downloading"))
            await shelf.held[name].wait()
        tell(PullProgress(current_bytes=size, total_bytes=size, text="Download complete"))
        shelf.keep(name, entry)
        if entry.image.architecture != shelf.info.architecture:
            raise EngineError("wrong-platform", f"{reference} is made for {entry.image.architecture}")
        return entry.image

    async def images(self) -> list[StoredImage]:
        """Return every image of the machine."""
        await self._host.enter("images")
        return self._shelf.stored(self._host.used_images())

    async def tag(self, image_id: str, reference: str) -> None:
        """Let a name stand for an image."""
        await self._host.enter("tag", reference)
        image = self._shelf.known(_name(image_id))
        if image is None:
            raise EngineError("not-found", f"no such image: {image_id}")
        self._shelf.name(image, _named(reference))

    async def delete_image(self, name: str) -> None:
        """Take one name from its image, and delete the image with its last name."""
        await self._host.enter("delete_image", name)
        image = self._shelf.known(_named(name))
        if image is None:
            return
        names = [other for other, each in self._shelf.images.items() if each.id == image.id]
        if name == image.id and names:
            raise EngineError("bad-request", f"{name} has names: {', '.join(names)}; delete those")
        if len(names) <= 1 and image.id in self._host.used_images():
            raise EngineError("in-use", f"a container is using {name}")
        self._shelf.forget(name)

    async def load(self, archive: AsyncIterator[bytes]) -> tuple[str, ...]:
        """Load what `fake_archive` made."""
        await self._host.enter("load")
        data = b""
        try:
            async for piece in unpacked(archive):
                data += piece
            names = json.loads(data)["names"]
        except (ArchiveError, ValueError, KeyError, TypeError) as error:
            raise EngineError("bad-request", f"the archive cannot be read: {error}") from None
        for name in names:
            self._shelf.publish(name)
            self._shelf.keep(name, self._shelf.registry.pop(name))
        return tuple(names)

    def image_events(self) -> AsyncIterator[str]:
        """Yield what happens to images from now on."""
        return self._image_events(self._shelf.watch())

    async def _image_events(self, queue: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        try:
            while (word := await queue.get()) is not None:
                yield word
        finally:
            self._shelf.unwatch(queue)
        raise EngineError("unreachable", "the engine closed the stream of events")

    async def disk(self) -> tuple[int, int]:
        """Return size and free space in bytes."""
        await self._host.enter("disk")
        return self._shelf.info.disk_bytes, self._shelf.info.disk_free_bytes


def digest_of(text: str) -> str:
    """Return a digest of the right form that is always the same for a text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def fake_archive(*names: str) -> bytes:
    """Return what the fake engine takes for a tar file with images of these names."""
    return gzip.compress(json.dumps({"names": [qualified(name) for name in names]}).encode(), mtime=0)


def _name(reference: str) -> str:
    return reference if reference.startswith("sha256:") else qualified(reference)


def _named(reference: str) -> str:
    if _name(reference) != reference:
        raise EngineError("bad-request", f"{reference!r} is no name in full")
    return reference


def _nothing(_progress: PullProgress) -> None:
    return
