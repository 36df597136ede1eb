"""A place in the file, and how the values there are read: each reader returns what is asked or raises Refusal."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fallow.decide.compose.document import MappingNode, Node, ScalarNode, SequenceNode, child_path
from fallow.decide.compose.problems import Problems, Refusal, shown
from fallow.model.units import parse_bytes, parse_seconds

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})")
_TRUE = ("true", "yes", "on", "y")
_FALSE = ("false", "no", "off", "n")
MAX_AMOUNT_LENGTH = 40
MAX_BYTE_COUNT = 2**60

N = TypeVar("N", int, float)
T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class Field:
    """One value of the file: its path, such as `services.web.ports[0]`, and where its faults go."""

    path: str
    node: Node
    problems: Problems

    @property
    def is_null(self) -> bool:
        """Say whether no value is written."""
        return isinstance(self.node, ScalarNode) and self.node.kind == "null"

    @property
    def is_empty(self) -> bool:
        """Say whether the value asks for nothing: null, false, nothing between quotes or brackets."""
        if isinstance(self.node, ScalarNode):
            return self.node.kind == "null" or self.node.text.lower() in ("", *_FALSE)
        return not (self.node.items if isinstance(self.node, SequenceNode) else self.node.entries)

    @property
    def is_mapping(self) -> bool:
        """Say whether it is a mapping."""
        return isinstance(self.node, MappingNode)

    @property
    def is_list(self) -> bool:
        """Say whether it is a list."""
        return isinstance(self.node, SequenceNode)

    def refusal(self, text: str) -> Refusal:
        """Return an exception that says `text` of this place."""
        return Refusal(text, self.path, self.node.line)

    def error(self, text: str) -> None:
        """Add an error and go on."""
        self.problems.error(self.path, self.node.line, text)

    def warn(self, text: str) -> None:
        """Add a warning."""
        self.problems.warn(self.path, self.node.line, text)

    def content(self) -> str:
        """Return text of any kind, lines and tabs included; a number or a truth value is taken as it is written."""
        if not isinstance(self.node, ScalarNode):
            raise self.refusal(f"must be text, not a {'list' if self.is_list else 'mapping'}")
        if self.node.kind == "broken":
            raise Refusal
        if self.node.kind == "null":
            raise self.refusal("must have a value")
        return self.node.text

    def text(self) -> str:
        """Return one line of text that is not empty, without blanks around it."""
        found = self.content()
        if isinstance(self.node, ScalarNode) and self.node.kind == "bool":
            raise self.refusal(f"must be text, not the truth value {found}; write it in quotes if it is meant")
        if not found.strip():
            raise self.refusal("must not be empty; is a variable not set?")
        if "\n" in found or "\r" in found or "\t" in found:
            raise self.refusal("must be one line without tabs")
        return found.strip()

    def written(self) -> str:
        """Return one line of text as it stands in the file, its variables not replaced."""
        found = self.text()
        before = self.node.written if isinstance(self.node, ScalarNode) else None
        return found if before is None else before.strip()

    def integer(self, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        found = self.text()
        if not _INTEGER.fullmatch(found) or not low <= int(found) <= high:
            raise self.refusal(f"must be a whole number from {low} to {high}, not {shown(found)}")
        return int(found)

    def number(self, low: float, high: float) -> float:
        """Return a number within bounds."""
        found = self.text()
        if not _NUMBER.fullmatch(found) or not low <= float(found) <= high:
            raise self.refusal(f"must be a number from {low:g} to {high:g}, not {shown(found)}")
        return float(found)

    def boolean(self) -> bool:
        """Return true or false."""
        found = self.content().lower()
        if found in _TRUE or found in _FALSE:
            return found in _TRUE
        raise self.refusal(f"must be true or false, not {shown(found)}")

    def seconds(self, low: float, high: float) -> float:
        """Return a duration such as `1m30s` in seconds, within bounds."""
        found = self._amount(parse_seconds)
        if not low <= found <= high:
            raise self.refusal(f"must be a duration from {low:g}s to {high:g}s, not {shown(self.text())}")
        return found

    def byte_count(self) -> int:
        """Return an amount such as `64m` in bytes."""
        found = self._amount(parse_bytes)
        if found > MAX_BYTE_COUNT:
            raise self.refusal(f"must be at most {MAX_BYTE_COUNT >> 40} TiB, not {shown(self.text())}")
        return found

    def _amount(self, parse: Callable[[str], N]) -> N:
        """Return what `parse` reads; the length is bounded first, since huge numbers do not fit a float."""
        found = self.text()
        if len(found) > MAX_AMOUNT_LENGTH:
            raise self.refusal(f"{shown(found)} has too many digits")
        try:
            return parse(found)
        except ValueError as error:
            raise self.refusal(str(error)) from None

    def choice(self, *allowed: str) -> str:
        """Return one of the words in `allowed`."""
        found = self.text()
        if found not in allowed:
            raise self.refusal(f"must be {' or '.join(allowed)}, not {shown(found)}{did_you_mean(found, allowed)}")
        return found

    def entries(self) -> "list[tuple[str, Field]]":
        """Return the keys and values of a mapping; none when no value is written."""
        if self.is_null:
            return []
        if not isinstance(self.node, MappingNode):
            self._refuse_broken()
            raise self.refusal("must be a mapping")
        return [
            (key, Field(child_path(self.path, key), node, self.problems)) for key, node in self.node.entries.items()
        ]

    def items(self) -> "list[Field]":
        """Return the items of a list; none when no value is written."""
        if self.is_null:
            return []
        if not isinstance(self.node, SequenceNode):
            self._refuse_broken()
            raise self.refusal("must be a list")
        return [Field(f"{self.path}[{n}]", node, self.problems) for n, node in enumerate(self.node.items)]

    def items_or_one(self) -> "list[Field]":
        """Return the items of a list, or the one value that stands in its place."""
        return self.items() if self.is_list or self.is_null else [self]

    def _refuse_broken(self) -> None:
        if isinstance(self.node, ScalarNode) and self.node.kind == "broken":
            raise Refusal


def each(fields: Iterable[Field], read: Callable[[Field], T]) -> list[T]:
    """Return what `read` makes of every field; those it refuses become errors and are left out."""
    found: list[T] = []
    for field in fields:
        try:
            found.append(read(field))
        except Refusal as refusal:
            field.problems.refuse(refusal)
    return found


def dispatch(field: Field, handlers: "dict[str, Callable[[Field, D], None]]", draft: D) -> None:
    """Hand every value of a mapping to the handler of its key; `x-` keys are passed over, unknown ones are errors."""
    for key, value in field.entries():
        handler = handlers.get(key)
        if handler is not None:
            try:
                handler(value, draft)
            except Refusal as refusal:
                field.problems.refuse(refusal)
        elif not key.startswith("x-"):
            value.error(f"is not a known key{did_you_mean(key, handlers)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'ports'?`, or nothing when no known word is like it."""
    near = difflib.get_close_matches(word[:40].lower(), list(known), 1, 0.7)
    return f"; did you mean {near[0]!r}?" if near else ""
