"""Reading frames from a connection, and breaking it off."""

import asyncio

import pytest

from fallow.client.frames import abort, read_frame
from fallow.model.wire import MAX_FRAME_BYTES


def reader_of(data):
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def test_frames_are_read_one_after_the_other():
    reader = reader_of(b"\x00\x00\x00\x02ab\x00\x00\x00\x00")
    assert await read_frame(reader) == b"ab"
    assert await read_frame(reader) == b""
    with pytest.raises(asyncio.IncompleteReadError):
        await read_frame(reader)


async def test_a_frame_that_announces_too_much_is_not_read():
    with pytest.raises(ValueError, match="exceeds"):
        await read_frame(reader_of((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))


def test_a_transport_that_is_gone_can_be_aborted():
    class Gone:
        def abort(self):
            raise AttributeError("'NoneType' object has no attribute '_force_close'")

    abort(Gone())
