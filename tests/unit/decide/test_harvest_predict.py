import numpy as np
import pytest
from harvest_days import DAY, HOUR, NOON, constant, nightly, noise

from fallow.decide.harvest.choose import PREDICTORS
from fallow.decide.harvest.cost import Cost, Errors
from fallow.decide.harvest.history import history
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.predict import FixedMargin, Percentile, Predictor, Sigma

NAN = np.nan
each = pytest.mark.parametrize("predictor", PREDICTORS, ids=lambda predictor: predictor.name)


@each
def test_measurements_that_stopped_are_full_not_idle(predictor: Predictor) -> None:
    usage = constant(0.1, servers=3).usage.copy()
    usage[1, -2:] = NAN
    usage[2, :] = NAN
    assert predictor.peak(history(usage, float(NOON)), HOUR)[1:].tolist() == [1.0, 1.0]


@each
def test_one_missing_step_is_not_a_stop(predictor: Predictor) -> None:
    usage = constant(0.1).usage.copy()
    usage[:, -1] = NAN
    assert predictor.peak(history(usage, float(NOON)), HOUR)[0] < 0.6


@each
@pytest.mark.parametrize("steps", [1, 5, 23])
def test_a_short_history_is_met_with_a_fixed_margin_above_the_highest(predictor: Predictor, steps: int) -> None:
    usage = np.full((1, steps), 0.2)
    usage[0, 0] = 0.3
    assert predictor.peak(history(usage, float(NOON)), HOUR) == pytest.approx([0.7])


@each
def test_without_any_history_a_server_is_full(predictor: Predictor) -> None:
    assert predictor.peak(history(np.zeros((2, 0)), float(NOON)), HOUR).tolist() == [1.0, 1.0]


@each
def test_no_servers_no_predictions(predictor: Predictor) -> None:
    assert predictor.peaks(history(np.zeros((0, DAY)), float(NOON)), HOUR, 3).shape == (0, 3)


@each
def test_steps_before_the_history_are_full(predictor: Predictor) -> None:
    peaks = predictor.peaks(constant(0.2, days=0.25), HOUR, DAY)
    assert peaks.shape == (1, DAY)
    assert (peaks[0, : DAY - DAY // 4] == 1.0).all()
    assert peaks[0, -1] < 1.0


@each
@pytest.mark.parametrize("horizon", [0, -1, DAY + 1])
def test_a_horizon_out_of_bounds_is_refused(predictor: Predictor, horizon: int) -> None:
    with pytest.raises(ValueError, match="a horizon of"):
        predictor.peak(constant(0.2), horizon)


@pytest.mark.parametrize(
    ("predictor", "expected"), [(FixedMargin(0.25), 0.45), (Sigma(5), 0.2), (Percentile(95, 1.5), 0.3)]
)
def test_a_constant_is_foretold_with_the_margin_of_each(predictor: Predictor, expected: float) -> None:
    assert predictor.peak(constant(0.2), HOUR) == pytest.approx([expected])


def test_sigma_is_mean_and_deviations_of_the_window() -> None:
    usage = noise(100, seed=3, servers=2)
    newest = usage[:, -24:]
    expected = np.clip(newest.mean(axis=1) + 1.5 * newest.std(axis=1), 0, 1)
    np.testing.assert_allclose(Sigma(1.5).peak(history(usage, float(NOON)), HOUR), expected)


def test_percentile_is_numpys_of_what_was_measured() -> None:
    usage = noise(100, seed=4, servers=3) * 0.9
    usage[2, -20:-3] = NAN
    expected = 1.1 * np.nanpercentile(usage[:, -24:], 95, axis=1)
    np.testing.assert_allclose(Percentile().peak(history(usage, float(NOON)), HOUR), np.clip(expected, 0, 1))


def test_the_learned_margin_knows_the_hour_of_a_nightly_job() -> None:
    usage = nightly(days=8)
    before_midnight = history(usage, float(NOON // 86_400 * 86_400))
    noon = history(usage[:, : -DAY // 2], float(NOON))
    assert LearnedMargin().peak(before_midnight, HOUR)[0] > 0.75
    assert LearnedMargin().peak(noon, HOUR)[0] < 0.25


def test_margins_change_on_the_hour_whenever_one_asks() -> None:
    seen = history(noise(2 * DAY, seed=9) ** 4, float(NOON + 5 * 300))
    whole = LearnedMargin().peaks(seen, HOUR, 30)[0]
    one_by_one = [LearnedMargin().peak(seen.without_newest(29 - step), HOUR)[0] for step in range(30)]
    np.testing.assert_allclose(whole, one_by_one, rtol=0, atol=1e-9)


def test_errors_of_the_same_time_of_day_count_more() -> None:
    jobs = np.where(nightly(days=8) > 0.5, 0.1 + 0.3 * (noise(8 * DAY, seed=8) > 0.9), 0.1)  # at night, now and then
    midnight = float(NOON // 86_400 * 86_400)
    seen = history(jobs, midnight)
    by_the_hour, by_no_hour = (LearnedMargin(near=near).peak(seen, HOUR)[0] for near in (10.0, 0.0))
    assert by_the_hour > by_no_hour + 0.05


def test_a_swing_is_followed_at_once_and_forgotten_slowly() -> None:
    calm = 0.1 + 0.01 * noise(8 * DAY, seed=5)
    calm[:, 3 * DAY : 4 * DAY : 30] = 0.4
    swinging = calm.copy()
    swinging[:, -HOUR:-4] = 0.5
    during = LearnedMargin().peak(history(swinging[:, :-4], NOON - 1200.0), HOUR)[0]
    after = LearnedMargin().peak(history(swinging, float(NOON)), HOUR)[0]
    assert during >= 0.5
    assert during > after > LearnedMargin().peak(history(calm, float(NOON)), HOUR)[0] + 0.05


def test_a_server_that_misses_often_learns_a_wider_margin() -> None:
    steady, jumpy = np.full(8 * DAY, 0.3), np.full(8 * DAY, 0.3)
    jumpy[::37] = 0.6
    jumpy[-30:] = 0.3  # at this moment both look the same
    foretold = LearnedMargin().peak(history(np.array([steady, jumpy]), float(NOON)), HOUR)
    assert foretold[0] == pytest.approx(0.3, abs=0.02)
    assert foretold[1] >= 0.6 - 1e-9


def test_the_least_cost_margin_is_the_least_of_all_margins() -> None:
    rng = np.random.default_rng(6)
    errors, scale, weights = rng.normal(size=(3, 40)), rng.random((3, 40)) + 0.1, rng.random(40) + 0.5
    use, cost = np.array([0.1, 0.5, 0.9]), Cost(1.5, 2.0)
    margins, costs = cost.least(Errors(errors, scale, weights, use), (0.0, 0.0))

    def priced(server: int, margin: float) -> float:
        over = np.maximum(errors[server] - margin, 0)
        each = margin * scale[server] + 1.5 * use[server] * (over > 0) + 2.0 * over * scale[server]
        return float((each * weights).sum() / weights.sum())

    for server in range(3):
        assert costs[server] == pytest.approx(priced(server, margins[server]))
        assert costs[server] <= min(priced(server, margin) for margin in np.linspace(-4, 4, 801)) + 1e-12


def test_errors_that_are_not_known_do_not_count() -> None:
    errors = np.array([[0.2, NAN, 0.1, NAN]])
    past = Errors(errors, np.ones_like(errors), np.array([1.0, 50.0, 1.0, 50.0]), np.array([1.0]))
    assert Cost(9.0, 9.0).least(past, (0.0, 0.0))[0].tolist() == [0.2]
    half = Errors(np.array([[0.9, NAN, 0.1, 0.1, 0.1]]), np.ones((1, 5)), np.ones(5), np.array([1.0]))
    assert Cost(0.1, 1.0).least(half, (0.0, 0.0))[0].tolist() == [0.1]
    nothing = Errors(np.full((1, 4), NAN), np.ones((1, 4)), past.weights, past.use)
    assert Cost().least(nothing, (0.4, 1.0))[0].tolist() == [0.4]


def test_a_dearer_violation_asks_for_a_wider_margin() -> None:
    usage = 0.2 + 0.5 * noise(8 * DAY, seed=7) ** 6
    cheap, dear = (LearnedMargin(cost=Cost(price, 1.0)) for price in (0.1, 50.0))
    seen = history(usage, float(NOON))
    assert cheap.peak(seen, 1)[0] < dear.peak(seen, 1)[0]


@pytest.mark.parametrize(("violation", "overshoot"), [(-0.1, 3.0), (2.0, 0.9)])
def test_prices_at_which_it_would_pay_to_lend_everything_are_refused(violation: float, overshoot: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and 1"):
        Cost(violation, overshoot)
