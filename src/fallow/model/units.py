"""Amounts as people write them: bytes, processor shares, seconds."""

import re

_BYTES = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?\s*$", re.IGNORECASE)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)(us|ms|d|h|m|s)")
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SECOND_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """Read `64m`, `1.5GiB`, `200` as bytes; a unit letter is a power of 1024, as in Compose.

    Raises ValueError when `text` is not an amount of bytes.
    """
    match = _BYTES.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount of bytes (examples: 64m, 1.5GiB, 200kb)")
    number, unit, _ = match.groups()
    return int(float(number) * 1024 ** _POWER[unit.lower()])


def parse_seconds(text: str) -> float:
    """Read a Compose duration such as `1m30s` or `500ms`, or days as in `90d`, as seconds; a bare number is seconds.

    Raises ValueError when `text` is not a duration.
    """
    stripped = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", stripped):
        return float(stripped)
    parts = _SECONDS.findall(stripped)
    if not parts or "".join(number + unit for number, unit in parts) != stripped:
        raise ValueError(f"{text!r} is not a duration (examples: 30s, 1m30s, 500ms)")
    return sum(float(number) * _SECOND_UNITS[unit] for number, unit in parts)


def format_bytes(amount: float) -> str:
    """Write bytes the short way: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(amount) < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount == int(amount) else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """Write a duration the short way: `3d4h`, `5m12s`, `8s`."""
    whole = int(max(0, seconds))
    for size, unit, smaller, smaller_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit}{rest}{smaller_unit}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"
