"""Results kept for the length of one placement, in bounded room."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

LIMIT = 256


def remember(kept: dict[Key, Value], key: Key, value: Value) -> Value:
    """Keep `value` and return it; when `LIMIT` values are kept, all are forgotten first.

    Hundreds of shapes repeat, thousands do not: a fleet's worth of columns for each would not fit in memory.
    """
    if len(kept) >= LIMIT:
        kept.clear()
    kept[key] = value
    return value
