import pytest

from fallow.store.contract import Batch, Change, Compacted, Item
from fallow.store.feed import Feed


def batch(revision: int, size: int = 0) -> Batch:
    return Batch(revision, (Change("k", Item("k", bytes(size), revision, revision)),))


async def no_history(after):
    raise Compacted(after + 100)


async def test_memory_is_bounded_by_number_and_by_bytes():
    feed = Feed(0, 0, keep_batches=10, keep_bytes=1010)
    for revision in range(1, 101):
        feed.publish(batch(revision, 1))
    assert (feed.oldest, feed.newest) == (91, 100)
    feed.publish(batch(101, 1000))
    assert feed.oldest >= 97
    feed.publish(batch(102, 100_000))
    assert feed.oldest == 102, "one commit is always held, however large"
    feed.publish(batch(103, 1))
    assert feed.oldest == 103


async def test_a_watch_that_is_behind_reads_history_in_pages_then_memory():
    pages = []

    async def history(after):
        pages.append(after)
        return [batch(revision) for revision in range(after + 1, min(after + 4, 101))]

    feed = Feed(0, 0, keep_batches=10, keep_bytes=10_000)
    for revision in range(1, 101):
        feed.publish(batch(revision))
    watch = feed.follow("", 80, history)
    assert [(await anext(watch)).revision for _ in range(20)] == list(range(81, 101))
    assert pages == [80, 83, 86, 89]
    feed.close()
    assert [found async for found in watch] == []


async def test_history_may_be_ahead_of_the_feed():
    """The file has a commit an instant before the loop is told; a watch may yield it then, but only once."""

    async def history(after):
        return [batch(revision) for revision in range(after + 1, 14)]

    feed = Feed(0, 0, keep_batches=2, keep_bytes=10_000)
    for revision in range(1, 11):
        feed.publish(batch(revision))
    watch = feed.follow("", 0, history)
    assert [(await anext(watch)).revision for _ in range(13)] == list(range(1, 14))
    for revision in range(11, 15):
        feed.publish(batch(revision))
    assert (await anext(watch)).revision == 14
    await watch.aclose()


async def test_holes_are_never_published():
    feed = Feed(5, 0, keep_batches=2, keep_bytes=10)
    with pytest.raises(AssertionError):
        feed.publish(batch(7))


async def test_what_history_lacks_is_compacted():
    feed = Feed(50, 0, keep_batches=2, keep_bytes=10)
    with pytest.raises(Compacted):
        await anext(feed.follow("", 3, no_history))
