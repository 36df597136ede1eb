"""The loop that counts lent hours, over a real store; and what forgets them."""

import msgspec
from control_rig import storing
from records import NOW, deployment, replica
from server_records import report, server, vm

from fallow.control.hub import Hub
from fallow.control.lent_hours import KEEP_SECONDS, lent_hours_controller, trim_lent_hours
from fallow.decide.harvest.lent_hours import HOUR_SECONDS, hour_of
from fallow.model.servers import Lending, LentHour

START = hour_of(NOW) * HOUR_SECONDS


async def test_a_change_of_leader_in_the_hour_counts_nothing_twice() -> None:
    at = [0.0]
    hub = Hub(lambda: START + at[0], lambda: at[0])
    async with storing(
        server(revision=0),
        Lending(id="s-srv", created_at=0, updated_at=0, evictions=5),
        vm(node_id="n-a"),
        replica(deployment(), revision=0),
    ) as stored:
        loop = lent_hours_controller(hub, stored.cache, lambda: at[0])
        writes = 0
        for second in range(5, 2 * 3600 + 60, 5):
            at[0] = float(second)
            if second in {1000, 5000, 7195}:
                loop = lent_hours_controller(hub, stored.cache, lambda: at[0])
            if second == 4000:
                lending = stored.cache.get("lendings", "s-srv")
                await stored.write(msgspec.structs.replace(lending, evictions=7))  # type: ignore[type-var]
            hub.server_reported("s-srv", report(lent_core_seconds=4.0 * second, primary_cpus=2.0))
            applied = await stored.applier.apply(loop.decide(stored.cache.snapshot(), START + second))
            assert applied.dropped == 0
            writes += applied.committed
        found = [one for one in stored.cache.records("lent-hours").values() if isinstance(one, LentHour)]
        first, second_hour = sorted(found, key=lambda one: one.hour)[:2]
        assert 4.0 * 3590 <= first.lent_core_seconds <= 4.0 * 3605
        assert 4.0 * 3590 <= second_hour.lent_core_seconds <= 4.0 * 3605
        assert (first.evictions, second_hour.evictions) == (0, 2)
        assert second_hour.replica_seconds == second_hour.capacity_core_seconds / 16
        assert 0.9 < second_hour.capacity_core_seconds / (16 * 3600) <= 1.0
        assert writes <= 2 * (12 + 2)


async def test_where_nobody_led_for_long_nothing_is_taken_to_have_been_seen() -> None:
    at = [0.0]
    hub = Hub(lambda: START + at[0], lambda: at[0])
    async with storing(server(revision=0)) as stored:
        for second in (0.0, 1800.0, 1805.0):  # a process that leads anew each time
            at[0] = second
            hub.server_reported("s-srv", report(lent_core_seconds=4.0 * second))
            loop = lent_hours_controller(hub, stored.cache, lambda: at[0])
            await stored.applier.apply(loop.decide(stored.cache.snapshot(), START + second))
        (found,) = stored.cache.records("lent-hours").values()
        assert isinstance(found, LentHour)
        assert (found.lent_core_seconds, found.capacity_core_seconds) == (7200.0, 0.0)


async def test_a_silent_server_is_not_counted_and_a_removed_one_forgotten() -> None:
    at = [0.0]
    hub = Hub(lambda: START, lambda: at[0])
    async with storing(server(revision=0)) as stored:
        loop = lent_hours_controller(hub, stored.cache, lambda: at[0])
        assert not loop.decide(stored.cache.snapshot(), START).steps
        hub.server_reported("s-srv", report())
        at[0] = 30.0
        assert not loop.decide(stored.cache.snapshot(), START).steps
        hub.server_reported("s-srv", report())
        assert loop.decide(stored.cache.snapshot(), START).steps
        await stored.delete(stored.member("s-srv"))
        assert not loop.decide(stored.cache.snapshot(), START).steps


async def test_old_hours_are_forgotten() -> None:
    now = START
    old = hour_of(now - KEEP_SECONDS) - 1
    records = [
        LentHour(id=f"s-srv.{hour}", created_at=0, updated_at=0, server_id="s-srv", server="srv", hour=hour)
        for hour in (old, old + 2, hour_of(now))
    ]
    async with storing(*records) as stored:
        assert await trim_lent_hours(stored.store, stored.cache, now) == 1
        left, _ = await stored.store.list("lent-hours/")
        assert [item.key for item in left] == [f"lent-hours/s-srv.{old + 2}", f"lent-hours/s-srv.{hour_of(now)}"]
