"""A blob in the cache: whole, or still arriving and read by others meanwhile."""

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from fallow.drivers.blobs.contract import BlobError

READ_BYTES = 256 * 1024


class Stored:
    """A blob that is whole and was verified."""

    def __init__(self, digest: str, size_bytes: int, path: Path) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self._path = path

    async def read(self, offset: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield its bytes from `offset` to `end`; it may be removed meanwhile. Raises BlobError."""
        stop = self.size_bytes if end is None else end
        try:
            file = await asyncio.to_thread(os.open, self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BlobError("failed", f"the blob is no longer in the cache: {error.strerror}") from None
        try:
            while offset < stop:
                chunk = await asyncio.to_thread(os.pread, file, min(READ_BYTES, stop - offset), offset)
                if not chunk:
                    raise BlobError("failed", "the blob in the cache was cut off")
                offset += len(chunk)
                yield chunk
        finally:
            os.close(file)


class Growing:
    """A blob that arrives: one writes, any number read what is there and wait for more.

    `upstream` are the members it comes from now, the nearest first. `readers` counts who reads it, by member id.
    """

    def __init__(self, digest: str, size_bytes: int, path: Path) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self.written = 0
        self.upstream: tuple[str, ...] = ()
        self.readers: dict[str, int] = {}
        self.path = path
        self.whole = False
        self.error: BlobError | None = None
        self._changed = asyncio.Event()
        self._hash = hashlib.sha256()
        self._using = threading.Lock()  # a write that was cancelled goes on in its thread
        self._closed = False
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def resume(self) -> None:
        """Take in what an earlier run has left. Raises OSError."""
        await asyncio.to_thread(self._hash_file)
        self._notify()

    def _hash_file(self) -> None:
        while chunk := os.pread(self._file, READ_BYTES * 4, self.written):
            self._hash.update(chunk)
            self.written += len(chunk)
        if self.written > self.size_bytes:
            self.written = 0
            self._hash = hashlib.sha256()
            os.ftruncate(self._file, 0)

    async def append(self, chunk: bytes) -> None:
        """Write what comes next. Raises BlobError when it is more than the blob has, and OSError."""
        if self.written + len(chunk) > self.size_bytes:
            raise BlobError("wrong-content", f"more bytes came than the {self.size_bytes} of {self.digest}", void=True)
        await asyncio.to_thread(self._write, chunk)
        self.written += len(chunk)
        self._notify()

    def _write(self, chunk: bytes) -> None:
        rest, at = memoryview(chunk), self.written
        with self._using:
            while rest and not self._closed:
                count = os.pwrite(self._file, rest, at)
                rest, at = rest[count:], at + count
            self._hash.update(chunk)

    @property
    def genuine(self) -> bool:
        """Say whether all is there and is what its digest says."""
        return self.written == self.size_bytes and f"sha256:{self._hash.hexdigest()}" == self.digest

    def end(self, error: BlobError | None = None) -> None:
        """Let readers know that it is whole, or that it will not be; once, or it would close the file of another."""
        if self.ended:
            raise AssertionError(self.digest)
        self.whole, self.error = error is None, error
        self._notify()
        with self._using:
            self._closed = True
            os.close(self._file)

    @property
    def ended(self) -> bool:
        """Say whether it is whole, or will not be."""
        return self.whole or self.error is not None

    @contextlib.contextmanager
    def read_by(self, reader: str) -> Iterator[None]:
        """Count somebody among those who wait for it."""
        self.readers[reader] = self.readers.get(reader, 0) + 1
        try:
            yield
        finally:
            self.readers[reader] -= 1
            if not self.readers[reader]:
                del self.readers[reader]

    async def changed(self, seconds: float | None = None) -> bool:
        """Wait until more is there, or it has ended; say whether that was within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(
        self, offset: int = 0, end: int | None = None, alive_seconds: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes as they arrive, from `offset` to `end`; nothing every `alive_seconds` while none do.

        Raises BlobError when the blob will not be whole; `void` when what was read is wrong.
        """
        stop = self.size_bytes if end is None else end
        if self.error is not None:
            raise self.error
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BlobError("failed", f"the blob is no longer in the cache: {error.strerror}") from None
        try:
            while offset < stop:
                if self.error is not None:
                    raise self.error
                # The last byte is given only once the whole is known to be genuine: nobody takes a wrong one for done.
                limit = min(stop, self.written if self.whole else min(self.written, self.size_bytes - 1))
                if offset >= limit:
                    if not await self.changed(alive_seconds):
                        yield b""
                    continue
                chunk = await asyncio.to_thread(os.pread, file, min(READ_BYTES, limit - offset), offset)
                offset += len(chunk)
                yield chunk
        finally:
            os.close(file)
