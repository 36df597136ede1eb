"""Which images this node may pull and hand on, and what belongs to each."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from fallow.model.images import PlatformImage, PullGrant
from fallow.model.references import parse_reference

KEEP_SECONDS = 900.0  # a login is among what is kept
MAX_IMAGES = 1000
MAX_NAME = 200  # engines take 255, with the place and the digest
_SAFE = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*\Z")


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str
    size: int


class _Manifest(msgspec.Struct, frozen=True):
    config: _Descriptor
    layers: tuple[_Descriptor, ...] = ()


@dataclass(kw_only=True, slots=True)
class GrantedImage:
    """One image under one name, as it was granted last. `sizes` are those of its blobs, in bytes, by digest."""

    name: str
    grant: PullGrant
    image: PlatformImage
    granted_at: float
    sizes: dict[str, int] = field(default_factory=dict)

    def has(self, digest: str) -> bool:
        """Say whether a blob belongs to it; of its configuration the grant says the digest and not the size."""
        return digest in self.sizes or digest == self.image.image_id

    def learn(self, manifest: bytes) -> None:
        """Take in what its manifest says of its blobs. Raises msgspec.DecodeError and UnicodeDecodeError."""
        read = msgspec.json.decode(manifest, type=_Manifest)
        for each in (read.config, *read.layers):
            if each.size >= 0:
                self.sizes[each.digest] = each.size


class Granted:
    """The images granted of late, by name and by blob. `steady` gives seconds that nobody sets."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._images: dict[tuple[str, str], GrantedImage] = {}  # by name and the digest of the manifest

    def add(self, grant: PullGrant, image: PlatformImage) -> GrantedImage:
        """Remember a grant; a newer one of the same image takes the place of the older. Raises ValueError."""
        name = name_of(grant.reference)
        key = (name, image.manifest.digest)
        before = self._images.pop(key, None)
        sizes = {layer.digest: layer.size_bytes for layer in (image.manifest, *image.layers)}
        found = GrantedImage(
            name=name,
            grant=grant,
            image=image,
            granted_at=self._steady(),
            sizes={**(before.sizes if before is not None else {}), **sizes},
        )
        self._images[key] = found
        while len(self._images) > MAX_IMAGES:
            del self._images[next(iter(self._images))]
        return found

    def named(self, name: str, digest: str) -> GrantedImage | None:
        """Return the image of that name to which the blob or the manifest belongs."""
        self._expire()
        found = [each for (known, _), each in self._images.items() if known == name and each.has(digest)]
        return found[-1] if found else None

    def with_blob(self, digest: str) -> GrantedImage | None:
        """Return the image, granted last, that a blob belongs to."""
        self._expire()
        found = [each for each in self._images.values() if each.has(digest)]
        return found[-1] if found else None

    def _expire(self) -> None:
        oldest = self._steady() - KEEP_SECONDS
        for key, each in list(self._images.items()):
            if each.granted_at >= oldest:
                return
            del self._images[key]


def name_of(reference: str) -> str:
    """Return the repository under which an image is offered on this machine. Raises ValueError.

    It is the image's own name where that is a repository's name: a registry's port or an IPv6 address is not.
    """
    parsed = parse_reference(reference)
    registry = parsed.registry.lower().replace(":", "_")
    if not _SAFE.match(registry):
        registry = "registry-" + hashlib.sha256(parsed.registry.encode()).hexdigest()[:12]
    name = f"{registry}/{parsed.repository}"
    return name if len(name) <= MAX_NAME else "image-" + hashlib.sha256(name.encode()).hexdigest()[:40]
