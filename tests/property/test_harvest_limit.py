"""What limits, offers and the pressure of primaries hold, whatever is measured."""

from hypothesis import assume, given
from hypothesis import strategies as st

from fallow.decide.harvest.offer import offered, smoothed
from fallow.decide.harvest.pressure import BANDS, LEAST, Pressure, felt, line
from fallow.decide.harvest.suppress import FLOOR_CPUS, GROW_SHARE, IGNORED_SHARE, next_limit, wanted_cpus, wanted_memory

SMALL = 1e-9
capacities = st.floats(0.5, 512)
shares = st.floats(0, 1)
moments = st.floats(0, 120)


@given(capacities, shares, st.floats(0, 1000), st.floats(0, 64), st.floats(0, 600), moments)
def test_a_limit_is_never_above_what_is_left_but_for_the_floor(capacity, ceiling, own, reserve, before, seconds):
    wanted = wanted_cpus(capacity, ceiling, own, reserve)
    limit = next_limit(before, wanted, capacity, seconds)
    assert FLOOR_CPUS - SMALL <= limit <= max(FLOOR_CPUS, min(capacity, wanted)) + SMALL
    assert wanted <= max(0.0, capacity * ceiling - own - reserve) + SMALL


@given(capacities, st.floats(0, 600), st.floats(0, 600), moments)
def test_a_limit_shrinks_at_once_and_grows_by_a_tenth_a_second_at_most(capacity, before, wanted, seconds):
    before = min(before, capacity)
    limit = next_limit(before, wanted, capacity, seconds)
    if wanted <= before:
        assert limit == max(FLOOR_CPUS, min(capacity, wanted))
    else:
        assert limit - max(FLOOR_CPUS, before) <= GROW_SHARE * capacity * min(1.0, seconds) + SMALL


@given(capacities, st.floats(0, 600), st.floats(0, 600), st.floats(0, 600), moments)
def test_who_could_have_more_never_gets_less(capacity, before, one, other, seconds):
    low, high = sorted((one, other))
    assert next_limit(before, low, capacity, seconds) <= next_limit(before, high, capacity, seconds) + SMALL


@given(capacities, st.floats(0, 1))
def test_a_limit_arrives_within_twelve_calm_seconds(capacity, share):
    limit, wanted = FLOOR_CPUS, capacity * share
    for _ in range(12):
        limit = next_limit(limit, wanted, capacity, 1.0)
    assert limit >= min(capacity, wanted) - IGNORED_SHARE * capacity - SMALL


@given(st.integers(1, 2**45), shares, st.integers(0, 2**46), st.integers(0, 2**40))
def test_memory_is_never_promised_twice(capacity, ceiling, own, reserve):
    limit = wanted_memory(capacity, ceiling, own, reserve)
    assert limit == 0 or limit + own + reserve <= capacity * ceiling + 1


@given(
    capacities, shares, st.floats(0, 1000), st.floats(0, 64), st.floats(0, 600), st.tuples(moments, st.floats(1, 1e4))
)
def test_an_offer_falls_at_once_and_rises_slowly(capacity, threshold, expected, reserve, before, times):
    seconds, rise = times
    now = offered(capacity, threshold, expected, reserve)
    assert 0 <= now <= max(0.0, capacity * threshold - expected - reserve) + SMALL
    after = smoothed(before, now, capacity, seconds, rise)
    assert after <= now
    if now > before:
        assert after - before <= capacity * seconds / rise + SMALL
    else:
        assert after == now


waits = st.lists(st.tuples(shares, shares, shares, st.floats(0, 3)), max_size=80)


@given(waits)
def test_pressure_stays_within_its_bounds(samples):
    state = Pressure()
    for waiting, busy, lent, seconds in samples:
        before = state
        state = felt(state, waiting=waiting, busy=busy, lent=lent, seconds=seconds)
        assert LEAST <= state.allowed <= 1
        assert len(state.usual) == BANDS and all(0 <= value <= 1 for value in state.usual)
        if waiting <= line(before, busy):
            assert state.allowed >= before.allowed
        if lent > 0.02:  # while something is lent, waiting never becomes usual
            assert all(after <= kept for after, kept in zip(state.usual, before.usual, strict=True))


@given(st.floats(0.1, 1), st.floats(0, 1), st.floats(0.1, 1))
def test_waiting_that_is_not_usual_shrinks_what_is_lent_to_next_to_nothing(waiting, busy, lent):
    state = Pressure()
    assume(waiting > line(state, busy))
    for _ in range(12):
        state = felt(state, waiting=waiting, busy=busy, lent=lent, seconds=1.0)
    assert state.allowed <= 0.02


@given(st.floats(0, 1), st.floats(0, 0.05), st.floats(0, 1))
def test_waiting_as_little_as_an_application_does_for_itself_changes_nothing(busy, waiting, lent):
    state = Pressure()
    for _ in range(60):
        state = felt(state, waiting=waiting, busy=busy, lent=lent, seconds=1.0)
        assert state.allowed == 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_an_application_that_always_waits_is_found_out(waiting, busy):
    state = Pressure(allowed=LEAST)
    for _ in range(120):
        state = felt(state, waiting=waiting, busy=busy, lent=0.0, seconds=1.0)
    assert state.allowed == 1
    after = felt(state, waiting=waiting, busy=busy, lent=0.5, seconds=1.0)
    assert after.allowed == 1
