"""`x-fallow`: what Compose has no word for."""

import re
from collections.abc import Callable
from typing import Any

from fallow.decide.compose.clusters import read_clusters
from fallow.decide.compose.draft import Draft
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.health import read_probe
from fallow.decide.compose.problems import shown
from fallow.decide.compose.routes import read_routes
from fallow.decide.compose.updates import read_progress
from fallow.decide.matching import untrusted_keys
from fallow.decide.selectors import SelectorError, is_set, parse_selector
from fallow.model.deployments import Preference
from fallow.model.labels import KEY_PATTERN, Selector

ARCHITECTURES = ("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x")
_OTHER_NAMES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "i386": "386"}
MAX_PER_NODE = 100_000
MAX_SPREAD = 16
MAX_PREFERENCES = 16
MAX_WEIGHT = 100

_LABEL_KEY = re.compile(KEY_PATTERN)


def read_extension(field: Field, draft: Draft) -> None:
    """Read `x-fallow` of a service."""
    dispatch(field, EXTENSION, draft)


def label_key(field: Field, text: str | None = None) -> str:
    """Return a label key as written in `field`, or the part of it given as `text`. Raises Refusal."""
    key = field.text() if text is None else text
    if not _LABEL_KEY.fullmatch(key):
        raise field.refusal(f"{shown(key)} is not a label key")
    return key


def architecture(field: Field, text: str | None = None) -> str:
    """Return an architecture as OCI names it. Raises Refusal."""
    written = (field.text() if text is None else text).lower()
    found = _OTHER_NAMES.get(written, written)
    if found not in ARCHITECTURES:
        raise field.refusal(f"{shown(written)} is not an architecture; known are {', '.join(ARCHITECTURES)}")
    return found


def add_architectures(draft: Draft, where: Field, wanted: list[str]) -> None:
    """Set the architectures the service runs on. Raises Refusal when the file names others elsewhere."""
    known = draft.placement.setdefault("architectures", tuple(dict.fromkeys(wanted)))
    if set(known) != set(wanted):
        raise where.refusal(f"names other architectures than the service does elsewhere ({', '.join(known)})")


def add_spread(draft: Draft, where: Field, keys: list[str]) -> None:
    """Add label keys whose values should hold equally many replicas. Raises Refusal when they are too many."""
    known: tuple[str, ...] = draft.placement.get("spread_by", ())
    together = tuple(dict.fromkeys((*known, *keys)))
    if len(together) > MAX_SPREAD:
        raise where.refusal(f"spreads over more than {MAX_SPREAD} labels")
    draft.placement["spread_by"] = together


def set_max_per_node(draft: Draft, where: Field) -> None:
    """Read the number of replicas that one node may hold; 0 for any."""
    wanted = where.integer(0, MAX_PER_NODE)
    if draft.placement.setdefault("max_per_node", wanted) != wanted:
        raise where.refusal("differs from what the service says elsewhere")


def _selector(field: Field, draft: Draft) -> None:
    selector = _parsed(field, field.text())
    hidden = untrusted_keys(selector)
    if hidden:
        raise field.refusal(
            f"asks for {hidden[0]}, but security may hang on a selector, so it sees assigned labels only; "
            "what nodes say of themselves filters under x-fallow.resources and ranks under x-fallow.prefer"
        )
    draft.requirements.extend(selector.requirements)


def _resources(field: Field, draft: Draft) -> None:
    draft.placement["resources"] = _parsed(field, field.text())


def _prefer(field: Field, draft: Draft) -> None:
    wishes = each(field.items_or_one(), _preference)
    if len(wishes) > MAX_PREFERENCES:
        raise field.refusal(f"has more than {MAX_PREFERENCES} items")
    draft.placement["prefer"] = tuple(wishes)


def _preference(field: Field) -> Preference:
    """Read a selector, or a mapping with one of `match`, `most` and `least`, and perhaps a `weight`."""
    if not field.is_mapping:
        return Preference(selector=_parsed(field, field.text()))
    found: dict[str, Any] = {}
    dispatch(field, _PREFERENCE, found)
    if "order" not in found:
        raise field.refusal("needs one of match, most and least")
    return Preference(**found)


def _match(field: Field, found: dict[str, Any]) -> None:
    _once(field, found, "match")
    found["selector"] = _parsed(field, field.text())


def _most(field: Field, found: dict[str, Any]) -> None:
    _once(field, found, "most")
    found["key"] = _amount_key(field)


def _least(field: Field, found: dict[str, Any]) -> None:
    _once(field, found, "least")
    found["key"] = _amount_key(field)


def _weight(field: Field, found: dict[str, Any]) -> None:
    found["weight"] = field.integer(1, MAX_WEIGHT)


def _once(field: Field, found: dict[str, Any], order: str) -> None:
    if found.setdefault("order", order) != order:
        raise field.refusal(f"stands beside {found['order']}; write two items")


def _amount_key(field: Field) -> str:
    """Return the key of an amount, as a selector writes it."""
    requirements = _parsed(field, field.text()).requirements
    if len(requirements) != 1 or requirements[0].operator != "exists" or is_set(requirements[0].key):
        raise field.refusal(f"must be a variable or a label, such as disk.free, not {shown(field.text())}")
    return requirements[0].key


def _parsed(field: Field, text: str) -> Selector:
    try:
        return parse_selector(text)
    except SelectorError as error:
        raise field.refusal(str(error)) from None


def _spread(field: Field, draft: Draft) -> None:
    add_spread(draft, field, each(field.items_or_one(), label_key))


def _clusters(field: Field, draft: Draft) -> None:
    draft.clusters = read_clusters(field)


def _strategy(field: Field, draft: Draft) -> None:
    draft.placement["strategy"] = field.choice("spread", "pack")


def _max_per_node(field: Field, draft: Draft) -> None:
    set_max_per_node(draft, field)


def _class(field: Field, draft: Draft) -> None:
    draft.placement["service_class"] = field.choice("standard", "harvest", "spot")


def _architectures(field: Field, draft: Draft) -> None:
    add_architectures(draft, field, each(field.items_or_one(), architecture))


_PREFERENCE: dict[str, Callable[[Field, dict[str, Any]], None]] = {
    "match": _match,
    "most": _most,
    "least": _least,
    "weight": _weight,
}
EXTENSION: dict[str, Callable[[Field, Draft], None]] = {
    "routes": read_routes,
    "health": read_probe,
    "selector": _selector,
    "resources": _resources,
    "prefer": _prefer,
    "spread": _spread,
    "strategy": _strategy,
    "max_per_node": _max_per_node,
    "architectures": _architectures,
    "class": _class,
    "update": read_progress,
    "clusters": _clusters,
}
