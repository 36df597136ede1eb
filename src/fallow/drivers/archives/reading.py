"""Reading an archive: every file in it becomes a blob in a folder, named by its digest; no path in it is ever used.

Tar, plain or gzip. Its bytes are counted as they are unpacked, so that a small file cannot fill the disk.
"""

import gzip
import hashlib
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fallow.drivers.archives.documents import ArchiveError, Contents, digest_of
from fallow.model.images import ResolvedImage

__all__ = ["ArchiveError", "Limits", "read_archive"]

CHUNK_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may hold: files, bytes of all of them unpacked, and bytes of one that is read as a document."""

    files: int = 20_000
    total_bytes: int = 64 * 1024**3
    document_bytes: int = 4 * 1024**2
    keep_free_bytes: int = 1024**3  # of the disk, for everybody else


def read_archive(archive: Path, blobs: Path, limits: Limits) -> tuple[ResolvedImage, ...]:
    """Return the images in a file, whose blobs are then in the folder `blobs`, by their digests' digits.

    Raises ArchiveError, and OSError. What it leaves in the folder when it raises is for the caller to remove.
    """
    reader = _Reader(blobs, limits)
    try:
        with archive.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else raw as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    reader.take(tar, member)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UnicodeError, ValueError) as error:
        raise ArchiveError(f"it is no whole tar file: {error}"[:300]) from None
    return Contents(reader.files, reader.sizes, reader.small, reader.put).images()


class _Reader:
    def __init__(self, blobs: Path, limits: Limits) -> None:
        self._blobs = blobs
        self._limits = limits
        self._found: dict[str, str] = {}  # name -> digest
        self._links: dict[str, str] = {}  # name -> name
        self._total = 0
        self.sizes: dict[str, int] = {}

    @property
    def files(self) -> Mapping[str, str]:
        """Return which blob each name is. Docker links a layer that it has written already."""
        linked = {name: self._found[to] for name, to in self._links.items() if to in self._found}
        return {**linked, **self._found}

    def take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Keep one file. Raises ArchiveError."""
        name = posixpath.normpath(member.name)
        if name.startswith(("/", "../")) or name == "..":
            raise ArchiveError(f"{member.name[:100]!r} leads out of it")
        if len(self._found) + len(self._links) >= self._limits.files:
            raise ArchiveError(f"it has more than {self._limits.files} files")
        if member.issym():
            self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
        elif member.isreg() and not member.issparse():
            content = tar.extractfile(member)
            if content is None:
                raise ArchiveError(f"{name[:100]!r} cannot be read")
            self._keep(name, member.size, content)
        elif not member.isdir():
            raise ArchiveError(f"{name[:100]!r} is neither a file nor a folder")

    def _keep(self, name: str, size: int, content: IO[bytes]) -> None:
        self._total += size
        if self._total > self._limits.total_bytes:
            raise ArchiveError(f"it unpacks to more than {self._limits.total_bytes} bytes")
        if shutil.disk_usage(self._blobs).free - size < self._limits.keep_free_bytes:
            raise ArchiveError("there is no room on the control plane's disk for what is in it")
        draft = self._blobs / "draft"
        sha256 = hashlib.sha256()
        with draft.open("wb") as file:
            while chunk := content.read(CHUNK_BYTES):
                sha256.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        digits = sha256.hexdigest()
        if name.startswith("blobs/sha256/") and name != f"blobs/sha256/{digits}":
            raise ArchiveError(f"{name[:100]!r} is not what its name says")
        draft.replace(self._blobs / digits)
        self._found[name] = f"sha256:{digits}"
        self.sizes[f"sha256:{digits}"] = size

    def small(self, digest: str) -> bytes:
        """Return a blob that is a document. Raises ArchiveError."""
        if self.sizes.get(digest, self._limits.document_bytes + 1) > self._limits.document_bytes:
            raise ArchiveError(f"{digest} is too large to be a document, or not in it")
        return (self._blobs / digest.removeprefix("sha256:")).read_bytes()

    def put(self, body: bytes) -> str:
        """Keep a document that is made here."""
        digest = digest_of(body)
        (self._blobs / digest.removeprefix("sha256:")).write_bytes(body)
        self.sizes[digest] = len(body)
        return digest
