"""Blobs from registries: the image's own, with the grant's login, and the cluster's mirror of it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fallow.drivers.blobs import BlobError, Opened, Way
from fallow.drivers.registry import Access, Registry, RegistryError
from fallow.model.images import PlatformImage, PullGrant
from fallow.model.references import parse_reference

SILENCE_SECONDS = 15.0  # registries may think for a while before they send


@dataclass(frozen=True, kw_only=True)
class RegistryWay:
    """One registry that may have an image's blobs; see `Way`."""

    id: str
    registry: Registry
    access: Access
    repository: str
    manifest: str  # the digest that is asked for as a manifest
    is_last: bool
    silence_seconds: float = SILENCE_SECONDS

    @contextlib.asynccontextmanager
    async def open(self, digest: str, size_bytes: int, offset: int) -> AsyncIterator[Opened]:
        """Have the blob sent. Raises BlobError."""
        if digest == self.manifest:
            try:
                found = await self.registry.manifest(self.access, self.repository, digest)
            except RegistryError as error:
                raise _fault(error) from None
            yield Opened(offset=0, chunks=_once(found.body))
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                opening = self.registry.open_blob(self.access, self.repository, digest, offset)
                opened = await stack.enter_async_context(opening)
            except RegistryError as error:
                raise _fault(error) from None
            if opened.size_bytes not in (0, size_bytes):
                raise BlobError("wrong-content", f"{self.id} has {opened.size_bytes} bytes of it, not {size_bytes}")
            yield Opened(offset=opened.offset, chunks=_translated(opened.chunks))


class RegistryOrigins:
    """Registries by `registry`, the driver; see `Origins`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def ways(self, grant: PullGrant, image: PlatformImage) -> list[Way]:
        """Return the mirror, if the grant names one, and the registry. Raises ValueError."""
        reference = parse_reference(grant.reference)
        places = [(f"mirror {grant.mirror}", Access(host=grant.mirror, insecure=True), False)] if grant.mirror else []
        own = Access(
            host=reference.registry,
            login=grant.login,
            insecure=grant.insecure,
            ca_pem=grant.ca_pem,
            proxy=grant.proxy,
        )
        places.append((f"registry {reference.registry}", own, True))
        return [
            RegistryWay(
                id=id_,
                registry=self._registry,
                access=access,
                repository=reference.repository,
                manifest=image.manifest.digest,
                is_last=is_last,
            )
            for id_, access, is_last in places
        ]


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _translated(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except RegistryError as error:
        raise _fault(error, void=error.kind == "wrong-content") from None


def _fault(error: RegistryError, *, void: bool = False) -> BlobError:
    return BlobError(error.kind, str(error), void=void, retry_after_seconds=error.retry_after_seconds)
