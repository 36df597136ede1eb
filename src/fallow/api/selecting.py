"""Selectors that callers write: read, and refused with the place when they cannot be."""

from fallow.control.refusals import refuse
from fallow.decide.matching import trouble_of
from fallow.decide.selectors import SelectorError, parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.labels import Selector


def selector_in(text: str) -> Selector:
    """Read a selector. Raises Refused (400)."""
    try:
        return parse_selector(text)
    except SelectorError as error:
        raise refuse(400, "bad-selector", "Not a selector", str(error), "see docs/reference/selectors.md") from None


def usable_selector(text: str, snapshot: Snapshot) -> Selector:
    """Read a selector and look for the label sets it names. Raises Refused (400)."""
    found = selector_in(text)
    trouble = trouble_of(found, snapshot.label_sets)
    if trouble:
        raise refuse(400, "bad-selector", "Not a usable selector", trouble, "fallow label-set list shows all")
    return found
