"""The cache of blobs: what is whole, what arrives, what has to go."""

import pytest

from fallow.drivers.blobs import BlobCache, BlobError, CacheFull
from testbed.blobs import digest_of

BODY = b"0123456789"


@pytest.fixture
def cache(tmp_path) -> BlobCache:
    return BlobCache(tmp_path / "blobs", max_bytes=25, max_age_seconds=100, keep_free_bytes=0)


async def put(cache: BlobCache, body: bytes) -> str:
    growing = await cache.begin(digest_of(body), len(body))
    await growing.append(body)
    cache.finish(growing)
    return digest_of(body)


async def test_the_last_byte_is_given_only_once_all_are_known_to_be_right(cache: BlobCache) -> None:
    growing = await cache.begin(digest_of(BODY), len(BODY))
    await growing.append(b"x" + BODY[1:])
    reader = growing.read(alive_seconds=0.01)
    assert await anext(reader) == b"x" + BODY[1:-1]
    assert await anext(reader) == b""
    with pytest.raises(BlobError, match="is not") as wrong:
        cache.finish(growing)
    assert wrong.value.void
    with pytest.raises(BlobError) as told:
        await anext(reader)
    assert told.value.void
    assert not cache.has(digest_of(BODY))


async def test_more_than_there_is_and_the_same_twice_are_refused(cache: BlobCache) -> None:
    growing = await cache.begin(digest_of(BODY), len(BODY))
    with pytest.raises(BlobError, match="more bytes"):
        await growing.append(BODY + b"0")
    with pytest.raises(BlobError, match="already"):
        await cache.begin(digest_of(BODY), len(BODY))


async def test_the_least_lately_used_goes_first_and_what_has_no_room_is_refused(cache: BlobCache) -> None:
    now = [1000.0]
    cache._clock = lambda: now[0]
    first, second = await put(cache, b"1" * 10), await put(cache, b"2" * 10)
    now[0] += 1
    assert await cache.stored(first)
    third = await put(cache, b"3" * 10)
    assert set(cache.whole) == {first, third}
    assert not cache.has(second)
    with pytest.raises(CacheFull):
        await cache.begin(digest_of(b"4"), 26)
    arriving = await cache.begin(digest_of(b"5" * 20), 20)
    with pytest.raises(CacheFull):
        await cache.begin(digest_of(b"6" * 20), 20)
    assert cache.used_bytes == arriving.size_bytes


async def test_what_is_not_used_for_long_goes_with_its_leftovers(cache: BlobCache, tmp_path) -> None:
    await put(cache, BODY)
    abandoned = await cache.begin(digest_of(b"x"), 1)
    cache.abandon(abandoned, BlobError("failed", "for now"), keep=True)
    assert list((tmp_path / "blobs/partial").iterdir())
    cache._clock = lambda: 2e12
    cache.clean()
    assert not cache.whole
    assert not list((tmp_path / "blobs/partial").iterdir())


async def test_files_that_are_not_ours_are_left_alone(tmp_path) -> None:
    folder = tmp_path / "blobs"
    BlobCache(folder)
    (folder / "whole" / "README").write_text("x")
    (folder / "whole" / ("0" * 64)).symlink_to("/etc/passwd")
    assert BlobCache(folder).whole == ()
