"""What a registry must do for us. Back-ends pass `tests/contract/test_registry.py`.

Formats: OCI distribution specification 1.1, OCI image specification 1.1, Docker image manifest version 2 schema 2.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from fallow.model.images import ImageErrorKind, RegistryLogin, ResolvedImage
from fallow.model.references import Reference

MAX_MANIFEST_BYTES = 4 * 1024 * 1024  # the least that registries must take, and more than images need
MAX_RETRY_AFTER_SECONDS = 86400.0


class RegistryError(Exception):
    """A registry refused, could not be reached, or sent what is not what it should be.

    `kind` sorts it, the text is for people and holds no credential; `retry_after_seconds` is what the registry asked
    for, 0 when it did not.
    """

    def __init__(self, kind: ImageErrorKind, text: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.kind: ImageErrorKind = kind
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Which registry, and how it is spoken to.

    `host` is as in references, `insecure` means plain HTTP. `ca_pem` are certificates that are trusted beside the
    system's, `proxy` is the URL of an HTTP proxy that leads there; empty: none.
    """

    host: str
    login: RegistryLogin | None = None
    insecure: bool = False
    ca_pem: str = ""
    proxy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A manifest or an index, byte for byte as it came; `digest` is of these bytes."""

    body: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedBlob:
    """A blob that is being read.

    `chunks` begin at `offset`, which is 0 when the registry does not serve parts, whatever was asked for. `size_bytes`
    is of the whole blob, 0 when the registry does not tell. Reading raises RegistryError; also at the end, when fewer
    bytes came than were announced, and, if it was read from its first byte on, when it is not what its digest says.
    Whoever reads a part has to check the whole.
    """

    offset: int
    size_bytes: int
    chunks: AsyncIterator[bytes]


class Registry(Protocol):
    """Registries of one kind. Every method raises RegistryError; whatever has a digest was checked against it."""

    async def resolve(self, access: Access, reference: Reference, architectures: Collection[str] = ()) -> ResolvedImage:
        """Return what a reference stands for now, for Linux on each of `architectures` (amd64; empty: all there are).

        `resolved_at` is left at 0. An architecture that there is no image for is left out.
        """

    async def manifest(self, access: Access, repository: str, tag_or_digest: str) -> Manifest:
        """Return a manifest or an index of at most MAX_MANIFEST_BYTES."""

    async def blob(self, access: Access, repository: str, digest: str, max_bytes: int) -> bytes:
        """Return a small blob whole; a larger one is `wrong-content`."""

    async def referrers(self, access: Access, repository: str, digest: str, artifact_type: str) -> list[str]:
        """Return the digests of manifests that refer to the one with `digest` and may be artifacts of that type.

        That a manifest is listed proves nothing: anybody who may push can have it listed, and types are often left out.
        """

    def open_blob(
        self, access: Access, repository: str, digest: str, offset: int = 0
    ) -> AbstractAsyncContextManager[OpenedBlob]:
        """Read a blob of any size as it comes, from `offset` on where the registry serves parts."""

    async def check(self, access: Access) -> None:
        """Return when the registry answers and takes the login."""

    async def close(self) -> None:
        """Release connections."""
