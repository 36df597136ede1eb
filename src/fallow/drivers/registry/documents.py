"""Manifests, indexes and configurations read: OCI image specification 1.1, and Docker's version 2 schema 2 alike."""

import hashlib
from collections.abc import Collection
from typing import Annotated, TypeVar

import msgspec

from fallow.drivers.registry.contract import Manifest, RegistryError
from fallow.model.images import Blob, BlobDigest, Bytes, PlatformImage

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPTED = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})

MAX_PLATFORMS = 64

T = TypeVar("T")


class _Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A blob as manifests name it."""

    digest: BlobDigest
    size: Bytes
    media_type: Annotated[str, msgspec.Meta(max_length=256)] = ""
    artifact_type: str = ""
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None

    @property
    def blob(self) -> Blob:
        """Return it as it is stored and told."""
        return Blob(digest=self.digest, size_bytes=self.size, media_type=self.media_type)


class ManifestBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A manifest of one platform, or of an artifact."""

    schema_version: int
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    manifests: tuple[Descriptor, ...]


class _Kind(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    manifests: msgspec.Raw = msgspec.Raw(b"")
    layers: msgspec.Raw = msgspec.Raw(b"")


class _Configuration(msgspec.Struct, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


def digest_of(body: bytes) -> str:
    """Return the digest of bytes."""
    return "sha256:" + hashlib.sha256(body).hexdigest()


def is_index(manifest: Manifest) -> bool:
    """Say whether it names manifests of platforms rather than layers. Raises RegistryError.

    The document itself decides, and must not contradict its header: one that can be read as both would be one thing
    to us and another to an engine.
    """
    kind = _read(manifest.body, _Kind, "manifest")
    lists_manifests = bool(bytes(kind.manifests))
    both = lists_manifests and bool(bytes(kind.layers))
    told = {each for each in (kind.media_type, manifest.media_type) if each in ACCEPTED}
    if both or len(told) > 1:
        raise RegistryError("wrong-content", "its manifest is two kinds of document at once")
    if kind.schema_version != 2 or not told:
        raise RegistryError("bad-request", f"its manifest is of a kind we do not know: {manifest.media_type[:80]!r}")
    if lists_manifests != (told <= INDEXES):
        raise RegistryError("wrong-content", "its manifest is not the kind of document it says it is")
    return lists_manifests


def read_manifest(body: bytes) -> ManifestBody:
    """Read the manifest of one platform, or of an artifact. Raises RegistryError."""
    return _read(body, ManifestBody, "manifest")


def linux_manifests(body: bytes, architectures: Collection[str]) -> list[Descriptor]:
    """Return what an index has for Linux on these architectures (none: all). Raises RegistryError.

    Attestations lie in it beside images, for the platform `unknown`.
    """
    found = []
    for each in _read(body, _Index, "index").manifests:
        of = each.platform
        if of is None or of.os != "linux" or (architectures and of.architecture not in architectures):
            continue
        found.append(each)
    return found[:MAX_PLATFORMS]


def referring(body: bytes, artifact_type: str) -> list[str]:
    """Return the digests of what may be of that type in a list of referrers. Raises RegistryError.

    Where clients keep the list, many leave the type out or write that of the empty configuration instead.
    """
    types = {artifact_type, OCI_EMPTY, ""}
    return [each.digest for each in _read(body, _Index, "list of referrers").manifests if each.artifact_type in types]


def platform_of(descriptor: Descriptor) -> str:
    """Return the platform of a manifest in an index: linux/arm64/v8."""
    of = descriptor.platform
    return _platform(of.os, of.architecture, of.variant) if of is not None else ""


def platform_of_configuration(body: bytes) -> str:
    """Return the platform a configuration is for. Raises RegistryError."""
    found = _read(body, _Configuration, "configuration")
    if not found.architecture:
        raise RegistryError("wrong-content", "its configuration does not say what platform it is for")
    return _platform(found.os or "linux", found.architecture, found.variant)


def platform_image(platform: str, manifest: Manifest, body: ManifestBody) -> PlatformImage:
    """Return the image that a manifest describes. Raises RegistryError for more layers than an image may have."""
    image = PlatformImage(
        platform=platform,
        manifest=Blob(digest=manifest.digest, size_bytes=len(manifest.body), media_type=manifest.media_type),
        image_id=body.config.digest,
        layers=tuple(each.blob for each in body.layers),
    )
    try:
        return msgspec.convert(msgspec.to_builtins(image), PlatformImage)
    except msgspec.ValidationError as error:
        raise RegistryError("wrong-content", f"its manifest cannot be used: {error}"[:300]) from None


def _platform(os: str, architecture: str, variant: str) -> str:
    return "/".join(part for part in (os, architecture, variant) if part)[:64]


def _read(body: bytes, shape: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RegistryError("wrong-content", f"its {what} cannot be read: {error}"[:300]) from None
