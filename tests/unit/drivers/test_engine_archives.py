import gzip

import pytest

from fallow.drivers.engine.archives import ArchiveError, unpacked

DATA = bytes(range(256)) * 5000


async def through(data: bytes, size: int) -> bytes:
    async def chunks():
        for start in range(0, len(data), size):
            yield data[start : start + size]

    return b"".join([piece async for piece in unpacked(chunks())])


@pytest.mark.parametrize("size", [1, 7, 65536])
async def test_plain_and_packed_come_out_the_same(size: int) -> None:
    data = DATA[:20_000] if size == 1 else DATA
    assert await through(data, size) == data
    assert await through(gzip.compress(data), size) == data


async def test_several_members_and_padding() -> None:
    assert await through(gzip.compress(b"one") + gzip.compress(b"two") + bytes(512), 5) == b"onetwo"


async def test_nothing_is_nothing() -> None:
    assert await through(b"", 1) == b""
    assert await through(b"x", 1) == b"x"


@pytest.mark.parametrize("cut", [3, 100, -1])
async def test_what_is_cut_off_is_refused(cut: int) -> None:
    with pytest.raises(ArchiveError, match="cut off"):
        await through(gzip.compress(DATA)[:cut], 64)


async def test_what_is_broken_is_refused() -> None:
    packed = bytearray(gzip.compress(DATA))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(ArchiveError):
        await through(bytes(packed), 64)
