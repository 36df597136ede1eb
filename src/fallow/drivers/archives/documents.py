"""What an archive's own files say of its images.

Formats: OCI image layout 1.1 (`oci-layout`, `index.json`), and the archive of `docker save` (`manifest.json`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from fallow.model.images import Blob, PlatformImage, ResolvedImage
from fallow.model.references import parse_reference

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_MAX_DEPTH = 3

T = TypeVar("T")


class ArchiveError(Exception):
    """The file is no archive of images, or one that cannot be used; the text says why."""


class _Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    media_type: str = ""
    platform: _Platform | None = None
    annotations: dict[str, str] = {}


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """An index or a manifest."""

    media_type: str = ""
    manifests: tuple[_Descriptor, ...] = ()
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] = ()


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] = ()


class _Configuration(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    rootfs: _RootFs = _RootFs()


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    repo_tags: tuple[str, ...] | None = ()
    layers: tuple[str, ...] = ()


class Contents:
    """The files of an archive: `files` says which blob a name is, `sizes` what each blob has; both are complete.

    `small` returns a small blob's bytes, and `put` keeps a document that is made here and returns its digest.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        sizes: Mapping[str, int],
        small: Callable[[str], bytes],
        put: Callable[[bytes], str],
    ) -> None:
        self._files = files
        self._sizes = sizes
        self._small = small
        self._put = put

    def images(self) -> tuple[ResolvedImage, ...]:
        """Return every image with a name. Raises ArchiveError."""
        if "index.json" in self._files:
            found = list(self._laid_out())
        elif "manifest.json" in self._files:
            found = list(self._saved())
        else:
            raise ArchiveError("it has neither an index.json nor a manifest.json: it is no archive of images")
        if not found:
            raise ArchiveError("no image in it has a name: save it by its name and tag, not by its id")
        return tuple(found)

    # docker save

    def _saved(self) -> Iterator[ResolvedImage]:
        for each in self._read(self._files["manifest.json"], tuple[_Saved, ...], "manifest.json"):
            image = self._from_files(each)
            for name in each.repo_tags or ():
                yield _resolved(name, image.manifest.digest, (image,))

    def _from_files(self, saved: _Saved) -> PlatformImage:
        config = self._file(saved.config)
        layers = tuple(self._file(name) for name in saved.layers)
        read = self._read(config, _Configuration, saved.config)
        if read.rootfs.diff_ids != layers:
            raise ArchiveError("its layers are not those that its configuration names")
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": config, "size": self._sizes[config]},
            "layers": [{"mediaType": _LAYER, "digest": each, "size": self._sizes[each]} for each in layers],
        }
        return self._image(self._put(msgspec.json.encode(manifest)))

    def _file(self, name: str) -> str:
        if name not in self._files:
            raise ArchiveError(f"{name[:100]!r} is named in it, and is not in it")
        return self._files[name]

    # OCI layout

    def _laid_out(self) -> Iterator[ResolvedImage]:
        top = self._read(self._files["index.json"], _Document, "index.json")
        tags = self._tags_beside()
        for each in top.manifests:
            named = [each.annotations[key] for key in _NAMES if key in each.annotations][:1]
            platforms = tuple(self._platforms(each, 0))
            for name in named if named and "/" in named[0] else tags or named:
                if platforms:
                    yield _resolved(name, each.digest, platforms)

    def _tags_beside(self) -> list[str]:
        """Return the full names that Docker writes beside a layout, which has only tags; for one image."""
        if "manifest.json" not in self._files:
            return []
        saved = self._read(self._files["manifest.json"], tuple[_Saved, ...], "manifest.json")
        return list(saved[0].repo_tags or ()) if len(saved) == 1 else []

    def _platforms(self, descriptor: _Descriptor, depth: int) -> Iterator[PlatformImage]:
        """Yield the images for Linux behind a descriptor; attestations and what is not in the file are left out."""
        if descriptor.digest not in self._sizes:
            return
        document = self._read(descriptor.digest, _Document, "manifest")
        if not document.manifests:
            image = self._image(descriptor.digest)
            if image.platform.startswith("linux/"):
                yield image
        elif depth < _MAX_DEPTH:
            for each in document.manifests:
                if each.platform is None or each.platform.os == "linux":
                    yield from self._platforms(each, depth + 1)

    def _image(self, manifest: str) -> PlatformImage:
        document = self._read(manifest, _Document, "manifest")
        if document.config is None or document.config.digest not in self._sizes:
            raise ArchiveError("an image in it has no configuration")
        missing = [each.digest for each in document.layers if each.digest not in self._sizes]
        if missing:
            raise ArchiveError(f"the layer {missing[0][:100]} is named in it, and is not in it")
        config = self._read(document.config.digest, _Configuration, "configuration")
        parts = (config.os, config.architecture, config.variant)
        image = PlatformImage(
            platform="/".join(part for part in parts if part),
            manifest=self._blob(manifest, document.media_type or OCI_MANIFEST),
            image_id=document.config.digest,
            layers=tuple(self._blob(each.digest, each.media_type) for each in document.layers),
        )
        return _checked(image)

    def _blob(self, digest: str, media_type: str) -> Blob:
        return Blob(digest=digest, size_bytes=self._sizes[digest], media_type=media_type)

    def _read(self, digest: str, shape: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(self._small(digest), type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArchiveError(f"its {what[:100]} cannot be read: {error}"[:300]) from None


def digest_of(body: bytes) -> str:
    """Return the digest of bytes."""
    return "sha256:" + hashlib.sha256(body).hexdigest()


def _resolved(name: str, digest: str, platforms: tuple[PlatformImage, ...]) -> ResolvedImage:
    try:
        reference = parse_reference(name).text
    except ValueError as error:
        raise ArchiveError(str(error)) from None
    return ResolvedImage(reference=reference, digest=digest, platforms=platforms)


def _checked(image: PlatformImage) -> PlatformImage:
    try:
        return msgspec.convert(msgspec.to_builtins(image), PlatformImage)
    except msgspec.ValidationError as error:
        raise ArchiveError(f"an image in it cannot be used: {error}"[:300]) from None
