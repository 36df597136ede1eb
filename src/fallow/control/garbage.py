"""The loop that forgets what nobody will ask for."""

from collections.abc import Sequence

from fallow.control.runner import Controller
from fallow.control.settings import Settings
from fallow.decide.garbage import sweep
from fallow.decide.image_garbage import forgettable
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.store.cache import Cache
from fallow.store.contract import Delete, Store

# All records are held in memory; the audit record of a busy fleet must not fill it.
MAX_AUDIT = 100_000
PORTION = 100  # deletes in one commit


def garbage_controller(settings: Settings) -> Controller:
    """Return the loop over records that are part of a snapshot."""

    def decide(snapshot: Snapshot, now: float) -> Plan:
        images = forgettable(snapshot, now, settings.keep_image_tasks_seconds)
        return Plan(steps=[*sweep(snapshot, now).steps, *images])

    return Controller(name="garbage", kinds=frozenset(), every_seconds=60.0, decide=decide)


async def trim_events(store: Store, cache: Cache, settings: Settings, now: float) -> int:
    """Delete the oldest events beyond `keep_events`, and audit entries that are too old; return how many.

    The store's revision tells their order: it grows even when the clock that gives the ids is put back.
    """
    events = sorted((record.revision, f"events/{id_}") for id_, record in cache.records("events").items())
    audit = sorted((record.revision, f"audit/{id_}") for id_, record in cache.records("audit").items())
    old = [
        f"audit/{id_}"
        for id_, record in cache.records("audit").items()
        if now - record.created_at > settings.keep_audit_seconds
    ]
    surplus = [key for _, key in (*events[: -settings.keep_events], *audit[:-MAX_AUDIT])]
    gone = list(dict.fromkeys([*surplus, *old]))
    await _delete(store, gone)
    return len(gone)


async def _delete(store: Store, keys: Sequence[str]) -> None:
    portion = min(PORTION, store.max_operations)
    for start in range(0, len(keys), portion):
        await store.commit((), [Delete(key) for key in keys[start : start + portion]])
