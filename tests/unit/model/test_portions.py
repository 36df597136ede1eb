"""Values in portions: bounded by number and by bytes, in order, nothing left out."""

import pytest

from fallow.model.portions import encoded_bytes, portions


def test_a_portion_ends_before_either_bound_is_passed() -> None:
    assert list(portions(range(5), 2, 1000)) == [(0, 1), (2, 3), (4,)]
    text = "x" * 10
    assert list(portions([text] * 5, 100, 2 * encoded_bytes(text))) == [(text, text), (text, text), (text,)]


def test_one_that_is_larger_has_a_portion_alone() -> None:
    large = "x" * 100
    assert list(portions(["a", large, "b"], 10, 50)) == [("a",), (large,), ("b",)]
    assert list(portions([3, 1, 1], 2, 50, lambda count: (count, 0))) == [(3,), (1, 1)]


def test_nothing_has_no_portions() -> None:
    assert not list(portions([], 2, 50))


def test_nothing_is_looked_at_before_its_portion_is_asked_for() -> None:
    def values() -> object:
        yield 1
        yield 2
        pytest.fail("looked at too early")

    assert next(portions(values(), 1, 50)) == (1,)
