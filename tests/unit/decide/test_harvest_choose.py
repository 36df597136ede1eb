import numpy as np
import pytest
from harvest_days import DAY, HOUR, NOON, constant, nightly

from fallow.decide.harvest.choose import Replayed, Rule, choose, pick
from fallow.decide.harvest.cost import Cost
from fallow.decide.harvest.history import history
from fallow.decide.harvest.predict import FixedMargin, Sigma
from fallow.decide.harvest.replay import peaks_of, score

NAN = np.nan


def test_a_score_counts_what_was_above_and_by_how_much() -> None:
    predicted = np.array([[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.9]])
    peaks = np.array([[0.4, 0.6, 0.5, NAN], [0.1, 0.5, NAN, 0.9]])
    done = score(predicted, peaks)
    assert done.steps == 6
    assert done.violations == pytest.approx(2 / 6)
    assert done.overshoot == pytest.approx(0.2)
    assert done.worst == pytest.approx(0.3)
    assert done.overshoot_p99 == pytest.approx(0.298)
    assert done.harvested == pytest.approx(1 - 2.8 / 6)
    assert done.possible == pytest.approx(1 - 3.0 / 6)


def test_nothing_to_score() -> None:
    done = score(np.ones((2, 3)), np.full((2, 3), NAN))
    assert (done.steps, done.violations, done.harvested) == (0, 0.0, 0.0)


def test_the_oracle_is_never_above_and_harvests_all_that_is_possible() -> None:
    seen = history(nightly(days=3), float(NOON))
    peaks = peaks_of(seen, HOUR, DAY)
    done = score(np.where(np.isfinite(peaks), peaks, 1.0), peaks)
    assert done.violations == 0.0
    assert done.harvested == done.possible > 0


def test_peaks_that_are_not_over_yet_are_not_known() -> None:
    peaks = peaks_of(constant(0.2, days=1), HOUR, 2 * HOUR)
    assert np.isfinite(peaks).sum() == HOUR
    assert np.isnan(peaks[0, -HOUR:]).all()


def test_a_cost_counts_violations_by_what_the_primary_uses() -> None:
    predicted, peaks = np.array([[0.5, 0.5]]), np.array([[0.6, 0.4]])
    cost = Cost(violation=2.0, overshoot=3.0)
    assert cost.of(predicted, peaks, np.array([0.5])) == pytest.approx([0.5 + (2.0 * 0.5 + 3.0 * 0.1) / 2])
    assert np.isnan(cost.of(predicted, peaks * NAN, np.array([0.5]))).all()


def test_each_server_gets_what_suits_it() -> None:
    calm = np.full((1, 8 * DAY), 0.2)
    jumpy = calm.copy()
    jumpy[0, 5::40] = 0.55
    choices = choose(
        history(np.concatenate([calm, jumpy]), float(NOON)), HOUR, predictors=(FixedMargin(), Sigma(1, window=12))
    )
    assert [choice.name for choice in choices] == ["mean+1sd", "fixed 40"]


def test_the_choice_is_explained() -> None:
    (choice,) = choose(constant(0.2), HOUR, predictors=(FixedMargin(),))
    assert choice.text == (
        "chosen: fixed 40, over 7 d: 0.0 % of steps above, worst by 0 points, 40 % harvested of 80 % possible"
    )
    assert choice.cost == pytest.approx(0.6)


def test_a_new_server_keeps_the_default_and_says_so() -> None:
    (choice,) = choose(constant(0.2, days=2 / DAY), HOUR)
    assert choice.text == "chosen: learned margin; there is nothing to replay yet"


def _replayed(costs: dict[str, float]) -> Replayed:
    foretold = {name: np.full((1, 10), cost) for name, cost in costs.items()}
    return Replayed(foretold, np.zeros((1, 10)), np.ones(1), DAY)


def test_a_little_better_is_not_enough_to_change() -> None:
    rule = Rule(gain=0.1)
    assert pick(_replayed({"a": 0.50, "b": 0.46}), ["a"], rule)[0].name == "a"
    assert pick(_replayed({"a": 0.50, "b": 0.46}), ["b"], rule)[0].name == "b"
    assert pick(_replayed({"a": 0.50, "b": 0.44}), ["a"], rule)[0].name == "b"


def test_two_that_are_about_as_good_do_not_take_turns() -> None:
    used, changes = "a", 0
    for day in range(20):
        better, worse = ("a", "b") if day % 2 else ("b", "a")
        (choice,) = pick(_replayed({better: 0.48, worse: 0.50}), [used], Rule())
        changes += choice.name != used
        used = choice.name
    assert changes == 0


def test_a_predictor_that_is_no_more_is_replaced() -> None:
    assert pick(_replayed({"a": 0.5, "b": 0.2}), ["gone"], Rule())[0].name == "b"
