import struct
from collections.abc import AsyncIterator

import pytest

from fallow.drivers.engine.streams import MAX_LINE_CHARS, PullCounter, json_lines, log_lines


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(payload)) + payload


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 1000])
async def test_lines_whatever_the_chunks(size: int) -> None:
    data = frame(1, "grün\nun".encode()) + frame(2, b"error\n") + frame(1, b"") + frame(1, b"finished")
    assert [line async for line in log_lines(chunks(data, size))] == ["grün", "error", "unfinished"]


async def test_a_character_may_be_cut_by_a_frame() -> None:
    whole = "ü\n".encode()
    data = frame(1, whole[:1]) + frame(2, b"between\n") + frame(1, whole[1:])
    assert [line async for line in log_lines(chunks(data, 64))] == ["between", "ü"]


async def test_bytes_that_are_no_text_are_marked() -> None:
    data = frame(1, b"a\xffb\n") + frame(1, b"\xc3")
    assert [line async for line in log_lines(chunks(data, 64))] == ["a\ufffdb", "\ufffd"]


async def test_empty_lines_stay() -> None:
    assert [line async for line in log_lines(chunks(frame(1, b"\n\na\n"), 64))] == ["", "", "a"]


async def test_a_line_without_end_is_cut() -> None:
    data = b"".join(frame(1, b"x" * 10_000) for _ in range(20)) + frame(1, b"\n")
    lines = [line async for line in log_lines(chunks(data, 4096))]
    assert "".join(lines) == "x" * 200_000
    assert max(len(line) for line in lines) <= MAX_LINE_CHARS


async def test_a_stream_that_breaks_off_gives_what_came() -> None:
    data = frame(1, b"whole\n") + frame(1, b"never came\n")[:-3]
    assert [line async for line in log_lines(chunks(data, 5))] == ["whole"]


async def test_json_lines_of_any_length() -> None:
    data = b'{"a": 1}\r\n\n{"b": "' + b"x" * 100_000 + b'"}\n'
    messages = [message async for message in json_lines(chunks(data, 999))]
    assert messages == [{"a": 1}, {"b": "x" * 100_000}]


def test_pull_progress_adds_up_over_layers() -> None:
    counter = PullCounter()
    counter.add({"status": "Pulling fs layer", "id": "a", "progressDetail": {}})
    counter.add({"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}})
    counter.add({"status": "Downloading", "id": "b", "progressDetail": {"current": 5, "total": 50}})
    assert counter.add({"status": "Downloading", "id": "a"}).current_bytes == 15
    done = counter.add({"status": "Download complete", "id": "a", "progressDetail": {}})
    assert (done.current_bytes, done.total_bytes) == (105, 150)
    unpacking = counter.add({"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 100}})
    assert (unpacking.current_bytes, unpacking.total_bytes, unpacking.text) == (105, 150, "Extracting")
