"""Heartbeats are taken in without their session's task; nothing else is, and no cut or hostile one."""

import asyncio
from pathlib import Path

import pytest
from session_rig import SessionRig, accepting

from fallow.control.heartbeats import heartbeat_in
from fallow.model.wire import Goodbye, Heartbeat, Usage, Welcome, encode_frame

BEAT = Heartbeat(usage=Usage(cpus=1.5, memory_bytes=2**33, disk_free_bytes=2**39, containers=7))
DATA = encode_frame(BEAT)


def test_a_whole_heartbeat_is_found() -> None:
    assert heartbeat_in(DATA) == BEAT
    assert heartbeat_in(encode_frame(Heartbeat())) == Heartbeat()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DATA[:1],
        DATA[:12],
        DATA[:-1],
        DATA[1:],
        DATA + b"\0",
        DATA * 2,
        encode_frame(Goodbye()) + DATA,
        encode_frame(Goodbye()),
        DATA[:4] + DATA[4:12] + b"\xc1" * (len(DATA) - 12),
        (10**6).to_bytes(4, "big") + DATA[4:],
    ],
)
def test_everything_else_is_left_to_the_reader(data: bytes) -> None:
    assert heartbeat_in(data) is None


async def test_heartbeats_count_in_one_piece_and_in_many(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        await _beats(rig)


async def _beats(rig: SessionRig) -> None:
    machine = await rig.member("a")
    connection = await rig.session(machine)
    await connection.hear_a(Welcome)
    for pieces in ([DATA], [DATA[:2], DATA[2:9], DATA[9:]], [DATA + DATA[:5], DATA[5:]], [DATA * 3]):
        rig.hub.used("n-a", Usage())
        for piece in pieces:
            connection.writer.write(piece)
            await connection.writer.drain()
        async with asyncio.timeout(5):
            while rig.hub.usage("n-a") != BEAT.usage:
                await asyncio.sleep(0)
        assert max(rig.hub.silences().values()) < 5
    connection.writer.write(DATA + encode_frame(Goodbye()))
    async with asyncio.timeout(5):
        while rig.hub.link("n-a") is not None:
            await asyncio.sleep(0)
