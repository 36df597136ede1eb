"""Blobs on disk, named by what is in them: bounded by bytes and by age, and nothing worse after a kill than before.

A blob is written to `partial/` and moved to `whole/` once its digest was right. What an earlier run has left is checked
again before it is used for the first time, so neither a power cut nor a bad disk makes us pass on anything else.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fallow.drivers.blobs.contract import BlobError
from fallow.drivers.blobs.growing import READ_BYTES, Growing, Stored
from fallow.drivers.folders import make_private

MAX_BYTES = 20 * 1024**3
MAX_AGE_SECONDS = 24 * 3600.0
KEEP_FREE_BYTES = 512 * 1024**2  # of the disk, for everybody else
_NAME = re.compile(r"[0-9a-f]{64}\Z")


class CacheFull(BlobError):  # noqa: N818 - an outcome, after which the engine pulls by itself
    """The blob has no room here."""

    def __init__(self, text: str) -> None:
        super().__init__("no-space", text)


@dataclass(kw_only=True, slots=True)
class _Entry:
    size_bytes: int
    used_at: float
    verified: bool


class BlobCache:
    """The blobs in one folder, used by one process at a time. `clock` gives UTC seconds.

    `on_change(digest, state)` is called when a blob is "whole", "fetching" or "gone".
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_age_seconds: float = MAX_AGE_SECONDS,
        keep_free_bytes: int = KEEP_FREE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take in what is there. Raises OSError and FolderError."""
        self._whole, self._partial = folder / "whole", folder / "partial"
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._keep_free_bytes = keep_free_bytes
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._growing: dict[str, Growing] = {}
        self._checking: dict[str, asyncio.Future[bool]] = {}
        self.on_change: Callable[[str, str], None] = lambda _digest, _state: None
        for each in (folder, self._whole, self._partial):
            make_private(each, ())
        self._scan()

    def _scan(self) -> None:
        for path in self._whole.iterdir():
            if _NAME.match(path.name) and path.is_file() and not path.is_symlink():
                found = path.stat()
                self._entries[f"sha256:{path.name}"] = _Entry(
                    size_bytes=found.st_size, used_at=found.st_mtime, verified=False
                )

    @property
    def whole(self) -> tuple[str, ...]:
        """Return the digests of the blobs that are whole, the least lately used first."""
        return tuple(sorted(self._entries, key=lambda digest: self._entries[digest].used_at))

    @property
    def fetching(self) -> tuple[str, ...]:
        """Return the digests of blobs that arrive."""
        return tuple(self._growing)

    @property
    def used_bytes(self) -> int:
        """Return how much there is, counting what arrives as if it were whole."""
        growing = sum(each.size_bytes for each in self._growing.values())
        return growing + sum(each.size_bytes for each in self._entries.values())

    def has(self, digest: str) -> bool:
        """Say whether a blob is whole."""
        return digest in self._entries

    def growing(self, digest: str) -> Growing | None:
        """Return a blob that arrives."""
        return self._growing.get(digest)

    async def stored(self, digest: str) -> Stored | None:
        """Return a blob that is whole, checked if that has not been done since the start. Raises OSError."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        path = self._path(digest)
        if not entry.verified and not await self._check(digest, path):
            return None
        entry.used_at = self._clock()
        try:
            await asyncio.to_thread(os.utime, path, (entry.used_at, entry.used_at))
        except OSError:  # somebody else cleans here
            self._forget(digest)
            return None
        return Stored(digest, entry.size_bytes, path)

    async def _check(self, digest: str, path: Path) -> bool:
        """Hash what an earlier run has left, once however many ask; a blob that is not right any more is removed."""
        if digest not in self._checking:
            self._checking[digest] = asyncio.ensure_future(asyncio.to_thread(_is_genuine, path, digest))
        checking = self._checking[digest]
        try:
            genuine = await asyncio.shield(checking)
        finally:
            if checking.done():
                self._checking.pop(digest, None)
        entry = self._entries.get(digest)
        if entry is None:
            return False
        entry.verified = genuine
        if not genuine:
            self.drop(digest)
        return genuine

    async def begin(self, digest: str, size_bytes: int) -> Growing:
        """Make room for a blob and return it, empty or with what an earlier run has left.

        Raises CacheFull, also for what the disk says. There must be none that is whole or arrives already.
        """
        name = digest.removeprefix("sha256:")
        if digest in self._growing or digest in self._entries or not _NAME.match(name):
            raise BlobError("failed", f"{digest} is here already, or no digest")
        try:
            self._make_room(size_bytes)
            growing = Growing(digest, size_bytes, self._partial / name)
            self._growing[digest] = growing
            await growing.resume()
        except OSError as error:
            self._growing.pop(digest, None)
            raise CacheFull(f"the blob cache cannot be written: {error.strerror}") from None
        self.on_change(digest, "fetching")
        return growing

    def finish(self, growing: Growing) -> None:
        """Keep a blob that is genuine. Raises BlobError, void, when it is not: then it is gone."""
        if not growing.genuine:
            error = BlobError("wrong-content", f"what came is not {growing.digest}", void=True)
            self.abandon(growing, error)
            raise error
        path = self._path(growing.digest)
        try:
            growing.path.replace(path)
        except OSError as error:
            problem = CacheFull(f"the blob cache cannot be written: {error.strerror}")
            self.abandon(growing, problem)
            raise problem from None
        growing.path = path
        self._growing.pop(growing.digest, None)
        self._entries[growing.digest] = _Entry(size_bytes=growing.size_bytes, used_at=self._clock(), verified=True)
        growing.end()
        self.on_change(growing.digest, "whole")

    def abandon(self, growing: Growing, error: BlobError, *, keep: bool = False) -> None:
        """Give a blob up, unless that was done; with `keep` the next who begins it goes on from there."""
        if growing.ended:
            return
        self._growing.pop(growing.digest, None)
        growing.end(error)
        if not keep:
            growing.path.unlink(missing_ok=True)
        self.on_change(growing.digest, "gone")

    def drop(self, digest: str) -> None:
        """Remove a blob that is whole; who reads it now may go on."""
        with contextlib.suppress(OSError):
            self._path(digest).unlink(missing_ok=True)
        self._forget(digest)

    def _forget(self, digest: str) -> None:
        if self._entries.pop(digest, None) is not None:
            self.on_change(digest, "gone")

    def clean(self) -> None:
        """Remove what has not been used for too long, and leftovers that nobody has gone on with."""
        oldest = self._clock() - self._max_age_seconds
        for digest, entry in list(self._entries.items()):
            if entry.used_at < oldest:
                self.drop(digest)
        for path in self._partial.iterdir():
            if f"sha256:{path.name}" not in self._growing and path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)

    def has_room(self, size_bytes: int) -> bool:
        """Say whether so much would fit if all that is here now gave way."""
        free = shutil.disk_usage(self._whole).free - self._keep_free_bytes + self.used_bytes
        return size_bytes <= min(self._max_bytes, free)

    def _make_room(self, size_bytes: int) -> None:
        """Remove the least lately used until there is room. Raises CacheFull and OSError."""
        if size_bytes > self._max_bytes:
            raise CacheFull(f"a blob of {size_bytes} bytes is larger than the cache ({self._max_bytes})")
        for digest in self.whole:
            if self._lacks(size_bytes) <= 0:
                return
            self.drop(digest)
        if self._lacks(size_bytes) > 0:
            self._drop_leftovers()
        if self._lacks(size_bytes) > 0:
            raise CacheFull(f"the blob cache has no room for {size_bytes} bytes more")

    def _drop_leftovers(self) -> None:
        for path in self._partial.iterdir():
            if f"sha256:{path.name}" not in self._growing:
                path.unlink(missing_ok=True)

    def _lacks(self, size_bytes: int) -> int:
        """Return how many bytes are missing, by our own bound or by the disk's."""
        arriving = sum(each.size_bytes - each.written for each in self._growing.values())
        free = shutil.disk_usage(self._whole).free - arriving - self._keep_free_bytes
        return max(size_bytes - free, self.used_bytes + size_bytes - self._max_bytes)

    def _path(self, digest: str) -> Path:
        return self._whole / digest.removeprefix("sha256:")


def _is_genuine(path: Path, digest: str) -> bool:
    sha256 = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES * 4):
                sha256.update(chunk)
    except OSError:
        return False
    return f"sha256:{sha256.hexdigest()}" == digest
