"""Lent hours: nothing is counted twice, whoever leads, whenever an agent starts anew and whatever a clock does."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records import NOW
from server_records import heard, server

from fallow.decide.harvest.lent_hours import COUNT_SECONDS, HOUR_SECONDS, Sampled, count, due_in, hour_of, newest
from fallow.model.servers import LentHour

START = hour_of(NOW) * HOUR_SECONDS
CORES = 10.0  # lent and used all the time, of 16


class Fleet:
    """A server whose agent sums up, records as they are stored, and whoever leads."""

    def __init__(self, now: float = START) -> None:
        self.now, self.run, self.since, self.evictions = now, 1, now, 0
        self.records: dict[str, LentHour] = {}
        self.sampled = Sampled()

    def report(self) -> Any:
        lent = (self.now - self.since) * CORES
        return heard(
            run=f"r{self.run}", lent_core_seconds=lent, used_core_seconds=lent / 2, over_seconds=lent / 1000,
            primary_cpus=2.0,
        )  # fmt: skip

    def look(self, seconds: float, clock: float = 0.0, lost: bool = False) -> None:
        """Let time pass and count if it is due, by a clock that is off; `lost`: the write is not made."""
        self.now += seconds
        now = self.now + clock
        self.sampled = self.sampled.more(self.report().report, seconds, 3)
        last = newest(self.records.get, "s-srv", now)
        if due_in(last, now) > 0:
            return
        step = count(server(), self.report(), self.evictions, self.sampled, last, now)
        self.sampled = Sampled()
        for guard in step.guards:
            assert self.records[guard.id] == guard
        if not lost:
            for record in step.puts:
                assert isinstance(record, LentHour)
                assert record.revision == (1 if record.id in self.records else 0)
                self.records[record.id] = msgspec.structs.replace(record, revision=1)

    def restart(self) -> None:
        self.run, self.since = self.run + 1, self.now

    def total(self, field: str = "lent_core_seconds") -> float:
        return sum(getattr(record, field) for record in self.records.values())


EVENTS = st.lists(
    st.tuples(
        st.floats(0.5, 900.0),
        st.sampled_from(["look", "look", "look", "restart", "leader", "lost", "evicted"]),
        st.sampled_from([0.0, 0.0, 0.0, 40.0, -40.0, 3700.0, -3700.0]),
    ),
    max_size=60,
)


APART = [(900.0, "look", 0.0)] * 3 + [(798.0, "look", 0.0), (100.0, "evicted", 3700.0), (1.0, "look", -3700.0)]


@settings(deadline=None)
@given(EVENTS)
@example(APART)  # one clock an hour ahead, the next an hour behind
def test_nothing_is_counted_twice(events: list[tuple[float, str, float]]) -> None:
    fleet = Fleet()
    for seconds, what, clock in events:
        if what == "restart":
            fleet.restart()
        elif what == "leader":
            fleet.sampled = Sampled()
        elif what == "evicted":
            fleet.evictions += 3
        fleet.look(seconds, clock, lost=what == "lost")
        passed = fleet.now - START
        assert fleet.total() <= passed * CORES * 1.0001
        assert fleet.total("used_core_seconds") <= passed * CORES / 2 * 1.0001
        assert fleet.total("capacity_core_seconds") <= passed * 16.0 * 1.0001
        assert fleet.total("evictions") <= fleet.evictions


@pytest.mark.parametrize("change_of_leader", [False, True])
def test_a_day_is_counted_whole_and_each_hour_in_its_own(change_of_leader: bool) -> None:
    fleet = Fleet()
    fleet.look(1.0)
    for second in range(5, 24 * 3600, 5):
        if change_of_leader and second % 7777 < 5:
            fleet.sampled = Sampled()
        fleet.look(5.0)
    assert len(fleet.records) == 24
    assert fleet.total() == pytest.approx(24 * 3600 * CORES, rel=0.005)
    assert fleet.total("over_seconds") == pytest.approx(24 * 3600 * CORES / 1000, rel=0.005)
    share = fleet.total("capacity_core_seconds") / (24 * 3600 * 16.0)
    assert (0.95 if change_of_leader else 0.996) < share <= 1.0
    assert fleet.total("replica_seconds") == pytest.approx(fleet.total("capacity_core_seconds") / 16 * 3)
    assert fleet.total("primary_core_seconds") == pytest.approx(fleet.total("capacity_core_seconds") / 8)
    hours = sorted(fleet.records.values(), key=lambda record: record.hour)
    for record in hours[1:-1]:
        assert record.lent_core_seconds == pytest.approx(3600 * CORES, rel=0.01)


def test_a_new_run_counts_from_zero_and_the_first_time_only_a_mark_is_made() -> None:
    fleet = Fleet()
    fleet.now += 50_000.0  # it has run for long before anybody counted
    fleet.look(1.0)
    assert (len(fleet.records), fleet.total()) == (1, 0.0)
    fleet.look(COUNT_SECONDS)
    assert fleet.total() == pytest.approx(COUNT_SECONDS * CORES)
    fleet.restart()
    fleet.look(COUNT_SECONDS)
    assert fleet.total() == pytest.approx(2 * COUNT_SECONDS * CORES)


def test_sums_that_a_server_cannot_have_lent_are_not_believed() -> None:
    fleet = Fleet()
    fleet.look(1.0)
    fleet.since -= 1e9
    fleet.look(COUNT_SECONDS)
    assert fleet.total() <= 16.0 * COUNT_SECONDS * 1.02
