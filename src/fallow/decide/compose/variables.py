"""Variables in values, as the Compose specification writes them.

`$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:?message}`, `${NAME?message}`, `${NAME:+other}`,
`${NAME+other}` and `$$` for one `$`; what follows an operator may hold variables again. With the colon an empty
variable counts as unset. Values are replaced after the YAML is read, so a variable cannot change the structure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fallow.decide.compose.document import MappingNode, Node, ScalarNode, SequenceNode, child_path, forbidden_character
from fallow.decide.compose.problems import Problems, Refusal

MAX_CHARACTERS = 8 << 20  # of everything that is interpolated in one file
MAX_DEPTH = 16  # of defaults within defaults

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
_LITERAL = re.compile(r"[^$]*")
_LITERAL_INSIDE = re.compile(r"[^$}]*")


@dataclass(frozen=True, slots=True)
class _Reference:
    """`${name}` with an operator ("" for none) and what stands behind it."""

    name: str
    operator: str = ""
    parts: "tuple[str | _Reference, ...]" = ()


@dataclass(slots=True)
class Interpolator:
    """Replaces variables and remembers what was amiss: `missing` are names without value and without default."""

    variables: Mapping[str, str]
    missing: list[str] = field(default_factory=list)
    _known: set[str] = field(default_factory=set)  # what is in `missing`: a file may name a great many
    _left: int = MAX_CHARACTERS

    def text(self, text: str) -> str:
        """Return `text` with its variables replaced. Raises Refusal."""
        if "$" not in text:
            return text
        return self._join(_Parser(text).parts())

    def _join(self, parts: "tuple[str | _Reference, ...]") -> str:
        found: list[str] = []
        for part in parts:
            piece = part if isinstance(part, str) else self._value(part)
            self._left -= len(piece)
            if self._left < 0:
                raise Refusal(
                    f"with its variables replaced the file has more than {MAX_CHARACTERS >> 20} Mi characters"
                )
            found.append(piece)
        return "".join(found)

    def _value(self, reference: _Reference) -> str:
        value = self.variables.get(reference.name)
        has = bool(value) if reference.operator.startswith(":") else value is not None
        match reference.operator[-1:]:
            case "-":
                return value if has and value is not None else self._join(reference.parts)
            case "+":
                return self._join(reference.parts) if has else ""
            case "?":
                if has and value is not None:
                    return value
                raise Refusal(f"the variable {reference.name} is required: {self._join(reference.parts) or 'not set'}")
        if value is None and reference.name not in self._known:
            self._known.add(reference.name)
            self.missing.append(reference.name)
        return value or ""


class _Parser:
    """Reads a text with variables from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def parts(self, depth: int = 0) -> "tuple[str | _Reference, ...]":
        """Return literal text and references, up to the end or, within braces, up to the closing one."""
        found: list[str | _Reference] = []
        pattern = _LITERAL_INSIDE if depth else _LITERAL
        while True:
            match = pattern.match(self.text, self.position)
            assert match is not None
            if match[0]:
                found.append(match[0])
            self.position = match.end()
            if not self.text.startswith("$", self.position):
                return tuple(found)
            self.position += 1
            found.append("$" if self.take("$") else self.reference(depth))

    def take(self, symbol: str) -> bool:
        taken = self.text.startswith(symbol, self.position)
        self.position += len(symbol) if taken else 0
        return taken

    def reference(self, depth: int) -> _Reference:
        """Read what follows a `$`."""
        start = self.position - 1
        braces = self.take("{")
        name = _NAME.match(self.text, self.position)
        if name is None:
            raise self.refusal(start)
        self.position = name.end()
        if not braces:
            return _Reference(name[0])
        operator = _OPERATOR.match(self.text, self.position)
        parts: tuple[str | _Reference, ...] = ()
        if operator is not None:
            if depth >= MAX_DEPTH:
                raise Refusal(f"variables are nested deeper than {MAX_DEPTH} levels")
            self.position = operator.end()
            parts = self.parts(depth + 1)
        if not self.take("}"):
            raise self.refusal(start)
        return _Reference(name[0], operator[0] if operator else "", parts)

    def refusal(self, start: int) -> Refusal:
        # The text is not repeated: it may be a password.
        return Refusal(
            f"the '$' at character {start + 1} begins no variable such as $NAME or ${{NAME:-default}}; "
            "write $$ for a plain $"
        )


def interpolate(node: Node, path: str, interpolator: Interpolator, problems: Problems) -> Node:
    """Return `node` with the variables in its values, not in its keys, replaced; faults go to `problems`."""
    if isinstance(node, MappingNode):
        return MappingNode(
            {
                key: interpolate(value, child_path(path, key), interpolator, problems)
                for key, value in node.entries.items()
            },
            node.line,
        )
    if isinstance(node, SequenceNode):
        items = (interpolate(item, f"{path}[{n}]", interpolator, problems) for n, item in enumerate(node.items))
        return SequenceNode(tuple(items), node.line)
    return _interpolate_scalar(node, path, interpolator, problems)


def _interpolate_scalar(node: ScalarNode, path: str, interpolator: Interpolator, problems: Problems) -> ScalarNode:
    if node.kind != "str" or "$" not in node.text:
        return node
    known = len(interpolator.missing)
    try:
        text = interpolator.text(node.text)
    except Refusal as refusal:
        problems.error(path, node.line, refusal.text)
        return ScalarNode("", "broken", node.line)
    for name in interpolator.missing[known:]:
        problems.warn(path, node.line, f"the variable {name} is not set; it is taken as empty")
    forbidden = forbidden_character(text)
    if forbidden:
        problems.error(path, node.line, f"a variable brings in the character {forbidden}, which is not allowed")
        return ScalarNode("", "broken", node.line)
    return ScalarNode(text, "str", node.line, written=node.text)
