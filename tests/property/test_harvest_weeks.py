"""What holds of the learned margin when it knows weeks, whatever a server did. Steps of an hour make weeks short."""

import numpy as np
import pytest
from harvest_days import NOON
from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.decide.harvest.choose import choose
from fallow.decide.harvest.history import LONGEST_SECONDS, Floats, History, history
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.weekly import weekly_rise

HOUR = 3600
DAY = 24
LONGEST = LONGEST_SECONDS // HOUR
OURS = LearnedMargin(gain=-1.0)  # takes the weekly form wherever it is known, so that there is something to be wrong


@st.composite
def weeks(draw: st.DrawFn, servers: int = 3) -> History:
    """Two to four weeks in which some days are busy, with noise, bursts and gaps, from one drawn seed."""
    days = draw(st.integers(15, LONGEST // DAY))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    busy = np.tile(rng.random((servers, 7)) < 0.5, 5)[:, :days]
    changed = rng.random((servers, days)) < draw(st.sampled_from([0.0, 0.1]))
    hour = np.arange(days * DAY) % DAY
    usage: Floats = 0.1 + 0.5 * np.repeat(busy ^ changed, DAY, axis=1) * ((hour >= 8) & (hour < 18))
    usage = usage + draw(st.sampled_from([0.0, 0.05])) * rng.random(usage.shape)
    usage = np.where(rng.random(usage.shape) < draw(st.sampled_from([0.0, 0.02])), rng.random(usage.shape), usage)
    usage = np.where(rng.random(usage.shape) < draw(st.sampled_from([0.0, 0.1, 0.6])), np.nan, usage)
    return history(usage[:, draw(st.integers(0, DAY)) :], NOON + HOUR * draw(st.integers(0, 7 * DAY)), HOUR)


@given(weeks(), st.integers(1, 3), st.integers(1, 8 * DAY))
@settings(max_examples=50)
def test_predictions_are_shares_above_what_is_used_now(seen: History, horizon: int, last: int) -> None:
    peaks = OURS.peaks(seen, horizon, last)
    assert peaks.shape == (seen.servers, last)
    assert ((peaks >= 0) & (peaks <= 1)).all()
    now = seen.usage[:, -last:]
    assert (peaks[:, -now.shape[1] :] >= np.where(np.isfinite(now), now, 0.0)).all()


@given(weeks(), st.integers(1, 3), st.integers(1, DAY - 1), st.integers(0, 2**32))
@settings(max_examples=50)
def test_what_comes_later_changes_nothing_of_what_was_foretold(
    seen: History, horizon: int, later: int, seed: int
) -> None:
    other = seen.usage.copy()
    other[:, -later:] = np.random.default_rng(seed).random((seen.servers, later))
    then = OURS.peaks(seen, horizon, later + 1)[:, 0]
    now = OURS.peaks(history(other, seen.ends_at, HOUR), horizon, later + 1)[:, 0]
    np.testing.assert_allclose(now, then, rtol=0, atol=1e-9)


@given(weeks(servers=4))
@settings(max_examples=40)
def test_servers_are_foretold_as_if_each_were_alone(seen: History) -> None:
    alone = [OURS.peak(history(row[None], seen.ends_at, HOUR), 1)[0] for row in seen.usage]
    np.testing.assert_allclose(OURS.peak(seen, 1), alone, rtol=0, atol=1e-9)


@given(st.floats(0, 1), st.integers(1, LONGEST), st.integers(1, 3))
@settings(max_examples=50)
def test_a_constant_is_foretold_the_same_with_and_without_weeks(value: float, steps: int, horizon: int) -> None:
    seen = history(np.full((1, steps), value), float(NOON), HOUR)
    assert LearnedMargin().peak(seen, horizon) == pytest.approx(LearnedMargin().peak(seen.newest(8 * DAY), horizon))


@given(weeks(), st.integers(0, 14 * DAY), st.integers(1, 3))
@settings(max_examples=40)
def test_less_than_two_weeks_before_tell_nothing(seen: History, steps: int, horizon: int) -> None:
    short = seen.newest(steps)
    eight = short.newest(8 * DAY)
    np.testing.assert_array_equal(OURS.peak(short, horizon), OURS.peak(eight, horizon))


@given(weeks(), st.lists(st.sampled_from([-HOUR, 0, HOUR, 2 * HOUR, -DAY * HOUR, 3 * DAY * HOUR]), max_size=6))
@settings(max_examples=40)
def test_a_clock_that_is_set_leaves_predictions_careful_and_the_history_bounded(
    seen: History, jumps: list[int]
) -> None:
    clock = seen.ends_at
    for jump in jumps:
        clock += HOUR + jump
        seen = seen.add(np.full(seen.servers, 0.7), clock)
    assert seen.steps <= LONGEST
    peaks, now = OURS.peak(seen, 1), seen.usage[:, -1]
    assert ((peaks >= np.where(np.isfinite(now), now, 0.0)) & (peaks <= 1)).all()
    assert len(choose(seen.newest(10 * DAY), 1)) == seen.servers


@given(weeks(), st.integers(1, 9 * DAY))
@settings(max_examples=40)
def test_a_weekly_rise_is_what_a_loop_says(seen: History, last: int) -> None:
    usage, week = seen.usage, 7 * DAY
    rise, spread = weekly_rise(usage, DAY, last)
    for column in {0, last // 2, last - 1}:
        step = seen.steps - last + column
        for server in range(seen.servers):
            row = {at: value for at, value in enumerate(usage[server]) if np.isfinite(value)}
            same = [row[step - back * week] for back in (1, 2, 3) if step - back * week in row]
            if len(same) < 2:
                assert np.isnan(rise[server, column]) and np.isnan(spread[server, column])
                continue
            near = [step - back * week + hour for back in (1, 2, 3) for hour in (-1, 0, 1)]
            squares = sum((row[at] - np.mean(same)) ** 2 for at in near if at in row)
            expected = squares / (sum(at in row for at in near) - 1) * (1 + 1 / len(same))
            assert rise[server, column] == max(same)
            assert spread[server, column] == pytest.approx(np.sqrt(expected))
