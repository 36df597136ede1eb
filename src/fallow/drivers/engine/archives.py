"""Tar files of images on their way into an engine."""

import zlib
from collections.abc import AsyncIterator, Iterator

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20  # bytes unpacked at a time: a file of zeros must not fill the memory


class ArchiveError(ValueError):
    """The file is cut off or is none; the text is for a person."""


async def unpacked(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a tar file's bytes, unpacked when it is gzip. Raises ArchiveError when gzip is cut off or broken."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if len(head) >= len(_GZIP):
            break
    if not head.startswith(_GZIP):
        if head:
            yield head
        async for chunk in chunks:
            yield chunk
        return
    unpacker = _Gunzip()
    for piece in unpacker.feed(head):
        yield piece
    async for chunk in chunks:
        for piece in unpacker.feed(chunk):
            yield piece
    unpacker.end()


class _Gunzip:
    """Gzip of one or several members, bit by bit."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:
                if self._inner.eof:
                    if not chunk.strip(b"\0"):
                        break  # padding after the end
                    self._inner = zlib.decompressobj(wbits=31)
                if piece := self._inner.decompress(chunk, _PIECE):
                    yield piece
                chunk = self._inner.unconsumed_tail or self._inner.unused_data
        except zlib.error as error:
            raise ArchiveError(f"the archive's compression is broken: {error}") from None

    def end(self) -> None:
        if not self._inner.eof:
            raise ArchiveError("the archive is cut off: its compression does not come to an end")
