"""Changing how servers lend, and what a policy may not be."""

import pytest

from fallow.cli import lending
from fallow.decide.harvest.policy import PREDICTORS, changed_policy, hours_trouble, policy_trouble
from fallow.model.server_pools import LendingChange, LendingPolicy, VmPlan, VmPlanChange


def test_what_is_not_named_stays() -> None:
    before = LendingPolicy(cpu_threshold=0.5, hours=("20:00-07:00",), vms=VmPlan(count=3, cpus=2.0))
    after = changed_policy(before, LendingChange(lends=False, vms=VmPlanChange(count=0)))
    assert after == LendingPolicy(lends=False, cpu_threshold=0.5, hours=("20:00-07:00",), vms=VmPlan(count=0, cpus=2.0))
    assert changed_policy(before, LendingChange(hours=(), reserve_cpus=0)).hours == ()
    assert changed_policy(before, LendingChange()) == before


def test_a_policy_as_it_is_at_first_is_fine() -> None:
    assert policy_trouble(LendingPolicy()) == ""


@pytest.mark.parametrize(
    "text", ["20:00-07:00", "00:00-24:00", "mon 08:00-09:00", "mon-fri,sun 20:00-07:00", "sat-mon 00:00-24:00"]
)
def test_hours_that_can_be(text: str) -> None:
    assert hours_trouble(text) == ""


@pytest.mark.parametrize("text", ["00:00-00:00", "mon-tue-wed 08:00-09:00", "never"])
def test_hours_that_cannot_be(text: str) -> None:
    assert text in hours_trouble(text)


def test_completion_offers_the_predictors_there_are() -> None:
    assert lending.PREDICTORS == PREDICTORS
