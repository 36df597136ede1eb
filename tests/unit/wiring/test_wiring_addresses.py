"""Addresses as people write them."""

import ipaddress
import socket

import pytest

from fallow.wiring.addresses import bracketed, listener, primary_address, reachable, split_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.5:7443", ("10.0.0.5", 7443)),
        ("control.test:1", ("control.test", 1)),
        (":7443", ("", 7443)),
        ("[::]:7443", ("::", 7443)),
        ("[2001:db8::5]:7443", ("2001:db8::5", 7443)),
        ("[2001:db8::5]", ("2001:db8::5", 9)),
        ("control.test", ("control.test", 9)),
        ("", ("", 9)),
    ],
)
def test_split(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text, 9) == expected


@pytest.mark.parametrize("text", ["host:", "host:http", "host:70000", "host:-1", "2001:db8::5", "::1", "[::1", "a:b:1"])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address") as caught:
        split_address(text, 9)
    assert text in str(caught.value)


def test_every_address_is_dialled_as_this_machine() -> None:
    assert [reachable(host) for host in ("", "0.0.0.0", "::", "10.0.0.5")] == ["127.0.0.1"] * 3 + ["10.0.0.5"]


def test_only_ipv6_stands_in_brackets() -> None:
    assert (bracketed("::1"), bracketed("10.0.0.5"), bracketed("a.test")) == ("[::1]", "10.0.0.5", "a.test")


def test_this_machine_has_an_address() -> None:
    assert ipaddress.ip_address(primary_address()).version == 4


def test_a_taken_port_is_told_by_its_address() -> None:
    with listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(OSError, match=rf"cannot listen at 127\.0\.0\.1:{port}: Address already in use"):
            listener("127.0.0.1", port)


def test_an_ipv6_address_is_listened_at() -> None:
    with listener("::1", 0) as door:
        assert door.family == socket.AF_INET6
