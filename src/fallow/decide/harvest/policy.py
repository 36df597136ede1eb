"""Changing how servers lend, and why a policy cannot be as somebody wishes."""

import msgspec

from fallow.decide.harvest import choose
from fallow.decide.harvest.hours import HoursError, window, zone
from fallow.model.server_pools import LendingChange, LendingPolicy, VmPlan, VmPlanChange

# `auto` chooses among the others by what would have been best on the server's own history.
PREDICTORS = ("auto", *(predictor.name for predictor in choose.PREDICTORS))


def changed_policy(policy: LendingPolicy, change: LendingChange) -> LendingPolicy:
    """Return a policy with what a change names; the rest stays."""
    wished = _named(change)
    if change.vms is not None:
        wished["vms"] = _changed_plan(policy.vms, change.vms)
    return msgspec.structs.replace(policy, **wished)


def _changed_plan(plan: VmPlan, change: VmPlanChange) -> VmPlan:
    return msgspec.structs.replace(plan, **_named(change))


def _named(change: msgspec.Struct) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}


def policy_trouble(policy: LendingPolicy) -> str:
    """Return why a policy cannot be kept: what contradicts itself, or names what there is not; empty: nothing."""
    return (
        policy.problem()
        or _zone_trouble(policy.timezone)
        or next((found for hours in policy.hours if (found := hours_trouble(hours))), "")
        or _predictor_trouble(policy.predictor)
    )


def _zone_trouble(name: str) -> str:
    try:
        zone(name)
    except HoursError:
        return f"there is no time zone {name[:64]!r} (examples: UTC, Europe/Berlin)"
    return ""


def _predictor_trouble(name: str) -> str:
    if name in PREDICTORS:
        return ""
    return f"there is no predictor {name[:64]!r}; there are {', '.join(PREDICTORS)}"


def hours_trouble(text: str) -> str:
    """Return what is wrong with lending hours; a span without length is refused, as one may mean all day or never."""
    try:
        window(text)
    except HoursError as error:
        return str(error)
    begin, _, end = text.rpartition(" ")[2].partition("-")
    return f"the hours {text!r} end when they begin; write 00:00-24:00 for the whole day" if begin == end else ""
