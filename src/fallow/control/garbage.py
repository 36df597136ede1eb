"""The loop that forgets what nobody will ask for."""

from fallow.control.runner import Controller
from fallow.decide.garbage import sweep
from fallow.store.cache import Cache
from fallow.store.contract import Delete, Store

KEEP_EVENTS = 10_000


def garbage_controller() -> Controller:
    """Return the loop over records that are part of a snapshot."""
    return Controller(name="garbage", kinds=frozenset(), every_seconds=60.0, decide=sweep)


async def trim_events(store: Store, cache: Cache) -> int:
    """Delete the oldest events beyond KEEP_EVENTS and return how many.

    The store's revision tells their age: it grows even when the clock that gives the ids is put back.
    """
    oldest_first = sorted((record.revision, id_) for id_, record in cache.records("events").items())
    surplus = [id_ for _, id_ in oldest_first[:-KEEP_EVENTS]]
    portion = min(500, store.max_operations)
    for start in range(0, len(surplus), portion):
        await store.commit((), [Delete(f"events/{id_}") for id_ in surplus[start : start + portion]])
    return len(surplus)
