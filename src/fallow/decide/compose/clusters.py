"""`x-fallow.clusters`: how replicas are divided over member clusters."""

import re
from collections.abc import Callable
from typing import Any

from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.problems import shown
from fallow.decide.matching import untrusted_keys
from fallow.decide.selectors import SelectorError, parse_selector
from fallow.model.clusters import ClusterPolicy, ClusterSpread, Rebalance
from fallow.model.labels import KEY_PATTERN, VALUE_PATTERN, Selector
from fallow.model.meta import is_name
from fallow.model.taints import Toleration

MAX_COUNT = 100_000
MAX_NAMED = 256
MAX_GROUPS = 100
MAX_TIERS = 16
MAX_TOLERATIONS = 16
MAX_SECONDS = 86400.0

Wish = dict[str, Any]  # arguments of ClusterPolicy, and of what is in it

_LABEL_KEY, _LABEL_VALUE = re.compile(KEY_PATTERN), re.compile(VALUE_PATTERN)


def read_clusters(field: Field) -> ClusterPolicy:
    """Return the policy that `clusters` describes. Raises Refusal."""
    if not field.is_mapping:
        raise field.refusal("must be a mapping, such as {divide: weighted, weights: {east: 2, west: 1}}")
    wish: Wish = {}
    dispatch(field, _CLUSTERS, wish)
    divide = wish.get("divide", "capacity")
    if "weights" in wish and divide != "weighted":
        raise field.refusal("has weights, which count with `divide: weighted` alone")
    if divide == "duplicate" and (wish.get("min") or "spread" in wish):
        raise field.refusal("duplicates the total in every cluster, so `min` and `spread` say nothing")
    for name, least in wish.get("min", {}).items():
        if least > wish.get("max", {}).get(name, MAX_COUNT):
            raise field.refusal(f"wants at least {least} replicas in {name}, and fewer at the most")
    return ClusterPolicy(**wish)


def _divide(field: Field, wish: Wish) -> None:
    wish["divide"] = field.choice("weighted", "capacity", "aggregate", "duplicate")


def _where(field: Field, wish: Wish) -> None:
    wish["where"] = _selector(field)


def _weights(field: Field, wish: Wish) -> None:
    wish["weights"] = _by_name(field)
    if wish["weights"] and not any(wish["weights"].values()):
        raise field.refusal("must give at least one cluster a weight above 0")


def _min(field: Field, wish: Wish) -> None:
    wish["min"] = _by_name(field)


def _max(field: Field, wish: Wish) -> None:
    wish["max"] = _by_name(field)


def _by_name(field: Field) -> dict[str, int]:
    """Read a mapping of clusters' names to whole numbers."""
    found: dict[str, int] = {}
    entries = field.entries()
    if len(entries) > MAX_NAMED:
        raise field.refusal(f"names more than {MAX_NAMED} clusters")
    for name, value in entries:
        if not is_name(name):
            raise value.refusal(f"{shown(name)} is not the name of a cluster")
        found[name] = value.integer(0, MAX_COUNT)
    return found


def _spread(field: Field, wish: Wish) -> None:
    """Read a label, whose values are to be two at least, or a mapping with `label` and `min_groups`."""
    if not field.is_mapping:
        wish["spread"] = ClusterSpread(label=_label(field), min_groups=2)
        return
    found: Wish = {"min_groups": 2}
    dispatch(field, {"label": _spread_label, "min_groups": _min_groups}, found)
    if "label" not in found:
        raise field.refusal("needs `label`, whose values are the groups")
    wish["spread"] = ClusterSpread(**found)


def _spread_label(field: Field, found: Wish) -> None:
    found["label"] = _label(field)


def _min_groups(field: Field, found: Wish) -> None:
    found["min_groups"] = field.integer(1, MAX_GROUPS)


def _fallback(field: Field, wish: Wish) -> None:
    groups = each(field.items(), _selector)
    if len(groups) > MAX_TIERS:
        raise field.refusal(f"has more than {MAX_TIERS} groups")
    wish["fallback"] = tuple(groups)


def _tolerate(field: Field, wish: Wish) -> None:
    found = each(field.items_or_one(), _toleration)
    if len(found) > MAX_TOLERATIONS:
        raise field.refusal(f"has more than {MAX_TOLERATIONS} items")
    wish["tolerate"] = tuple(found)


def _toleration(field: Field) -> Toleration:
    """Read `KEY` or `KEY=VALUE`."""
    key, equals, value = field.text().partition("=")
    if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
        raise field.refusal(f"must be KEY or KEY=VALUE of a taint, not {shown(field.text())}")
    return Toleration(key=key, value=value if equals else None)


def _rebalance(field: Field, wish: Wish) -> None:
    """Read true or false, or a mapping with `after`, `at_once` and `percent`."""
    if not field.is_mapping:
        wish["rebalance"] = Rebalance() if field.boolean() else None
        return
    found: Wish = {}
    dispatch(field, {"after": _after, "at_once": _at_once, "percent": _percent}, found)
    if "at_once" in found and "percent" in found:
        raise field.refusal("says how much moves at a time twice; write `at_once` or `percent`")
    wish["rebalance"] = Rebalance(**found)


def _after(field: Field, found: Wish) -> None:
    found["after_seconds"] = field.seconds(0, MAX_SECONDS)


def _at_once(field: Field, found: Wish) -> None:
    found["at_once"] = field.integer(1, MAX_COUNT)


def _percent(field: Field, found: Wish) -> None:
    found["percent"] = field.integer(1, 100)


def _fence(field: Field, wish: Wish) -> None:
    wish["fence_seconds"] = field.seconds(0, MAX_SECONDS)


def _floor(field: Field, wish: Wish) -> None:
    wish["floor"] = field.integer(0, MAX_COUNT)


def _selector(field: Field) -> Selector:
    try:
        found = parse_selector(field.text())
    except SelectorError as error:
        raise field.refusal(str(error)) from None
    hidden = untrusted_keys(found)
    if hidden:
        raise field.refusal(f"asks for {hidden[0]}; of a cluster only its labels and its `name` are known")
    return found


def _label(field: Field) -> str:
    if not _LABEL_KEY.fullmatch(field.text()):
        raise field.refusal(f"{shown(field.text())} is not a label key")
    return field.text()


_CLUSTERS: dict[str, Callable[[Field, Wish], None]] = {
    "divide": _divide,
    "where": _where,
    "weights": _weights,
    "min": _min,
    "max": _max,
    "spread": _spread,
    "fallback": _fallback,
    "tolerate": _tolerate,
    "rebalance": _rebalance,
    "fence": _fence,
    "floor": _floor,
}
