import numpy as np
import pytest
from harvest_days import DAY, NOON, constant

from fallow.decide.harvest.history import LONGEST_SECONDS, high_value, history
from fallow.decide.harvest.windows import held, lagged, moving_max, moving_mean_and_sd, peak_ahead

NAN = np.nan


def test_what_cannot_be_a_usage_was_not_measured_and_more_than_all_is_all() -> None:
    seen = history(np.array([[0.5, -0.1, np.inf, NAN, 1.7]]), float(NOON))
    np.testing.assert_array_equal(seen.usage, [[0.5, NAN, NAN, NAN, 1.0]])


@pytest.mark.parametrize(
    ("usage", "step", "says"),
    [(np.zeros(3), 300, "1 dimensions"), (np.zeros((1, 3)), 7, "divide a day"), (np.zeros((1, 3)), 0, "divide a day")],
)
def test_what_is_no_history_is_refused(usage: np.ndarray, step: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        history(usage, float(NOON), step)


def test_a_step_is_added_and_the_oldest_forgotten() -> None:
    seen = constant(0.2, days=29).add(np.array([0.9]), NOON + 300.0)
    assert seen.steps == LONGEST_SECONDS // 300
    assert seen.ends_at == NOON + 300
    np.testing.assert_array_equal(seen.usage[0, -2:], [0.2, 0.9])


def test_steps_that_passed_without_a_measurement_are_unknown() -> None:
    seen = constant(0.2, days=1).add(np.array([0.9]), NOON + 900.0)
    np.testing.assert_array_equal(seen.usage[0, -4:], [0.2, NAN, NAN, 0.9])
    assert seen.steps == DAY + 3


def test_after_a_year_of_silence_nothing_is_known_but_the_newest() -> None:
    seen = constant(0.2).add(np.array([0.9]), NOON + 365 * 86_400.0)
    assert seen.steps == LONGEST_SECONDS // 300
    assert np.isfinite(seen.usage).sum() == 1


@pytest.mark.parametrize("back", [0.0, 300.0, 86_400.0])
def test_a_clock_that_was_set_back_neither_invents_time_nor_forgets(back: float) -> None:
    before = constant(0.2, days=1, servers=2)
    seen = before.add(np.array([0.9, 0.1]), NOON - back)
    assert (seen.steps, seen.ends_at) == (before.steps, before.ends_at)
    np.testing.assert_array_equal(seen.usage[:, -1], [0.9, 0.2])


def test_the_clock_tells_the_same_number_for_the_same_time_of_day() -> None:
    clock = constant(0.2, days=2).clock
    assert clock[-1] * 300 == NOON
    assert (clock[-1] - clock[-1 - DAY]) % DAY == 0


def test_earlier_history_ends_earlier() -> None:
    seen = constant(0.2, days=1)
    assert (seen.without_newest(2).ends_at, seen.without_newest(2).steps) == (NOON - 600, DAY - 2)
    assert seen.without_newest(DAY + 5).steps == 0
    assert seen.newest(3).steps == 3


def test_the_high_value_is_the_90th_percentile_of_the_seconds() -> None:
    seconds = np.concatenate([np.full(271, 0.1), np.full(29, 1.0)])[None]
    assert high_value(seconds) == [0.1]  # 29 of 300 seconds: less than a tenth
    seconds[0, :2] = 1.0
    assert high_value(seconds) == [1.0]


def test_a_step_of_which_half_is_missing_was_not_measured() -> None:
    seconds = np.full((2, 300), 0.3)
    seconds[0, :150] = NAN
    seconds[1, :151] = NAN
    np.testing.assert_array_equal(high_value(seconds), [0.3, NAN])


def test_windows_are_blind_to_what_was_not_measured() -> None:
    values = np.array([[1.0, NAN, 3.0, 2.0, NAN, NAN, NAN]])
    np.testing.assert_array_equal(moving_max(values, 3), [[1, 1, 3, 3, 3, 2, NAN]])
    np.testing.assert_array_equal(moving_mean_and_sd(values, 2)[0], [[1, 1, 3, 2.5, 2, NAN, NAN]])
    np.testing.assert_allclose(moving_mean_and_sd(values, 2)[1], [[0, 0, 0, 0.5, 0, NAN, NAN]])
    np.testing.assert_array_equal(held(values, 1), [[1, 1, 3, 2, 2, NAN, NAN]])
    np.testing.assert_array_equal(lagged(values, 9), np.full((1, 7), NAN))


def test_the_peak_ahead_is_of_the_steps_after() -> None:
    values = np.array([[5.0, 1.0, 4.0, 2.0, 3.0]])
    np.testing.assert_array_equal(peak_ahead(values, 2), [[4, 4, 3, NAN, NAN]])
    np.testing.assert_array_equal(peak_ahead(values, 5), np.full((1, 5), NAN))
