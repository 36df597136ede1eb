"""Quantities: an amount and its unit, as selectors compare them and variables are typed by them.

The one place that says what units mean here. `k M G T P E` are powers of 1000 and `Ki Mi Gi Ti Pi Ei` powers of 1024,
as IEC 80000-13 has them, in bytes (`20GB`, `20GiB`, or short `20G`, `20Gi`). Rates are bits a second (`10Gbit/s`, and
`B/s` for eight of them), durations seconds (`3d`, `1h30m`). Compose's `mem_limit: 64m` is Compose's, and is read by
`units.parse_bytes`.
"""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

Kind = Literal["number", "bytes", "duration", "rate"]

MAX_LENGTH = 64

_NUMBER = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?")
_UNIT = re.compile(r"(?:([kKMGTPE])(i?))?(B/s|bit/s|B)?")
_PART = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)(us|ms|w|d|h|m|s)")
_POWER = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_SECONDS = {
    "us": Fraction(1, 1_000_000), "ms": Fraction(1, 1000), "s": Fraction(1), "m": Fraction(60), "h": Fraction(3600),
    "d": Fraction(86400), "w": Fraction(7 * 86400),
}  # fmt: skip


class Quantity(NamedTuple):
    """`amount` is in the base unit of its kind: bytes, seconds, bits a second, or nothing for a plain number.

    The exact value, rounded once to the nearest double: what is written in two ways is the same.
    """

    kind: Kind
    amount: float


def parse_quantity(text: str) -> Quantity | None:
    """Read `20`, `0.5`, `20GiB`, `1h30m` or `10Gbit/s`; None when it is none of these."""
    if len(text) > MAX_LENGTH or not text.isascii():
        return None
    number = _NUMBER.match(text)
    if number is None:
        return None
    unit = text[number.end() :]
    if not unit:
        return Quantity("number", float(_exact(number)))
    match = _UNIT.fullmatch(unit)
    if match is None:
        return _duration(text)
    letter, binary, measure = match[1] or "", match[2], match[3] or "B"
    factor = (1024 if binary else 1000) ** _POWER[letter]
    if measure == "B":
        return Quantity("bytes", float(_exact(number) * factor))
    return Quantity("rate", float(_exact(number) * factor * (8 if measure == "B/s" else 1)))


def comparable(have: Quantity, want: Quantity) -> bool:
    """Say whether two quantities can be compared: of one kind, or one of them a plain number, in the other's base."""
    return have.kind == want.kind or "number" in (have.kind, want.kind)


def same_value(have: str, want: str) -> bool:
    """Say whether two values are equal: letter by letter, or as amounts that both carry a unit (1TiB is 1024GiB).

    Plain numbers are texts here: a label `01` is not the label `1`.
    """
    if have == want:
        return True
    wanted = parse_quantity(want)
    return wanted is not None and wanted.kind != "number" and parse_quantity(have) == wanted


def unit_of(text: str) -> str:
    """Return the unit a quantity is written in: `GiB` of `120GiB`; empty when it has none, or several (`1h30m`)."""
    number = _NUMBER.match(text)
    unit = text[number.end() :] if number is not None else ""
    return unit if unit and parse_quantity(text) is not None and not any(each.isdigit() for each in unit) else ""


def _exact(number: "re.Match[str]") -> int | Fraction:
    return int(number[1]) if number[2] is None else Fraction(number[0])


def _duration(text: str) -> Quantity | None:
    seconds, end = Fraction(0), 0
    while part := _PART.match(text, end):
        seconds += Fraction(part[1]) * _SECONDS[part[2]]
        end = part.end()
    return Quantity("duration", float(seconds)) if end == len(text) else None
