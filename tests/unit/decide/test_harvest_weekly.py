"""Weeks: idle weekends, Mondays after them, and what is not believed of too few weeks."""

import numpy as np
import pytest
from harvest_days import DAY, HOUR, MONDAY, NOON, WEEK, constant, office

from fallow.decide.harvest.history import Floats, History, history
from fallow.decide.harvest.learned import LearnedMargin
from fallow.decide.harvest.weekly import weekly_rise
from fallow.decide.harvest.windows import peak_ahead

NAN = np.nan
EIGHT_DAYS = 8 * DAY


def until(usage: Floats, day: int) -> History:
    """What was seen when so many days were over."""
    return history(usage[:, : day * DAY], MONDAY + day * 86_400.0)


def of_day(usage: Floats, day: int, weeks: bool = True) -> Floats:
    """What is foretold on a day, from 0 on, with all weeks before it or with eight days."""
    seen = until(usage, day + 1)
    return LearnedMargin().peaks(seen if weeks else seen.newest(EIGHT_DAYS), HOUR, DAY)


def above(usage: Floats, day: int, weeks: bool = True) -> float:
    """Share of the steps from 5 to 12 o'clock of a day whose peak was above what was foretold."""
    morning = slice(5 * HOUR, 12 * HOUR)
    peaks = peak_ahead(usage, HOUR)[:, day * DAY : (day + 1) * DAY]
    return float((peaks > of_day(usage, day, weeks))[:, morning].mean())


def test_an_idle_saturday_is_foretold_after_weeks_of_them() -> None:
    usage = office(29)
    opening = slice(7 * HOUR, 8 * HOUR)
    assert of_day(usage, 26)[:, opening].max() < 0.2
    assert of_day(usage, 26, weeks=False)[:, opening].mean() > 0.4


def test_a_monday_is_not_foretold_by_the_sunday_before_it() -> None:
    usage = office(30)
    opening = slice(7 * HOUR + 1, 8 * HOUR)
    assert of_day(usage, 28)[:, opening].min() > 0.55
    assert above(usage, 28) <= above(usage, 28, weeks=False)


@pytest.mark.parametrize(
    "changed",
    [{26: 1.0, 27: 1.0}, {25: 0.0}, {21: 0.0}, {14: 0.0, 21: 0.0}, dict.fromkeys(range(14, 28), 0.0)],
    ids=["worked", "long", "holiday", "two holidays", "two weeks off"],
)
def test_the_monday_after_a_changed_weekend_is_met_no_worse_than_without_weeks(changed: dict[int, float]) -> None:
    usage = office(30, changed)
    assert above(usage, 28) <= above(usage, 28, weeks=False)


def test_the_second_day_of_a_worked_weekend_is_met_as_without_weeks() -> None:
    usage = office(29, {26: 1.0, 27: 1.0})
    assert above(usage, 27) <= above(usage, 27, weeks=False)


@pytest.mark.parametrize("earlier", [13, 20, 27])
def test_after_a_change_of_clocks_no_more_is_above_than_without_weeks(earlier: int) -> None:
    usage, days = office(35, earlier=earlier), range(earlier + 1, earlier + 8)
    with_weeks, without = ([above(usage, day, weeks) for day in days if day < 35] for weeks in (True, False))
    assert np.mean(with_weeks) <= np.mean(without)


def test_two_weeks_have_to_be_seen_before_each_day_that_is_learned_from() -> None:
    usage = office(29)
    np.testing.assert_array_equal(of_day(usage, 18), of_day(usage, 18, weeks=False))
    assert (of_day(usage, 26) != of_day(usage, 26, weeks=False)).any()


def test_where_no_day_is_like_another_weeks_change_nothing() -> None:
    usage = np.random.default_rng(3).random((3, 29 * DAY)) * 0.6
    assert np.mean(of_day(usage, 28) != of_day(usage, 28, weeks=False)) < 0.05


def test_a_constant_is_the_same_with_weeks() -> None:
    seen = constant(0.3, days=29)
    np.testing.assert_array_equal(LearnedMargin().peak(seen, HOUR), LearnedMargin().peak(seen.newest(EIGHT_DAYS), HOUR))


def test_what_was_not_measured_weeks_ago_does_not_fill_a_server() -> None:
    usage = office(29)
    for week in (1, 2, 3):
        hole = 26 * DAY + 7 * HOUR - week * WEEK
        usage[:, hole : hole + 2 * HOUR] = NAN
    saturday = of_day(usage, 26)
    assert saturday[:, 8 * HOUR : 9 * HOUR].max() < 1.0
    assert saturday[:, 12 * HOUR : 13 * HOUR].max() < 0.2


def test_a_weekly_rise_is_the_most_of_up_to_three_weeks_and_needs_two() -> None:
    week, day = 7 * 24, 24
    risen = np.zeros((1, 4 * week + 1))
    now = risen.shape[1] - 1
    for back, value in ((1, 0.1), (2, 0.2), (3, 0.6), (4, 9.0)):
        risen[0, now - back * week] = value
    assert weekly_rise(risen, day, 1)[0] == pytest.approx(0.6)
    risen[0, now - 3 * week] = NAN
    assert weekly_rise(risen, day, 1)[0] == pytest.approx(0.2)
    risen[0, now - week] = NAN
    assert np.isnan(weekly_rise(risen, day, 1)).all()
    assert np.isnan(weekly_rise(np.zeros((1, 0)), day, 3)).all()


def test_fewer_weeks_weeks_that_differ_and_steep_hours_are_less_sure() -> None:
    week, day = 7 * 24, 24
    alike = np.full((4, 4 * week + 1), 0.25)
    now = alike.shape[1] - 1
    alike[1, now - week] = 0.5  # weeks differ
    alike[2, now - week - 1] = alike[2, now - 2 * week + 1] = 0.5  # an hour before, an hour after
    alike[3] = alike[1]
    alike[3, now - 3 * week - 1 : now - 3 * week + 2] = NAN
    same, differ, steep, few = weekly_rise(alike, day, 1)[1][:, 0]
    assert same == 0.0
    assert differ > 0.05 and steep > 0.05
    assert few > differ


def test_a_step_longer_than_an_hour_knows_weeks_too() -> None:
    days = np.tile([0.6, 0.6, 0.6, 0.6, 0.6, 0.1, 0.1], 5)[:29]
    usage = np.where(np.arange(29 * 8) % 8 == 3, np.repeat(days, 8), 0.1)[None]
    seen = history(usage[:, : 26 * 8 + 3], float(NOON), step_seconds=3 * 3600)
    assert LearnedMargin().peak(seen, 1) < LearnedMargin().peak(seen.newest(8 * 8), 1) - 0.2
