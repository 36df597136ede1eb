"""Quantities: what each unit is, what is none, and what is equal."""

import time

import pytest

from fallow.model.quantities import Quantity, comparable, parse_quantity, same_value, unit_of


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("20", "number", 20),
        ("0.5", "number", 0.5),
        ("20B", "bytes", 20),
        ("20GB", "bytes", 20_000_000_000),
        ("20G", "bytes", 20_000_000_000),
        ("20kB", "bytes", 20_000),
        ("20K", "bytes", 20_000),
        ("20GiB", "bytes", 20 * 2**30),
        ("20Gi", "bytes", 20 * 2**30),
        ("0.5Ti", "bytes", 2**39),
        ("1PiB", "bytes", 2**50),
        ("3d", "duration", 3 * 86400),
        ("1h30m", "duration", 5400),
        ("500ms", "duration", 0.5),
        ("2w", "duration", 14 * 86400),
        ("10Gbit/s", "rate", 10_000_000_000),
        ("1bit/s", "rate", 1),
        ("125MB/s", "rate", 1_000_000_000),
        ("1MiB/s", "rate", 8 * 2**20),
    ],
)
def test_quantities_read(text: str, kind: str, amount: float) -> None:
    assert parse_quantity(text) == Quantity(kind, amount)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "+1", "1e3", "20X", "1.", ".5", "nan", "inf", "9" * 400, "\u0663", "20 GB", "20gb", "1h30", "h",
     "1d!", "20iB", "10/s", "10GB/", "1\n", "1h\n", "1.5.5", "0x10", "1_000", "20Gi\x00", "\u0661h"],
)  # fmt: skip
def test_quantities_refused(text: str) -> None:
    assert parse_quantity(text) is None


def test_quantities_the_same_amount_is_equal_however_it_is_written() -> None:
    for one, other in [("1TiB", "1024GiB"), ("0.1GB", "100MB"), ("1h30m", "90m"), ("8bit/s", "1B/s"), ("1Ki", "1024B")]:
        assert same_value(one, other)
        assert same_value(other, one)
    for one, other in [("1TB", "1TiB"), ("1", "01"), ("2", "2.0"), ("1024", "1Ki"), ("60", "1m"), ("1B", "1bit/s")]:
        assert not same_value(one, other)
        assert not same_value(other, one)


def test_quantities_of_different_kinds_do_not_compare() -> None:
    found = {text: parse_quantity(text) or Quantity("number", 0) for text in ("1", "1B", "1s", "1bit/s")}
    assert not comparable(found["1B"], found["1s"])
    assert not comparable(found["1bit/s"], found["1B"])
    assert all(comparable(found["1"], other) and comparable(other, found["1"]) for other in found.values())


def test_quantities_units() -> None:
    told = {"120GiB": "GiB", "3d": "d", "10Gbit/s": "Gbit/s", "1h30m": "", "5": "", "web": "", "5x": ""}
    assert {text: unit_of(text) for text in told} == told


def test_quantities_hostile_text_is_read_in_no_time() -> None:
    began = time.process_time()
    for text in ("9" * 1_000_000, "1h" * 500_000, "1." * 500_000, "1" + "K" * 1_000_000, "0." + "0" * 1_000_000 + "1d"):
        assert parse_quantity(text) is None
    assert time.process_time() - began < 1.0
