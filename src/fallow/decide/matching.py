"""Whether a selector picks a member: by assigned labels alone, or by all that is known of it.

Where security hangs on the answer - where a deployment may run - only assigned labels are seen: a term that asks for
anything else (`var:`, `node:`), or for a label set that asks for it, never holds there, and neither does its negation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fallow.decide.selectors import SET, is_set, key_parts
from fallow.model.labels import LabelSet, Requirement, Selector
from fallow.model.quantities import comparable, parse_quantity, same_value

MAX_DEPTH = 8  # label sets within label sets

_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of one member. With `trusted` its assigned labels are all there is."""

    labels: Mapping[str, str]
    variables: Mapping[str, str] = field(default_factory=dict)
    node: Mapping[str, str] = field(default_factory=dict)  # name, id, role, state, arch
    trusted: bool = False

    def value(self, key: str) -> str | None:
        """Return what a key of a selector stands for; a label wins over a variable of the same name."""
        scope, name = key_parts(key)
        if scope == "label":
            return self.labels.get(name)
        if scope == "var":
            return self.variables.get(name)
        if scope == "node":
            return self.node.get(name)
        found = self.labels.get(name)
        return self.variables.get(name) if found is None else found

    def sees(self, key: str) -> bool:
        """Say whether a key may be asked for at all."""
        return not self.trusted or key_parts(key)[0] in ("", "label")


def matches(selector: Selector, labels: Mapping[str, str], sets: Mapping[str, LabelSet] | None = None) -> bool:
    """Say whether every requirement holds for assigned labels; a selector with a set that cannot be told holds never.

    A label that is no quantity fulfils no comparison.
    """
    return picks(selector, Sight(labels, _NOTHING, _NOTHING, trusted=True), sets)


def picks(selector: Selector, sight: Sight, sets: Mapping[str, LabelSet] | None = None) -> bool:
    """Say whether every requirement holds for what is seen of a member."""
    known = sets or {}
    if any(is_set(each.key) for each in selector.requirements) and trouble_of(selector, known, sight.trusted):
        return False
    return _all_hold(selector, sight, known, {})


def trouble_of(
    selector: Selector, sets: Mapping[str, LabelSet], trusted: bool = False, known: dict[str, int] | None = None
) -> str:
    """Return why the label sets that a selector names cannot be told; empty when they can.

    `known` remembers, from call to call, what was found of the same `sets` with the same `trusted`.
    """
    return _trouble(selector, sets, trusted, (), {} if known is None else known)


def sets_named(selector: Selector) -> tuple[str, ...]:
    """Return the names of the label sets that a selector asks for itself, each once."""
    return tuple(dict.fromkeys(each.key.removeprefix(SET) for each in selector.requirements if is_set(each.key)))


def untrusted_keys(selector: Selector) -> tuple[str, ...]:
    """Return the keys of a selector that no assigned label can answer."""
    return tuple(
        each.key
        for each in selector.requirements
        if not is_set(each.key) and key_parts(each.key)[0] not in ("", "label")
    )


def _trouble(
    selector: Selector,
    sets: Mapping[str, LabelSet],
    trusted: bool,
    above: tuple[str, ...],
    known: dict[str, int],
) -> str:
    """Look at every set once; `known` says how deep those lie that are fit, themselves included."""
    for name in sets_named(selector):
        if name in above:
            return f"the label sets {' -> '.join(f'@{each}' for each in (*above[above.index(name) :], name))} go round"
        found = sets.get(name)
        if found is None:
            return f"there is no label set @{name}"
        if len(above) + known.get(name, 1) > MAX_DEPTH:
            return f"label sets lie more than {MAX_DEPTH} deep in each other, at @{name}"
        if name in known:
            continue
        if trusted and (hidden := untrusted_keys(found.selector)):
            return f"the label set @{name} asks for {hidden[0]}, which is no assigned label"
        trouble = _trouble(found.selector, sets, trusted, (*above, name), known)
        if trouble:
            return trouble
        known[name] = 1 + max((known[each] for each in sets_named(found.selector)), default=0)
    return ""


def _all_hold(selector: Selector, sight: Sight, sets: Mapping[str, LabelSet], known: dict[str, bool]) -> bool:
    return all(_holds(each, sight, sets, known) for each in selector.requirements)


def _holds(requirement: Requirement, sight: Sight, sets: Mapping[str, LabelSet], known: dict[str, bool]) -> bool:
    key = requirement.key
    if is_set(key):
        name = key.removeprefix(SET)
        if name not in known:
            known[name] = _all_hold(sets[name].selector, sight, sets, known)
        return known[name] is (requirement.operator == "exists")
    return sight.sees(key) and holds(requirement, sight.value(key))


def holds(requirement: Requirement, value: str | None) -> bool:
    """Say whether one requirement holds for a value, None where there is none."""
    values = requirement.values
    match requirement.operator:
        case "in":
            return value is not None and any(same_value(value, each) for each in values)
        case "notin":
            return value is None or not any(same_value(value, each) for each in values)
        case "exists":
            return value is not None
        case "absent":
            return value is None
        case operator:
            have = None if value is None else parse_quantity(value)
            want = parse_quantity(values[0])
            if have is None or want is None or not comparable(have, want):
                return False
            amount, bound = have.amount, want.amount
            return {"gt": amount > bound, "ge": amount >= bound, "lt": amount < bound, "le": amount <= bound}[operator]
