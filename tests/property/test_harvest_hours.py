"""Hours against a slow oracle that walks minute by minute, over midnight, the week and changes of the clock."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fallow.decide.harvest.hours import HoursError, lends_at, next_change

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
MONDAY = datetime(2026, 3, 23, tzinfo=ZoneInfo("UTC"))  # Europe's clocks change on the Sunday after it

clock = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda at: f"{at[0]:02}:{at[1]:02}")
day = st.sampled_from(DAYS)
days = st.one_of(
    st.just(""),
    st.lists(day, min_size=1, max_size=3).map(lambda found: ",".join(found) + " "),
    st.tuples(day, day).map(lambda pair: f"{pair[0]}-{pair[1]} "),
)
windows = st.tuples(days, clock, st.one_of(clock, st.just("24:00"))).map(lambda one: f"{one[0]}{one[1]}-{one[2]}")
moments = st.floats(0, 3 * 7 * 86400).map(lambda after: MONDAY.timestamp() + after)


def named(text):
    """Return the days that a window names."""
    if not text:
        return set(DAYS)
    found = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        at = DAYS.index(first)
        found.add(DAYS[at])
        while DAYS[at] != (last or first):
            at = (at + 1) % 7
            found.add(DAYS[at])
    return found


def oracle(text, zone, now):
    """Say whether a window that began on this day or the one before covers the wall clock's minute."""
    days_text, _, span = text.rpartition(" ")
    begin, _, end = span.partition("-")
    local = datetime.fromtimestamp(now, ZoneInfo(zone)).replace(second=0, microsecond=0, tzinfo=None, fold=0)
    for back in (0, 1):
        date = (local - timedelta(days=back)).replace(hour=0, minute=0)
        if DAYS[date.weekday()] not in named(days_text):
            continue
        hour, minute = map(int, begin.split(":"))
        first = date + timedelta(hours=hour, minutes=minute)
        hour, minute = map(int, end.split(":"))
        last = date + timedelta(hours=hour, minutes=minute)
        if last <= first:
            last += timedelta(days=1)
        if first <= local < last:
            return True
    return False


@given(st.lists(windows, min_size=1, max_size=3).map(tuple), st.sampled_from(ZONES), moments)
@example(("20:00-07:00",), "Europe/Berlin", 1774746000.0)  # the night in which an hour is left out
@example(("fri 20:00-07:00",), "UTC", MONDAY.timestamp())
@example(("00:00-24:00",), "UTC", 1774746000.0)
@example(("08:00-08:00",), "UTC", 1774746000.0)
def test_hours_are_those_of_the_wall_clock(hours, zone, now):
    assert lends_at(hours, zone, now) == any(oracle(text, zone, now) for text in hours)


@given(st.lists(windows, min_size=1, max_size=2).map(tuple), st.sampled_from(ZONES), moments)
def test_nothing_changes_before_the_next_change(hours, zone, now):
    lends, change = lends_at(hours, zone, now), next_change(hours, zone, now)
    until = change if change is not None else now + 8 * 86400
    assert until > now
    if change is not None:
        assert lends_at(hours, zone, change) != lends
    for step in range(1, 60):
        assert lends_at(hours, zone, now + (until - now) * step / 61) == lends


@given(st.sampled_from(DAYS), clock, clock, moments)
def test_a_window_and_its_complement_share_the_week_out(name, first, last, now):
    """`mon 10:00-12:00` and all the rest of the week are never both right, nor both wrong."""
    if first >= last:
        return
    rest = tuple(f"{other} 00:00-24:00" for other in DAYS if other != name)
    around = (f"{name} {last}-24:00", *((f"{name} 00:00-{first}",) if first != "00:00" else ()))
    assert lends_at((f"{name} {first}-{last}",), "UTC", now) != lends_at(rest + around, "UTC", now)


def test_without_hours_a_server_always_lends():
    assert lends_at((), "nowhere at all", 0.0)
    assert next_change((), "UTC", 0.0) is None


@pytest.mark.parametrize(
    ("hours", "zone"), [(("20:00-07:00",), "Mars/Olympus"), (("night",), "UTC"), (("x 1:0-",), "UTC")]
)
def test_what_cannot_be_read_is_told(hours, zone):
    with pytest.raises(HoursError):
        lends_at(hours, zone, 0.0)
