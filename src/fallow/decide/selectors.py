"""Selectors as people write them: `role=web,zone in (a,b),!gpu,disk.free>=20GiB,@web-east`.

Terms are divided by commas and all of them must hold. A missing label fulfils `!=`, `notin` and `!key`, and nothing
else, as in Kubernetes. What they hold for is decided in `matching`; what quantities are, in `model/quantities`.
"""

import re

from fallow.model.labels import KEY_PATTERN, MAX_VARIABLE_VALUE, VALUE_PATTERN, Operator, Requirement, Selector
from fallow.model.meta import is_name
from fallow.model.quantities import parse_quantity

MAX_LENGTH = 1024
EXAMPLE = "role=web,tier!=db,zone in (a,b),!gpu,disk.free>=20GiB"
SET = "@"
SCOPES = ("label", "var", "node")
NODE_KEYS = ("name", "id", "role", "state", "arch")

_KEY = re.compile(KEY_PATTERN)
_VALUE = re.compile(VALUE_PATTERN)
_WORD = re.compile(r"[A-Za-z0-9._/-]*")
_SPACE = re.compile(r"[ \t]*")
_SYMBOL = re.compile(r"!=|==|=|>=|<=|>|<|(?:notin|in)(?![A-Za-z0-9._/-])")
_PLAIN = re.compile(r'[^"\\]*')

_COMPARISONS: dict[str, Operator] = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}
_SYMBOLS: dict[Operator, str] = {"in": "=", "notin": "!=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class SelectorError(ValueError):
    """A selector that cannot be read; `position` is the character, from 0, where reading stopped."""

    def __init__(self, problem: str, text: str, position: int) -> None:
        shown = text[max(0, position - 40) : position]
        place = f"at character {position + 1}, after {shown!r}" if shown else "at its beginning"
        super().__init__(f"{problem} {place} (example: {EXAMPLE})")
        self.position = position


def parse_selector(text: str) -> Selector:
    """Read a selector; empty text selects everything. Raises SelectorError."""
    if len(text) > MAX_LENGTH:
        raise SelectorError(f"a selector has at most {MAX_LENGTH} characters, this one has {len(text)},", text, 0)
    reader = _Reader(text)
    if reader.ended():
        return Selector()
    requirements = [reader.term()]
    while reader.take(","):
        requirements.append(reader.term())
    if not reader.ended():
        raise reader.error("expected a comma or the end")
    return Selector(requirements=tuple(requirements))


def format_selector(selector: Selector) -> str:
    """Write a selector so that `parse_selector` gives it back."""
    return ",".join(_format(requirement) for requirement in selector.requirements)


def key_parts(key: str) -> tuple[str, str]:
    """Return where to look for a key, and its name: ("var", "rack") of `var:rack`, ("", "rack") of `rack`."""
    scope, colon, name = key.partition(":")
    return (scope, name) if colon else ("", key)


def is_set(key: str) -> bool:
    """Say whether the key of a requirement is a label set."""
    return key.startswith(SET)


def _format(requirement: Requirement) -> str:
    key, operator, values = requirement.key, requirement.operator, requirement.values
    if operator == "exists":
        return key
    if operator == "absent":
        return f"!{key}"
    if len(values) == 1:
        return f"{key}{_SYMBOLS[operator]}{_written(values[0])}"
    return f"{key} {operator} ({','.join(map(_written, values))})"


def _written(value: str) -> str:
    if _bare(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bare(value: str) -> bool:
    """Say whether a value needs no quotes."""
    return _WORD.fullmatch(value) is not None and (
        _VALUE.fullmatch(value) is not None or parse_quantity(value) is not None
    )


class _Reader:
    """Reads terms from left to right; `position` is the next character not yet read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def error(self, problem: str, position: int | None = None) -> SelectorError:
        return SelectorError(problem, self.text, self.position if position is None else position)

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.position)
        self.position = match.end() if match else self.position

    def ended(self) -> bool:
        self.skip()
        return self.position == len(self.text)

    def take(self, symbol: str) -> bool:
        self.skip()
        found = self.text.startswith(symbol, self.position)
        self.position += len(symbol) if found else 0
        return found

    def word(self) -> str:
        self.skip()
        match = _WORD.match(self.text, self.position)
        found = match[0] if match else ""
        self.position += len(found)
        return found

    def key(self) -> str:
        self.skip()
        start = self.position
        found = self.word()
        if not found:
            raise self.error("expected a label key")
        scope, colon = "", self.text.startswith(":", self.position)
        if colon:
            if found not in SCOPES:
                raise self.error(f"{found[:80]!r} is no place to look; there are label:, var: and node:", start)
            self.position += 1
            scope, at = f"{found}:", self.position
            match = _WORD.match(self.text, at)
            found = match[0] if match else ""
            self.position += len(found)
            if scope == "node:" and found not in NODE_KEYS:
                raise self.error(f"{found[:80]!r} is not one of node:{', node:'.join(NODE_KEYS)}", at)
            start = at
        if not _KEY.fullmatch(found):
            raise self.error(f"{found[:80]!r} is not a label key", start)
        return scope + found

    def label_set(self) -> str:
        """Read the name of a label set, behind its sign."""
        start = self.position
        match = _WORD.match(self.text, start)
        found = match[0] if match else ""
        self.position += len(found)
        if not is_name(found):
            raise self.error(f"{found[:80]!r} is not the name of a label set", start)
        return SET + found

    def value(self) -> str:
        self.skip()
        if self.text.startswith('"', self.position):
            return self.quoted()
        start = self.position
        found = self.word()
        if not _bare(found):
            raise self.error(f"{found[:80]!r} is not a label value (others go between double quotes)", start)
        return found

    def quoted(self) -> str:
        """Read a value between double quotes, in which a backslash goes before a quote and before itself."""
        start = self.position
        self.position += 1
        parts: list[str] = []
        while True:
            match = _PLAIN.match(self.text, self.position)
            parts.append(match[0] if match else "")
            self.position += len(parts[-1])
            after = self.text[self.position : self.position + 2]
            if after in ('\\"', "\\\\"):
                parts.append(after[1])
                self.position += 2
            elif after.startswith('"'):
                break
            else:
                raise self.error("expected a closing quote")
        self.position += 1
        found = "".join(parts)
        if not found.isprintable() or len(found) > MAX_VARIABLE_VALUE:
            raise self.error(
                f"a value has at most {MAX_VARIABLE_VALUE} characters, and only such as can be printed", start
            )
        return found

    def term(self) -> Requirement:
        absent = self.take("!")
        key = self.label_set() if self.take(SET) else self.key()
        if absent:
            return Requirement(key=key, operator="absent")
        return Requirement(key=key, operator="exists") if is_set(key) else self.relation(key)

    def relation(self, key: str) -> Requirement:
        self.skip()
        match = _SYMBOL.match(self.text, self.position)
        if match is None:
            return Requirement(key=key, operator="exists")
        self.position = match.end()
        symbol = match[0]
        if symbol in _COMPARISONS:
            return Requirement(key=key, operator=_COMPARISONS[symbol], values=(self.amount(symbol),))
        if symbol == "in":
            return Requirement(key=key, operator="in", values=self.values())
        if symbol == "notin":
            return Requirement(key=key, operator="notin", values=self.values())
        return Requirement(key=key, operator="notin" if symbol == "!=" else "in", values=(self.value(),))

    def amount(self, symbol: str) -> str:
        self.skip()
        start = self.position
        found = self.word()
        if parse_quantity(found) is None:
            raise self.error(f"expected an amount such as 20, 20GiB, 3d or 10Gbit/s behind {symbol!r}", start)
        return found

    def values(self) -> tuple[str, ...]:
        if not self.take("("):
            raise self.error("expected '(' and a list of values")
        found: dict[str, None] = {}
        while True:
            value = self.value()
            if not value:
                raise self.error("expected a value")
            found[value] = None
            if self.take(")"):
                return tuple(found)
            if not self.take(","):
                raise self.error("expected ',' or ')'")
