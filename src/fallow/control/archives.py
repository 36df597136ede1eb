"""Images given to the control plane as a file: kept in its folder, and served to nodes as one of their own would.

The process that took a file in has it; while it is away, nodes that have the image already serve it to the others, and
a node that finds nobody fails with words that say so and is tried again as its job says. What no node has asked for in
KEEP_SECONDS is removed when the process starts or takes in another file.
"""

import asyncio
import contextlib
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import structlog

from fallow.control.ids import new_id
from fallow.drivers.archives import ArchiveError, Limits, read_archive
from fallow.drivers.blobs import Growing, Stored
from fallow.drivers.blobs.peers import PeerServer
from fallow.drivers.folders import make_private, write_whole
from fallow.model.images import BlobSource, PlatformImage, ResolvedImage

_log = structlog.get_logger("fallow.archives")

MAX_UPLOAD_BYTES = 32 * 1024**3
KEEP_SECONDS = 7 * 86400.0
ONES = "images.json"  # in each folder: what is in it


class Archives:
    """Archives in `folder`, one subfolder each. `clock` gives UTC seconds."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.time, *, max_bytes: int = MAX_UPLOAD_BYTES
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._max_bytes = max_bytes
        self._paths: dict[str, Path] = {}  # digest -> where its blob is
        self._storing = asyncio.Lock()
        self._server = PeerServer("", self._blob)
        self._port = 0
        self._address = ""

    async def start(self, host: str, port: int, context: ssl.SSLContext, address: str = "") -> None:
        """Take in what is there, and serve it to members; `context` is that of sessions.

        At `port`, or any other when that is taken. `address` is where members reach this process; empty: where their
        sessions do. Raises OSError and FolderError.
        """
        await asyncio.to_thread(self._load)
        self._address = address
        try:
            self._port = await self._server.start(host, port, context)
        except OSError:
            self._port = await self._server.start(host, 0, context)
            _log.warning("archives are served at another port", wanted=port, port=self._port)

    async def stop(self) -> None:
        """Serve no more."""
        await self._server.stop()

    async def store(self, chunks: AsyncIterator[bytes]) -> tuple[ResolvedImage, ...]:
        """Take in a file as it comes and return the images in it, each with a name in full and its digest.

        The same file twice is there once. Raises ArchiveError, whose text says what is wrong with it, and OSError.
        """
        async with self._storing:  # one at a time: each may fill the disk
            draft = self._folder / f"draft-{new_id()}"
            make_private(self._folder, ())
            make_private(draft, ())
            self._clean()
            try:
                await self._spool(draft / "upload", chunks)
                images = await asyncio.to_thread(read_archive, draft / "upload", draft, Limits())
                (draft / "upload").unlink()
                now = self._clock()
                images = tuple(msgspec.structs.replace(each, resolved_at=now) for each in images)
                write_whole(draft / ONES, msgspec.json.encode(images), durable=True)
                kept = self._folder / images[0].digest.removeprefix("sha256:")
                shutil.rmtree(kept, ignore_errors=True)
                draft.rename(kept)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            self._take_in(kept)
            return images

    async def _spool(self, path: Path, chunks: AsyncIterator[bytes]) -> None:
        """Write what comes to a file. Raises ArchiveError: it is too large."""
        size = 0
        with path.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes or shutil.disk_usage(path.parent).free < len(chunk) + 2**30:
                    raise ArchiveError(
                        f"the file is larger than {self._max_bytes} bytes, or than the disk has room for"
                    )
                await asyncio.to_thread(file.write, chunk)

    def sources(self, image: PlatformImage) -> tuple[BlobSource, ...]:
        """Return this process as a source of an image it was given, for `Blobs.beside`."""
        path = self._paths.get(image.manifest.digest)
        if path is None or not self._port:
            return ()
        with contextlib.suppress(OSError):
            os.utime(path.parent / ONES)
        return (BlobSource(member_id="", address=self._address, port=self._port),)

    def _load(self) -> None:
        make_private(self._folder, ())
        for path in sorted(self._folder.iterdir()):
            if not (path / ONES).exists():  # it was being taken in
                shutil.rmtree(path, ignore_errors=True)
            else:
                self._take_in(path)
        self._clean()

    def _clean(self) -> None:
        for done in self._folder.glob(f"*/{ONES}"):
            if done.stat().st_mtime < self._clock() - KEEP_SECONDS:
                _log.info("an archive nobody used for long is removed", archive=done.parent.name)
                shutil.rmtree(done.parent, ignore_errors=True)
        self._paths = {digest: path for digest, path in self._paths.items() if path.exists()}

    def _take_in(self, folder: Path) -> None:
        for path in folder.iterdir():
            if path.name != ONES:
                self._paths[f"sha256:{path.name}"] = path

    async def _blob(self, digest: str) -> Stored | Growing | None:
        path = self._paths.get(digest)
        if path is None or not path.exists():
            return None
        return Stored(digest, path.stat().st_size, path)
