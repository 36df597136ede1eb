"""Selectors as people write them: `role=web,zone in (a,b),!gpu,disk.free>20Gi`.

Terms are divided by commas and all of them must hold. A missing label fulfils `!=`, `notin` and `!key`, and nothing
else, as in Kubernetes. Comparisons are numeric; a number may carry Ki, Mi, Gi or Ti on either side.
"""

import re
from collections.abc import Callable, Mapping

from fallow.model.labels import KEY_PATTERN, VALUE_PATTERN, Operator, Requirement, Selector

MAX_LENGTH = 1024
EXAMPLE = "role=web,tier!=db,zone in (a,b),!gpu,disk.free>20Gi"

_KEY = re.compile(KEY_PATTERN)
_VALUE = re.compile(VALUE_PATTERN)
_WORD = re.compile(r"[A-Za-z0-9._/-]*")
_SPACE = re.compile(r"[ \t]*")
_SYMBOL = re.compile(r"!=|==|=|>=|<=|>|<|(?:notin|in)(?![A-Za-z0-9._/-])")
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(?:([KMGT])iB?)?")
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}

_COMPARISONS: dict[str, Operator] = {">": "gt", ">=": "ge", "<": "lt", "<=": "le"}
_SYMBOLS: dict[Operator, str] = {"in": "=", "notin": "!=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_COMPARE: dict[Operator, Callable[[float, float], bool]] = {
    "gt": float.__gt__,
    "ge": float.__ge__,
    "lt": float.__lt__,
    "le": float.__le__,
}


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


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Say whether every requirement holds for `labels`. A label that is no number fulfils no comparison."""
    return all(_holds(requirement, labels.get(requirement.key)) for requirement in selector.requirements)


def format_selector(selector: Selector) -> str:
    """Write a selector so that `parse_selector` gives it back."""
    return ",".join(_format(requirement) for requirement in selector.requirements)


def parse_amount(text: str) -> float | None:
    """Read `20`, `0.5` or `20Gi` as a number; None when it is none."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return float(match[1]) * 1024.0 ** _POWER[match[2] or ""]


def _holds(requirement: Requirement, value: str | None) -> bool:
    match requirement.operator:
        case "in":
            return value in requirement.values
        case "notin":
            return value not in requirement.values
        case "exists":
            return value is not None
        case "absent":
            return value is None
        case operator:
            have = None if value is None else parse_amount(value)
            want = parse_amount(requirement.values[0])
            return have is not None and want is not None and _COMPARE[operator](have, want)


def _format(requirement: Requirement) -> str:
    key, operator, values = requirement.key, requirement.operator, requirement.values
    if operator == "exists":
        return key
    if operator == "absent":
        return f"!{key}"
    if len(values) == 1:
        return f"{key}{_SYMBOLS[operator]}{values[0]}"
    return f"{key} {operator} ({','.join(values)})"


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
        if not _KEY.fullmatch(found):
            raise self.error(f"{found[:80]!r} is not a label key", start)
        return found

    def value(self) -> str:
        self.skip()
        start = self.position
        found = self.word()
        if not _VALUE.fullmatch(found):
            raise self.error(f"{found[:80]!r} is not a label value", start)
        return found

    def term(self) -> Requirement:
        if self.take("!"):
            return Requirement(key=self.key(), operator="absent")
        key = self.key()
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
        if parse_amount(found) is None:
            raise self.error(f"expected a number such as 20 or 20Gi behind {symbol!r}", start)
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
