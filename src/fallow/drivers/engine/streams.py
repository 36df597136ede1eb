"""Reading the engine's streams: log frames and pull progress."""

import codecs
import json
import struct
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any

from fallow.drivers.engine.contract import PullProgress

_HEADER = struct.Struct(">BxxxL")  # which stream, three bytes of nothing, how many bytes follow
MAX_LINE_CHARS = 64 * 1024  # a longer line is cut into pieces


async def log_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Yield the lines of a multiplexed stream, standard output and error each put together on its own.

    The frames are those of the Docker Engine API's attach; chunks may end anywhere, also inside a character.
    """
    decoders: dict[int, codecs.IncrementalDecoder] = {}
    rests: dict[int, str] = {}
    async for stream, payload in _frames(chunks):
        decoder = decoders.setdefault(stream, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        *lines, rest = (rests.get(stream, "") + decoder.decode(payload)).split("\n")
        for line in lines:
            for piece in _pieces(line):
                yield piece
        *whole, rests[stream] = _pieces(rest)
        for piece in whole:
            yield piece
    for stream, rest in rests.items():
        last = rest + decoders[stream].decode(b"", final=True)
        if last:
            yield last


async def _frames(chunks: AsyncIterable[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(buffer)
            end = _HEADER.size + length
            if len(buffer) < end:
                break
            yield stream, bytes(buffer[_HEADER.size : end])
            del buffer[:end]


async def json_lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON objects of a stream, one a line, of any length. Raises ValueError when a line is none."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _pieces(line: str) -> list[str]:
    return [line[start : start + MAX_LINE_CHARS] for start in range(0, len(line), MAX_LINE_CHARS)] or [""]


class PullCounter:
    """Adds up the bytes of a pull over its layers."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def add(self, message: Mapping[str, Any]) -> PullProgress:
        """Return the progress after one message of the stream."""
        detail = message.get("progressDetail") or {}
        total = detail.get("total") or 0
        # Unpacking counts the same bytes once more.
        if total > 0 and message.get("status") == "Downloading":
            self._layers[str(message.get("id"))] = (detail.get("current") or 0, total)
        elif message.get("status") in ("Download complete", "Pull complete"):
            _, size = self._layers.get(str(message.get("id")), (0, 0))
            self._layers[str(message.get("id"))] = (size, size)
        done = sum(current for current, _ in self._layers.values())
        return PullProgress(
            current_bytes=done,
            total_bytes=sum(size for _, size in self._layers.values()),
            text=str(message.get("status") or ""),
        )
