"""Labels, variables and the selectors over them.

Assigned labels come from a token or an operator and are trusted; reported labels come from the node and are not.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from fallow.model.meta import Name, Record
from fallow.model.quantities import parse_quantity, unit_of

# `$` alone would also match before a newline at the end.
KEY_PATTERN = r"^[a-z0-9A-Z]([a-z0-9A-Z._/-]{0,61}[a-z0-9A-Z])?$(?!\n)"
VALUE_PATTERN = r"^([a-z0-9A-Z]([a-z0-9A-Z._-]{0,61}[a-z0-9A-Z])?)?$(?!\n)"
LabelKey = Annotated[str, msgspec.Meta(pattern=KEY_PATTERN)]
LabelValue = Annotated[str, msgspec.Meta(pattern=VALUE_PATTERN)]
Labels = Annotated[dict[LabelKey, LabelValue], msgspec.Meta(max_length=64)]

MAX_VARIABLES = 64
MAX_VARIABLE_VALUE = 256
MAX_UNIT = 16
FLAGS = ("true", "false")
VARIABLE_TYPES = ("text", "number", "bytes", "duration", "rate", "flag")
VariableType = Literal["text", "number", "bytes", "duration", "rate", "flag"]
SelectorText = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Description = Annotated[str, msgspec.Meta(max_length=256)]

_KEY = re.compile(KEY_PATTERN)
_VALUE = re.compile(VALUE_PATTERN)

Operator = Literal["in", "notin", "exists", "absent", "gt", "ge", "lt", "le"]


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One term of a selector: `key` stands in relation `operator` to `values`.

    A key is a label's or a variable's name, as it is or with where to look before it (`label:rack`, `var:rack`,
    `node:name`); or it is a label set (`@web-east`), which exists for those that are in it.
    """

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """All requirements must hold; an empty selector matches everything."""

    requirements: tuple[Requirement, ...] = ()


class Variable(msgspec.Struct, frozen=True, kw_only=True):
    """A value a node reports about itself, such as `disk.free=120GiB`; never trusted where security hangs on it.

    `unit` is the one that `value` is written in. An agent of an earlier release tells neither type nor unit.
    """

    name: LabelKey
    value: Annotated[str, msgspec.Meta(max_length=MAX_VARIABLE_VALUE)]
    type: VariableType = "text"
    unit: Annotated[str, msgspec.Meta(max_length=MAX_UNIT)] = ""


def typed_variable(name: str, value: str, type_: str = "") -> Variable:
    """Return a variable of the given type, or of the one its value looks like. Raises ValueError, saying what is wrong.

    Only `true` and `false` look like a flag; whatever is neither that nor a quantity is text.
    """
    if type_ and type_ not in VARIABLE_TYPES:
        raise ValueError(f"{type_[:40]!r} is no type of a variable; there are {', '.join(VARIABLE_TYPES)}")
    found = parse_quantity(value)
    looks_like = found.kind if found is not None else "flag" if value in FLAGS else "text"
    chosen = type_ or looks_like
    made = Variable(
        name=name,
        value=value,
        type=chosen,  # type: ignore[arg-type]
        unit=unit_of(value) if chosen not in ("text", "flag") else "",
    )
    problem = variable_problem(made)
    if problem:
        raise ValueError(problem)
    return made


def variable_problem(variable: Variable) -> str:
    """Return what is wrong with a variable that somebody else has made; empty when it can be taken in."""
    name, value = variable.name, variable.value
    if not _KEY.match(name) or "\n" in name:
        return f"{name[:80]!r} cannot be the name of a variable: it has 1 to 63 letters, digits and . _ / -"
    if len(value) > MAX_VARIABLE_VALUE:
        return f"the variable {name} has {len(value)} characters, more than {MAX_VARIABLE_VALUE}"
    if not value.isprintable():
        return f"the value of the variable {name} has characters that cannot be printed"
    if _is_of_its_type(variable):
        return ""
    unit = f" in {variable.unit[:MAX_UNIT]!r}" if variable.unit else ""
    return f"the variable {name} is said to be {variable.type}{unit}, which {value[:40]!r} is not"


def _is_of_its_type(variable: Variable) -> bool:
    if variable.type == "text":
        return not variable.unit
    if variable.type == "flag":
        return variable.value in FLAGS and not variable.unit
    found = parse_quantity(variable.value)
    return found is not None and found.kind == variable.type and variable.unit == unit_of(variable.value)


def variables_problem(variables: Sequence[Variable]) -> str:
    """Return what is wrong with all that one member says of itself; empty when it can be taken in."""
    if len(variables) > MAX_VARIABLES:
        return f"a member has at most {MAX_VARIABLES} variables"
    names: set[str] = set()
    for variable in variables:
        if variable.name in names:
            return f"the variable {variable.name} is told twice"
        names.add(variable.name)
    return next(filter(None, map(variable_problem, variables)), "")


class LabelSet(Record, frozen=True, kw_only=True):
    """A named group of members: those that its selector picks, at every moment. Its id is its name."""

    selector: Selector
    description: str = ""
    created_by: str = ""


class LabelSetRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new label set."""

    name: Name
    selector: SelectorText
    description: Description = ""


class LabelSetChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH on a label set may change; None leaves it as it is."""

    selector: SelectorText | None = None
    description: Description | None = None


class LabelSetView(msgspec.Struct, frozen=True, kw_only=True):
    """A label set as the API shows it, with the members it picks now and what uses it."""

    name: str
    selector: str
    description: str = ""
    revision: int
    created_at: float
    created_by: str = ""
    members: tuple[str, ...] = ()  # names
    used_by: tuple[str, ...] = ()  # "deployment shop/web", "label set @east"


class RelabelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change the labels of every member that `selector` picks; in `labels` None removes one.

    With `revisions` (member id -> revision) only those members change, and of them only those that are still at it.
    """

    selector: SelectorText
    labels: Annotated[dict[str, str | None], msgspec.Meta(min_length=1, max_length=64)]
    role: Annotated[str, msgspec.Meta(max_length=16)] = ""  # only members of this role; empty: of any
    dry_run: bool = False
    revisions: Annotated[dict[str, int], msgspec.Meta(max_length=100_000)] | None = None


class RelabelItem(msgspec.Struct, frozen=True, kw_only=True):
    """One member that a relabelling picks: the labels that differ, before and after."""

    id: str
    name: str
    revision: int
    before: dict[str, str]
    after: dict[str, str]
    outcome: Literal["would-change", "changed", "unchanged", "conflict", "gone"]
    by_variables: bool = False  # picked only because of what it says of itself


class RelabelResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a relabelling did, or would do; `conflict` items were changed by others meanwhile and are left alone."""

    items: tuple[RelabelItem, ...]
    dry_run: bool
    warnings: tuple[str, ...] = ()


def is_label(key: str, value: str) -> bool:
    """Say whether `key=value` is a label we accept."""
    return bool(_KEY.match(key) and _VALUE.match(value)) and "\n" not in key + value
