"""`x-fallow`: what Compose has no word for."""

import re
from collections.abc import Callable

from fallow.decide.compose.draft import Draft
from fallow.decide.compose.fields import Field, dispatch, each
from fallow.decide.compose.health import read_probe
from fallow.decide.compose.problems import shown
from fallow.decide.compose.routes import read_routes
from fallow.decide.compose.updates import read_progress
from fallow.decide.selectors import SelectorError, parse_selector
from fallow.model.labels import KEY_PATTERN

ARCHITECTURES = ("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x")
_OTHER_NAMES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "i386": "386"}
MAX_PER_NODE = 100_000
MAX_SPREAD = 16

_LABEL_KEY = re.compile(KEY_PATTERN)


def read_extension(field: Field, draft: Draft) -> None:
    """Read `x-fallow` of a service."""
    dispatch(field, _EXTENSION, draft)


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
    try:
        selector = parse_selector(field.text())
    except SelectorError as error:
        raise field.refusal(str(error)) from None
    draft.requirements.extend(selector.requirements)


def _spread(field: Field, draft: Draft) -> None:
    add_spread(draft, field, each(field.items_or_one(), label_key))


def _strategy(field: Field, draft: Draft) -> None:
    draft.placement["strategy"] = field.choice("spread", "pack")


def _max_per_node(field: Field, draft: Draft) -> None:
    set_max_per_node(draft, field)


def _architectures(field: Field, draft: Draft) -> None:
    add_architectures(draft, field, each(field.items_or_one(), architecture))


_EXTENSION: dict[str, Callable[[Field, Draft], None]] = {
    "routes": read_routes,
    "health": read_probe,
    "selector": _selector,
    "spread": _spread,
    "strategy": _strategy,
    "max_per_node": _max_per_node,
    "architectures": _architectures,
    "update": read_progress,
}
