"""Answers that do not end: lines of a log, and server-sent events (WHATWG HTML, section 9.2)."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_LINE_BYTES = 16 * 1024 * 1024


class ServerEvent(NamedTuple):
    """One server-sent event; `id` is empty when it has none."""

    name: str
    id: str
    data: str


def split_lines(pieces: Iterable[bytes]) -> Iterator[str]:
    r"""Yield the lines of a text that arrives in pieces, without their line ends; only \n and \r\n end a line.

    Bytes that are not UTF-8 are replaced. A line longer than MAX_LINE_BYTES is handed out in parts.
    """
    rest = bytearray()
    for piece in pieces:
        rest += piece
        *whole, last = rest.split(b"\n")
        for line in whole:
            yield _text(line)
        rest = bytearray(last)
        if len(rest) > MAX_LINE_BYTES:
            yield _text(rest)
            rest = bytearray()
    if rest:
        yield _text(rest)


def _text(line: bytes | bytearray) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


def server_events(pieces: Iterable[bytes]) -> Iterator[ServerEvent]:
    """Yield the events of a stream; comments are skipped, and so is an event that is cut off."""
    name, id_, data = "", "", list[str]()
    for line in split_lines(pieces):
        if not line:
            if name or data:
                yield ServerEvent(name or "message", id_, "\n".join(data))
            name, id_, data = "", "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            id_ = value
        elif field == "data":
            data.append(value)
