"""A registry in memory, scripted: what it holds, who may read it, and what goes wrong."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fallow.drivers.registry import documents
from fallow.drivers.registry.contract import MAX_MANIFEST_BYTES, Access, Manifest, OpenedBlob, RegistryError
from fallow.drivers.registry.referrers import listed_by_tag
from fallow.model.images import PlatformImage, RegistryLogin, ResolvedImage
from fallow.model.references import Reference

CHUNK_BYTES = 64 * 1024


@dataclass
class FakeRegistry:
    """Passes the contract of real ones. `asked` are the calls it got, `troubles` what the next ones of them end with.

    As in older ones, clients have to keep the lists of referrers.

    `logins` maps hosts to the login they want; whoever is not in it lets everybody read.
    """

    logins: dict[str, RegistryLogin] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    troubles: list[RegistryError] = field(default_factory=list)
    _manifests: dict[str, Manifest] = field(default_factory=dict)
    _blobs: dict[str, bytes] = field(default_factory=dict)

    def put_blob(self, name: str, body: bytes) -> str:
        """Hold a blob of `host/repository`; return its digest."""
        digest = documents.digest_of(body)
        self._blobs[f"{name}@{digest}"] = body
        return digest

    def put_manifest(self, name: str, tag: str, body: bytes, media_type: str) -> str:
        """Hold a manifest of `host/repository`, by its digest and, unless it is empty, by a tag; return its digest."""
        found = Manifest(body=body, media_type=media_type, digest=documents.digest_of(body))
        self._manifests[f"{name}@{found.digest}"] = found
        if tag:
            self._manifests[f"{name}:{tag}"] = found
        return found.digest

    async def resolve(self, access: Access, reference: Reference, architectures: Collection[str] = ()) -> ResolvedImage:
        """Return what a reference stands for now; see the contract."""
        repository = reference.repository
        found = await self.manifest(access, repository, reference.digest or reference.tag)
        images: list[PlatformImage] = []
        if documents.is_index(found):
            for each in documents.linux_manifests(found.body, architectures):
                one = await self.manifest(access, repository, each.digest)
                body = documents.read_manifest(one.body)
                images.append(documents.platform_image(documents.platform_of(each), one, body))
        else:
            body = documents.read_manifest(found.body)
            configuration = await self.blob(access, repository, body.config.digest, MAX_MANIFEST_BYTES)
            platform = documents.platform_of_configuration(configuration)
            images.append(documents.platform_image(platform, found, body))
        return ResolvedImage(reference=reference.text, digest=found.digest, platforms=tuple(images))

    async def manifest(self, access: Access, repository: str, tag_or_digest: str) -> Manifest:
        """Return a manifest or an index; see the contract."""
        mark = "@" if ":" in tag_or_digest else ":"
        name = f"{access.host}/{repository}{mark}{tag_or_digest}"
        self._let_in(access, name)
        found = self._manifests.get(name)
        if found is None:
            raise RegistryError("not-found", f"{name}: the registry answered 404: manifest unknown")
        return found

    async def blob(self, access: Access, repository: str, digest: str, max_bytes: int) -> bytes:
        """Return a small blob whole; see the contract."""
        body = self._blob(access, repository, digest)
        if len(body) > max_bytes:
            raise RegistryError("wrong-content", f"{access.host}/{repository}@{digest}: more than {max_bytes} bytes")
        return body

    async def referrers(self, access: Access, repository: str, digest: str, artifact_type: str) -> list[str]:
        """Return what refers to a manifest; see the contract."""
        return await listed_by_tag(self, access, repository, digest, artifact_type)

    @asynccontextmanager
    async def open_blob(
        self, access: Access, repository: str, digest: str, offset: int = 0
    ) -> AsyncIterator[OpenedBlob]:
        """Read a blob of any size as it comes; see the contract."""
        body = self._blob(access, repository, digest)
        if offset and offset >= len(body):
            raise RegistryError("bad-request", f"{access.host}/{repository}@{digest}: it ends before byte {offset}")

        async def chunks() -> AsyncIterator[bytes]:
            for at in range(offset, len(body), CHUNK_BYTES):
                yield body[at : at + CHUNK_BYTES]

        yield OpenedBlob(offset=offset, size_bytes=len(body), chunks=chunks())

    async def check(self, access: Access) -> None:
        """Return when the registry answers and takes the login; see the contract."""
        self._let_in(access, access.host)

    async def close(self) -> None:
        """Release nothing."""

    def _blob(self, access: Access, repository: str, digest: str) -> bytes:
        name = f"{access.host}/{repository}@{digest}"
        self._let_in(access, name)
        if name not in self._blobs:
            raise RegistryError("not-found", f"{name}: the registry answered 404: blob unknown")
        return self._blobs[name]

    def _let_in(self, access: Access, what: str) -> None:
        self.asked.append(what)
        if self.troubles:
            raise self.troubles.pop(0)
        if access.host in self.logins and access.login != self.logins[access.host]:
            raise RegistryError("denied", f"{what}: the registry answered 401: authentication required")
