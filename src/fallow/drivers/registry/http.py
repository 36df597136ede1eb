"""Registries over HTTP: the OCI distribution API, read only.

A login goes to the registry itself and to where it says tokens are given, nowhere else: redirects are followed without
it, and never from https to http. Bytes are read as they come, undecompressed, and are checked against their digest.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from fallow.drivers.registry import documents
from fallow.drivers.registry.answers import refusal
from fallow.drivers.registry.contract import MAX_MANIFEST_BYTES, Access, Manifest, OpenedBlob, RegistryError
from fallow.drivers.registry.failures import translated
from fallow.drivers.registry.referrers import listed_by_tag, next_page
from fallow.drivers.registry.requests import Requests, Timeouts
from fallow.model.images import PlatformImage, ResolvedImage
from fallow.model.references import Reference, parse_reference

MAX_CONFIGURATION_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
PLATFORMS_AT_ONCE = 4
MAX_REFERRER_PAGES = 16
_NO_REFERRERS = frozenset({"not-found", "bad-request", "failed"})  # what registries without that part of the API answer
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")


@dataclass(frozen=True, slots=True)
class _Whole:
    body: bytes
    headers: Mapping[str, str]

    @property
    def media_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class HttpRegistry:
    """Any registry over HTTP; see `contract.Registry`. `clock` gives UTC seconds, for dates that registries tell."""

    def __init__(self, timeouts: Timeouts | None = None, clock: Callable[[], float] = time.time) -> None:
        self._timeouts = timeouts or Timeouts()
        self._clock = clock
        self._requests = Requests(self._timeouts, clock)

    async def resolve(self, access: Access, reference: Reference, architectures: Collection[str] = ()) -> ResolvedImage:
        """Return what a reference stands for now; see the contract."""
        manifest = await self.manifest(access, reference.repository, reference.digest or reference.tag)
        if documents.is_index(manifest):
            platforms = await self._platforms(access, reference.repository, manifest, architectures)
        else:
            platforms = (await self._single(access, reference.repository, manifest),)
        return ResolvedImage(reference=reference.text, digest=manifest.digest, platforms=platforms)

    async def manifest(self, access: Access, repository: str, tag_or_digest: str) -> Manifest:
        """Return a manifest or an index; see the contract."""
        accept = {"Accept": ", ".join(documents.ACCEPTED)}
        what = _checked(access, repository, tag_or_digest)
        found = await self._whole(access, repository, what, f"manifests/{tag_or_digest}", accept, MAX_MANIFEST_BYTES)
        digest = documents.digest_of(found.body)
        told = found.headers.get("Docker-Content-Digest", "")
        for wanted in (tag_or_digest if ":" in tag_or_digest else "", told if told.startswith("sha256:") else ""):
            if wanted and wanted != digest:
                raise RegistryError(
                    "wrong-content",
                    f"{access.host}/{repository}: a manifest came that has the digest {digest} and not {wanted[:80]!r}",
                )
        return Manifest(body=found.body, media_type=found.media_type, digest=digest)

    async def blob(self, access: Access, repository: str, digest: str, max_bytes: int) -> bytes:
        """Return a small blob whole; see the contract."""
        what = _checked(access, repository, digest)
        found = await self._whole(access, repository, what, f"blobs/{digest}", {}, max_bytes)
        if documents.digest_of(found.body) != digest:
            raise RegistryError("wrong-content", f"{access.host}/{repository}: what came is not the blob {digest}")
        return found.body

    async def referrers(self, access: Access, repository: str, digest: str, artifact_type: str) -> list[str]:
        """Return what refers to a manifest; see the contract."""
        listed, query = list[str](), ""
        for _ in range(MAX_REFERRER_PAGES):
            page = await self._referrers_page(access, repository, digest, query)
            if page is None:
                return await listed_by_tag(self, access, repository, digest, artifact_type)
            listed += documents.referring(page.body, artifact_type)
            query = next_page(page.headers.get("Link", ""))
            if not query:
                break
        return listed

    @asynccontextmanager
    async def open_blob(
        self, access: Access, repository: str, digest: str, offset: int = 0
    ) -> AsyncIterator[OpenedBlob]:
        """Read a blob of any size as it comes; see the contract."""
        what = _checked(access, repository, digest)
        part = {"Range": f"bytes={offset}-"} if offset else {}
        with translated(what):
            response = await self._requests.open(access, repository, f"blobs/{digest}", part)
        try:
            if response.status not in (200, 206):
                raise await self._refusal(access, what, response)
            begins, size = _extent(response, offset, what)
            yield OpenedBlob(offset=begins, size_bytes=size, chunks=_chunks(response, digest, begins, size, what))
        finally:
            response.close()

    async def check(self, access: Access) -> None:
        """Return when the registry answers and takes the login; see the contract."""
        await self._whole(access, "", _checked(access, "", ""), "", {}, MAX_MANIFEST_BYTES)

    async def close(self) -> None:
        """Release connections."""
        await self._requests.close()

    async def _single(self, access: Access, repository: str, manifest: Manifest) -> PlatformImage:
        """Return the image of a manifest that stands alone: only its configuration says what platform it is for."""
        body = documents.read_manifest(manifest.body)
        configuration = await self.blob(access, repository, body.config.digest, MAX_CONFIGURATION_BYTES)
        return documents.platform_image(documents.platform_of_configuration(configuration), manifest, body)

    async def _platforms(
        self, access: Access, repository: str, index: Manifest, architectures: Collection[str]
    ) -> tuple[PlatformImage, ...]:
        turns = asyncio.Semaphore(PLATFORMS_AT_ONCE)

        async def one(descriptor: documents.Descriptor) -> PlatformImage:
            async with turns:
                manifest = await self.manifest(access, repository, descriptor.digest)
            if len(manifest.body) != descriptor.size or documents.is_index(manifest):
                raise RegistryError(
                    "wrong-content", f"{access.host}/{repository}: its index does not fit its manifests"
                )
            return documents.platform_image(
                documents.platform_of(descriptor), manifest, documents.read_manifest(manifest.body)
            )

        tasks = [asyncio.ensure_future(one(each)) for each in documents.linux_manifests(index.body, architectures)]
        try:
            return tuple(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _referrers_page(self, access: Access, repository: str, digest: str, query: str) -> _Whole | None:
        """Return one page of the list that the registry keeps; None when it keeps none. Raises RegistryError."""
        what = _checked(access, repository, digest)
        accept = {"Accept": documents.OCI_INDEX}
        try:
            page = await self._whole(access, repository, what, f"referrers/{digest}{query}", accept, MAX_MANIFEST_BYTES)
        except RegistryError as error:
            if query or error.kind not in _NO_REFERRERS:
                raise
            return None
        return page if page.media_type == documents.OCI_INDEX else None

    async def _whole(
        self, access: Access, repository: str, what: str, path: str, headers: Mapping[str, str], max_bytes: int
    ) -> _Whole:
        """Return an answer that is read whole, in a bounded time; `what` it is, for people. Raises RegistryError."""
        with translated(what):
            async with asyncio.timeout(self._timeouts.whole_seconds):
                response = await self._requests.open(access, repository, path, headers)
                try:
                    if response.status != 200:
                        raise await self._refusal(access, what, response)
                    return _Whole(await _read(response, max_bytes, what), response.headers)
                finally:
                    response.close()

    async def _refusal(self, access: Access, what: str, response: aiohttp.ClientResponse) -> RegistryError:
        with translated(what):
            body = await response.content.read(CHUNK_BYTES)
        error = refusal(what, response.status, response.headers, body, self._requests.secrets(access), self._clock())
        if error.kind != "denied":
            return error
        who = f"the login of {access.login.username}" if access.login is not None else "no login"
        return RegistryError("denied", f"{error} (it was asked with {who})", error.retry_after_seconds)


def _checked(access: Access, repository: str, thing: str) -> str:
    """Return what is asked for, for people. Raises RegistryError for names that could reach something else."""
    mark = "@" if ":" in thing else ":"
    text = f"{access.host}/{repository}{mark}{thing}" if repository else f"{access.host}/library/any:latest"
    try:
        found = parse_reference(text)
    except ValueError as error:
        raise RegistryError("bad-request", str(error)) from None
    if found.registry != access.host:
        raise RegistryError("bad-request", f"{access.host[:80]!r} is no host of a registry")
    return text if repository else access.host


async def _read(response: aiohttp.ClientResponse, max_bytes: int, what: str) -> bytes:
    parts, size = list[bytes](), 0
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise RegistryError("wrong-content", f"{what}: more than {max_bytes} bytes came")
        parts.append(chunk)
    return b"".join(parts)


def _extent(response: aiohttp.ClientResponse, offset: int, what: str) -> tuple[int, int]:
    """Return where what comes begins, and the size of the whole (0: not told). Raises RegistryError."""
    if response.status == 200:
        return 0, response.content_length or 0
    found = _RANGE.match(response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != offset:
        raise RegistryError("wrong-content", f"{what}: another part came than was asked for")
    total = 0 if found[3] == "*" else int(found[3])
    if total and int(found[2]) != total - 1:
        raise RegistryError("wrong-content", f"{what}: another part came than was asked for")
    return offset, total


async def _chunks(
    response: aiohttp.ClientResponse, digest: str, begins: int, size: int, what: str
) -> AsyncIterator[bytes]:
    at, seen = begins, hashlib.sha256()
    with translated(what):
        async for chunk in response.content.iter_chunked(CHUNK_BYTES):
            at += len(chunk)
            if size and at > size:
                raise RegistryError("wrong-content", f"{what}: more came than its {size} bytes")
            if not begins:
                seen.update(chunk)
            yield chunk
    if size and at != size:
        raise RegistryError("unreachable", f"{what}: the answer broke off after {at} of {size} bytes")
    if not begins and f"sha256:{seen.hexdigest()}" != digest:
        raise RegistryError("wrong-content", f"{what}: what came is not the blob {digest}")
