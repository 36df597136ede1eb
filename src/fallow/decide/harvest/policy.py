"""Changing how servers lend, and why a policy cannot be as somebody wishes."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from fallow.model.server_pools import LendingChange, LendingPolicy, VmPlan, VmPlanChange

# `auto` chooses among the others by what would have been best on the server's own history.
PREDICTORS = ("auto", "learned margin", "fixed 40", "mean+3sd", "mean+5sd", "1.1*p95")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


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
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder of zones
        return f"there is no time zone {name[:64]!r} (examples: UTC, Europe/Berlin)"
    return ""


def _predictor_trouble(name: str) -> str:
    if name in PREDICTORS:
        return ""
    return f"there is no predictor {name[:64]!r}; there are {', '.join(PREDICTORS)}"


def hours_trouble(text: str) -> str:
    """Return what is wrong with lending hours that are well-formed: they name a day twice, or no time at all."""
    days, _, times = text.rpartition(" ")
    begin, _, end = times.partition("-")
    if begin == end:
        return f"the hours {text!r} begin when they end; write 00:00-24:00 for the whole day"
    if any(part.count("-") > 1 for part in days.split(",")):
        return f"the hours {text!r} have a range of days with more than two ends"
    named = [day for part in days.split(",") if part for day in _days(part)]
    twice = next((day for day in named if named.count(day) > 1), "")
    return f"the hours {text!r} name {twice} twice" if twice else ""


def _days(part: str) -> list[str]:
    """Return the days of `mon`, `mon-fri` or `fri-mon`."""
    first, _, last = part.partition("-")
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return [_DAYS[number % 7] for number in range(begin, end + 1 + (7 if end < begin else 0))]
