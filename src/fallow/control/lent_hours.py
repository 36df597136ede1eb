"""The loop that keeps on record, hour by hour, what servers lent; and what forgets it after a while."""

import math
import time
from collections.abc import Callable

from fallow.control.hub import Hub
from fallow.control.runner import Controller
from fallow.decide.harvest.lent_hours import Sampled, count, due_in, newest, unseen
from fallow.decide.placement.standing import replicas_on
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.servers import LentHour
from fallow.store.cache import Cache
from fallow.store.contract import Delete, Store

LOOK_SECONDS = 5.0
KEEP_SECONDS = 90 * 86400.0
MAX_KEPT = 200_000  # all records are held in memory: many servers are remembered for less long
PORTION = 100  # deletes in one commit


def lent_hours_controller(hub: Hub, cache: Cache, steady: Callable[[], float] = time.monotonic) -> Controller:
    """Return the loop; it counts on from where the one before it stopped."""
    sampled: dict[str, Sampled] = {}
    due: dict[str, float] = {}  # server id -> when it is counted next, by `steady`
    looked_at = -math.inf

    def get(id_: str) -> LentHour | None:
        found = cache.get("lent-hours", id_)
        return found if isinstance(found, LentHour) else None

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal looked_at
        at, servers = steady(), hub.servers()
        since, looked_at = at - looked_at if at - looked_at <= 2 * LOOK_SECONDS else 0.0, at
        steps: list[Step] = []
        for id_ in [id_ for id_ in due if id_ not in snapshot.servers]:
            del due[id_]
            sampled.pop(id_, None)
        for server in snapshot.servers.values():
            heard = servers.get(server.id)
            if heard is None or not heard.fresh:
                continue
            last = newest(get, server.id, now) if due.get(server.id, -math.inf) <= at else None
            held = sum(1 for _ in replicas_on(snapshot, server.id))
            seconds = since if server.id in sampled else unseen(last, now)
            seen = sampled[server.id] = sampled.get(server.id, Sampled()).more(heard.report, seconds, held)
            if due.get(server.id, -math.inf) > at:
                continue
            wait = due_in(last, now)
            if wait <= 0:
                lending = snapshot.lendings.get(server.id)
                steps.append(count(server, heard, lending.evictions if lending is not None else 0, seen, last, now))
                sampled[server.id] = Sampled()
            else:
                due[server.id] = at + wait
        return Plan(steps=steps)

    return Controller(name="lent-hours", kinds=frozenset(), every_seconds=LOOK_SECONDS, decide=decide)


async def trim_lent_hours(store: Store, cache: Cache, now: float) -> int:
    """Delete records of hours that are too old, or too many; return how many."""
    found = [record for record in cache.records("lent-hours").values() if isinstance(record, LentHour)]
    found.sort(key=lambda record: (record.hour, record.id))
    surplus = {record.id for record in found[:-MAX_KEPT]}
    oldest = (now - KEEP_SECONDS) // 3600
    gone = [record.id for record in found if record.id in surplus or record.hour < oldest]
    portion = min(PORTION, store.max_operations)
    for start in range(0, len(gone), portion):
        await store.commit((), [Delete(f"lent-hours/{id_}") for id_ in gone[start : start + portion]])
    return len(gone)
