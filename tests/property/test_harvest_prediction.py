"""What holds of every predictor, whatever a server did: bounds, care, causes before effects, servers on their own."""

import numpy as np
import pytest
from harvest_days import DAY, NOON
from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.decide.harvest.choose import PREDICTORS
from fallow.decide.harvest.history import Floats, History, history
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.predict import Predictor
from fallow.decide.harvest.windows import moving_max, moving_mean_and_sd, peak_ahead

predictors = st.sampled_from(PREDICTORS)


@st.composite
def histories(draw: st.DrawFn, servers: int = 3, at_least: int = 1) -> History:
    """A few days of walks, bursts and gaps, from one drawn seed: examples stay small."""
    steps = draw(st.integers(at_least, 3 * DAY))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    walk = np.abs(np.cumsum(rng.normal(0, draw(st.sampled_from([0.0, 0.01, 0.1])), (servers, steps)), axis=1)) % 1
    bursts = rng.random((servers, steps)) < draw(st.sampled_from([0.0, 0.02]))
    gaps = rng.random((servers, steps)) < draw(st.sampled_from([0.0, 0.1, 0.9]))
    usage: Floats = np.where(gaps, np.nan, np.where(bursts, rng.random((servers, steps)), walk))
    return history(usage, NOON + 300.0 * draw(st.integers(0, 2 * DAY)))


@given(histories(at_least=0), predictors, st.integers(1, DAY), st.integers(1, 50))
@settings(max_examples=60)
def test_predictions_are_shares_and_every_server_has_one(
    seen: History, predictor: Predictor, horizon: int, last: int
) -> None:
    peaks = predictor.peaks(seen, horizon, last)
    assert peaks.shape == (seen.servers, last)
    assert np.isfinite(peaks).all()
    assert ((peaks >= 0) & (peaks <= 1)).all()


@given(histories(), predictors, st.integers(1, 40), st.tuples(st.integers(0, 60), st.integers(0, 20)))
@settings(max_examples=80)
def test_what_comes_later_changes_nothing_of_what_was_foretold(
    seen: History, predictor: Predictor, horizon: int, around: tuple[int, int]
) -> None:
    later, earlier = min(around[0], seen.steps), around[1]
    then = predictor.peak(seen.without_newest(later), horizon)
    now = predictor.peaks(seen, horizon, earlier + 1 + later)[:, earlier]
    np.testing.assert_allclose(now, then, rtol=0, atol=1e-9)


@given(histories(servers=4), predictors)
@settings(max_examples=50)
def test_servers_are_foretold_as_if_each_were_alone(seen: History, predictor: Predictor) -> None:
    alone = [predictor.peak(history(row[None], seen.ends_at), 12)[0] for row in seen.usage]
    np.testing.assert_allclose(predictor.peak(seen, 12), alone, rtol=0, atol=1e-12)


@given(histories(), predictors, st.integers(2, 20))
@settings(max_examples=40)
def test_where_measurements_stop_a_server_is_full(seen: History, predictor: Predictor, silent: int) -> None:
    usage = np.concatenate([seen.usage, np.full((seen.servers, silent), np.nan)], axis=1)
    stopped = history(usage, seen.ends_at + silent * 300.0)
    assert (predictor.peak(stopped, 12) == 1.0).all()


@given(st.floats(0, 1), st.integers(DAY, 8 * DAY), predictors)
@settings(max_examples=40)
def test_a_constant_is_foretold_with_at_most_the_fixed_margin(value: float, steps: int, predictor: Predictor) -> None:
    (peak,) = predictor.peak(history(np.full((1, steps), value), float(NOON)), 12)
    assert value - 1e-6 <= peak <= min(max(value + 0.4, 1.1 * value), 1.0) + 1e-6


@given(st.floats(0, 0.9), st.integers(4 * DAY, 8 * DAY))
@settings(max_examples=20)
def test_the_learned_margin_of_a_constant_is_nothing_after_some_days(value: float, steps: int) -> None:
    (peak,) = LearnedMargin().peak(history(np.full((1, steps), value), float(NOON)), 12)
    assert peak == pytest.approx(value, abs=0.01) or peak == pytest.approx(value + 0.4)


@given(histories(), st.integers(1, 24))
@settings(max_examples=40)
def test_the_learned_margin_is_never_below_what_is_used_now(seen: History, horizon: int) -> None:
    now = seen.usage[:, -1]
    assert (LearnedMargin().peak(seen, horizon) >= np.where(np.isfinite(now), now, 0.0)).all()


@given(histories(), st.floats(0.1, 1.0), st.sampled_from(PREDICTORS[2:]))
@settings(max_examples=40)
def test_half_the_use_is_foretold_as_half_by_what_only_measures(
    seen: History, factor: float, predictor: Predictor
) -> None:
    enough = np.isfinite(seen.usage).sum(axis=1) >= 24
    whole, less = predictor.raw(seen, 12, 1), predictor.raw(history(seen.usage * factor, seen.ends_at), 12, 1)
    np.testing.assert_allclose(less[enough], factor * whole[enough], rtol=1e-6, atol=1e-6)


@given(histories(), st.integers(1, 60))
@settings(max_examples=40)
def test_windows_are_what_a_loop_says(seen: History, width: int) -> None:
    usage, step = seen.usage, seen.steps // 2
    window = usage[:, max(step - width + 1, 0) : step + 1]
    known = np.isfinite(window).any(axis=1)
    high, (mean, sd) = moving_max(usage, width)[:, step], moving_mean_and_sd(usage, width)
    assert (np.isfinite(high) == known).all()
    np.testing.assert_allclose(high[known], np.nanmax(window[known], axis=1))
    np.testing.assert_allclose(mean[known, step], np.nanmean(window[known], axis=1), atol=1e-9)
    np.testing.assert_allclose(sd[known, step], np.nanstd(window[known], axis=1), atol=1e-6)
    ahead = usage[:, step + 1 : step + 1 + width]
    if ahead.shape[1] == width:
        seen_ahead = np.isfinite(ahead).any(axis=1)
        peaks = peak_ahead(usage, width)[:, step]
        np.testing.assert_allclose(peaks[seen_ahead], np.nanmax(ahead[seen_ahead], axis=1))
