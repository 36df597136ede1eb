"""Values in portions, each as much as one frame or one commit holds."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encoded_bytes(value: Any) -> int:
    """Return how many bytes a value takes in a frame or in a store."""
    return len(_encoder.encode(value))


def weight_of(value: Any) -> tuple[int, int]:
    """Return that a value counts for one, and its bytes."""
    return 1, encoded_bytes(value)


def portions(
    values: Iterable[T], most: int, most_bytes: int, weigh: Callable[[T], tuple[int, int]] = weight_of
) -> Iterator[tuple[T, ...]]:
    """Yield values in order, in portions of at most `most` and `most_bytes`; one that is larger has a portion alone.

    `weigh` says for how many a value counts, and how many bytes it takes. Nothing is yielded for no values. A value is
    looked at when its portion is asked for.
    """
    portion: list[T] = []
    total = size = 0
    for value in values:
        count, bytes_ = weigh(value)
        if portion and (total + count > most or size + bytes_ > most_bytes):
            yield tuple(portion)
            portion, total, size = [], 0, 0
        portion.append(value)
        total += count
        size += bytes_
    if portion:
        yield tuple(portion)
