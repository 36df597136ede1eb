"""How the bytes of a session arrive: a heartbeat is taken in on the spot, everything else waits for the session's task.

Thousands of members say little but that they live. To wake a task for that, and to read it in two pieces, costs as
much as to decrypt it.
"""

import asyncio
from collections.abc import Callable

import msgspec

from fallow.model.wire import Heartbeat, decode_from_member, encode_frame

# A frame that is a heartbeat begins so, after its length; nothing that honest members send looks alike by chance.
_BEAT = encode_frame(Heartbeat())[4:12]
_MOST_BYTES = 1024

# One for all sessions: what is read into it is taken out of it before the next one is read.
_buffer = memoryview(bytearray(16 * 1024))


class SessionProtocol(asyncio.StreamReaderProtocol, asyncio.BufferedProtocol):
    """A stream whose heartbeats go to `on_beat`, once that is set. The reader gets all else."""

    on_beat: Callable[[Heartbeat], None] | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what comes next."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what has come."""
        data = bytes(_buffer[:nbytes])
        if self.on_beat is not None and (beat := heartbeat_in(data)) is not None:
            self.on_beat(beat)
        else:
            self.data_received(data)


def heartbeat_in(data: bytes) -> Heartbeat | None:
    """Return the heartbeat that `data` is, whole and alone; None when it is anything else."""
    size = len(data)
    if size > _MOST_BYTES or data[4:12] != _BEAT or int.from_bytes(data[:4], "big") != size - 4:
        return None
    try:
        frame = decode_from_member(data[4:])
    except msgspec.DecodeError:
        return None
    return frame if isinstance(frame, Heartbeat) else None
