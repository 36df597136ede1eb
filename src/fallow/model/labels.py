"""Labels, variables and the selectors over them.

Assigned labels come from a token or an operator and are trusted; reported labels come from the node and are not.
"""

import re
from typing import Annotated, Literal

import msgspec

# `$` alone would also match before a newline at the end.
KEY_PATTERN = r"^[a-z0-9A-Z]([a-z0-9A-Z._/-]{0,61}[a-z0-9A-Z])?$(?!\n)"
VALUE_PATTERN = r"^([a-z0-9A-Z]([a-z0-9A-Z._-]{0,61}[a-z0-9A-Z])?)?$(?!\n)"
LabelKey = Annotated[str, msgspec.Meta(pattern=KEY_PATTERN)]
LabelValue = Annotated[str, msgspec.Meta(pattern=VALUE_PATTERN)]
Labels = Annotated[dict[LabelKey, LabelValue], msgspec.Meta(max_length=64)]

_KEY = re.compile(KEY_PATTERN)
_VALUE = re.compile(VALUE_PATTERN)

Operator = Literal["in", "notin", "exists", "absent", "gt", "ge", "lt", "le"]


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One term of a selector: `key` stands in relation `operator` to `values`."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """All requirements must hold; an empty selector matches everything."""

    requirements: tuple[Requirement, ...] = ()


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """A value a node reports about itself, such as `disk.free=120GiB`; never trusted for placement."""

    name: LabelKey
    value: Annotated[str, msgspec.Meta(max_length=256)]


def is_label(key: str, value: str) -> bool:
    """Say whether `key=value` is a label we accept."""
    return bool(_KEY.match(key) and _VALUE.match(value)) and "\n" not in key + value
