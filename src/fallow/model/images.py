"""Images: what a reference stands for, what a node has, and what a node needs to pull one."""

from typing import Annotated, Literal

import msgspec

from fallow.model.meta import Record
from fallow.model.references import DIGEST_PATTERN
from fallow.model.trust import TrustRules

BlobDigest = Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]
ReferenceText = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**60)]
EngineText = Annotated[str, msgspec.Meta(max_length=2048)]  # an engine's or a registry's own words, cut

# Why a pull or a delete failed; what the engine or the registry said is beside it.
ImageErrorKind = Literal[
    "",
    "not-found",
    "denied",  # by the registry: who we are, or nobody in particular
    "rate-limited",
    "no-space",
    "unreachable",  # the registry or the engine
    "stalled",
    "wrong-platform",
    "wrong-content",  # not what its digest says, or another image than was resolved
    "untrusted",  # by the policy of its project
    "in-use",
    "protected",
    "bad-request",
    "timeout",
    "failed",
]


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an image as registries hold it: compressed, named by what is in it."""

    digest: BlobDigest
    size_bytes: Bytes
    media_type: Annotated[str, msgspec.Meta(max_length=256)] = ""


class PlatformImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one platform. Its `image_id` is the digest of its configuration, which engines show as the id."""

    platform: Annotated[str, msgspec.Meta(max_length=64)]  # linux/amd64, linux/arm64/v8
    manifest: Blob
    image_id: BlobDigest
    layers: Annotated[tuple[Blob, ...], msgspec.Meta(max_length=512)] = ()

    @property
    def size_bytes(self) -> int:
        """Return the compressed size of its layers."""
        return sum(layer.size_bytes for layer in self.layers)


class ResolvedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference stood for when it was resolved: one digest, and an image for each platform behind it."""

    reference: ReferenceText  # in full, as it was asked for
    digest: BlobDigest  # of the index, or of the only manifest
    platforms: Annotated[tuple[PlatformImage, ...], msgspec.Meta(max_length=64)]
    resolved_at: float = 0.0

    def for_architecture(self, architecture: str) -> PlatformImage | None:
        """Return the image for Linux on an architecture as OCI names it (amd64, arm64), if there is one."""
        wanted = f"linux/{architecture}"
        exact = [each for each in self.platforms if each.platform == wanted]
        return next(iter(exact or [each for each in self.platforms if each.platform.startswith(f"{wanted}/")]), None)


# what a node has


class NodeImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image in a node's engine, as the agent last saw it; times are the agent's, 0 when it is not known."""

    id: Annotated[str, msgspec.Meta(max_length=80)]  # sha256:...
    references: Annotated[tuple[ReferenceText, ...], msgspec.Meta(max_length=256)] = ()  # in full; empty: dangling
    digests: Annotated[tuple[ReferenceText, ...], msgspec.Meta(max_length=256)] = ()  # name@sha256:...
    architecture: Annotated[str, msgspec.Meta(max_length=64)] = ""
    size_bytes: Bytes = 0  # unpacked, shared layers included
    layers: Annotated[tuple[str, ...], msgspec.Meta(max_length=512)] = ()  # diff ids: what is shared has the same
    containers: Annotated[int, msgspec.Meta(ge=0)] = 0  # of anybody, running or not
    loaded: bool = False  # from a file: no registry can give it back
    pulled_at: float = 0.0  # by us
    last_needed_at: float = 0.0  # last seen with a container, or asked for


class NodeImages(Record, frozen=True, kw_only=True):
    """All images of one node; its id is the node's. Stored when something in it has changed."""

    images: Annotated[tuple[NodeImage, ...], msgspec.Meta(max_length=2000)] = ()
    omitted: int = 0  # images beyond what is told
    disk_bytes: Bytes = 0  # of the engine's folder
    disk_free_bytes: Bytes = 0
    warning: Annotated[str, msgspec.Meta(max_length=1024)] = ""  # what it had to do by itself, when last told
    seen_at: float = 0.0


# what a node needs to pull


class RegistryLogin(msgspec.Struct, frozen=True, kw_only=True):
    """For one registry, given with one pull; never written to a disk."""

    username: str
    password: str

    def __repr__(self) -> str:
        """Keep the password out of logs and tracebacks."""
        return f"RegistryLogin({self.username})"


class BlobSource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node may fetch blobs of an image: another node of the cluster, or its mirror."""

    member_id: str  # whose certificate it shows
    address: str
    port: int


class PullGrant(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a node needs for one pull: what exactly, from whom, and with which login.

    With `kind` it is refused, and `text` says why. Without `image` nothing is known of the reference (its registry
    cannot be reached from the control plane, and no policy forbids it): the node pulls it as it is.
    """

    reference: ReferenceText
    image: PlatformImage | None = None
    digest: Annotated[str, msgspec.Meta(max_length=80)] = ""  # of the index
    login: RegistryLogin | None = None
    insecure: bool = False  # the registry speaks plain HTTP
    ca_pem: str = ""  # certificates that its registry is trusted by, beside the system's
    proxy: str = ""  # URL of an HTTP proxy that leads to its registry
    mirror: str = ""  # host:port of the cluster's own mirror; empty: there is none
    sources: tuple[BlobSource, ...] = ()  # nodes that have it or are fetching it, in the order to be tried
    trust: TrustRules | None = None  # of its project, for the node to check again
    kind: ImageErrorKind = ""
    text: EngineText = ""
    retry_after_seconds: float = 0.0  # the registry asked for it
