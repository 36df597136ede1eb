"""The report of the harvest: its sums are those of the hours, however they are cut or shuffled."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from records import NOW

from fallow.decide.harvest.report import HOUR_SECONDS, harvest_report
from fallow.model.servers import HarvestRow, LentHour

FIELDS = {
    "capacity_core_hours": "capacity_core_seconds",
    "primary_core_hours": "primary_core_seconds",
    "lent_core_hours": "lent_core_seconds",
    "used_core_hours": "used_core_seconds",
}
seconds = st.floats(0, 1e7)


@st.composite
def hours(draw: st.DrawFn) -> list[LentHour]:
    """Return records of some servers, at most one of a server and an hour; servers may share names."""
    keys = draw(st.sets(st.tuples(st.sampled_from(["s-1", "s-2", "s-3"]), st.integers(0, 30)), max_size=40))
    return [
        LentHour(
            id=f"{server}.{hour}", created_at=NOW, updated_at=NOW, server_id=server, hour=hour,
            server=draw(st.sampled_from(["east", "west"])),
            lent_core_seconds=draw(seconds), used_core_seconds=draw(seconds), over_seconds=draw(st.floats(0, 3600)),
            evictions=draw(st.integers(0, 50)), primary_core_seconds=draw(seconds),
            capacity_core_seconds=draw(seconds), replica_seconds=draw(seconds),
        )
        for server, hour in sorted(keys)
    ]  # fmt: skip


def same(one: HarvestRow, other: HarvestRow) -> bool:
    return all(
        getattr(one, name) == approx(getattr(other, name), rel=1e-9, abs=1e-9)
        for name in one.__struct_fields__
        if name != "server"
    )


@given(hours(), st.floats(0, 1e6))
def test_all_of_it_is_the_sum_of_the_records_and_of_the_rows(found: list[LentHour], price: float) -> None:
    told = harvest_report(found, 0.0, 31 * HOUR_SECONDS, price)
    for shown, kept in FIELDS.items():
        whole = math.fsum(getattr(hour, kept) for hour in found) / HOUR_SECONDS
        assert getattr(told.total, shown) == approx(whole)
        assert math.fsum(getattr(row, shown) for row in told.servers) == approx(whole)
    assert told.total.hours == len(found) == sum(row.hours for row in told.servers)
    assert told.total.evictions == sum(hour.evictions for hour in found) == sum(row.evictions for row in told.servers)
    assert told.total.replica_days == approx(math.fsum(hour.replica_seconds for hour in found) / 86400)
    assert told.saved == approx(told.total.used_core_hours * price)
    assert len(told.servers) == len({hour.server_id for hour in found})


@given(hours(), st.integers(0, 31), st.randoms(use_true_random=False))
def test_two_times_that_meet_add_up_to_one(found: list[LentHour], cut: int, chance: Random) -> None:
    shuffled = list(found)
    chance.shuffle(shuffled)
    whole = harvest_report(shuffled, 0.0, 31 * HOUR_SECONDS).total
    before = harvest_report(found, 0.0, cut * HOUR_SECONDS).total
    after = harvest_report(found, cut * HOUR_SECONDS, 31 * HOUR_SECONDS).total
    both = HarvestRow(
        server="",
        **{
            name: getattr(before, name) + getattr(after, name)
            for name in HarvestRow.__struct_fields__
            if name != "server"
        },
    )
    assert same(whole, both)


@given(hours(), st.floats(0, 31 * HOUR_SECONDS))
def test_it_begins_with_the_hour_that_since_lies_in(found: list[LentHour], since: float) -> None:
    told = harvest_report(found, since, 31 * HOUR_SECONDS)
    assert told.since <= since < told.since + HOUR_SECONDS
    assert told.total.hours == sum(hour.hour * HOUR_SECONDS >= told.since for hour in found)
