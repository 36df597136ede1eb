"""Names, addresses and ports of machines that join."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallow.decide.joining import free_name, lease_address, name_from_hostname
from fallow.model.members import Role
from fallow.model.meta import is_name


@given(st.text(max_size=80), st.sampled_from(Role), st.integers(0, 30))
def test_derived_names_are_always_names_and_free(hostname: str, role: Role, clashes: int) -> None:
    taken: set[str] = set()
    for _ in range(clashes + 1):
        name, number = free_name(name_from_hostname(hostname, role), taken.__contains__)
        assert free_name(name_from_hostname(hostname, role), taken.__contains__, number) == (name, number)
        assert is_name(name)
        assert name not in taken
        taken.add(name)


def test_derived_names_stay_recognisable() -> None:
    derived = [name_from_hostname(text, Role.NODE) for text in ("Web-1.example.org", "10.0.0.1", "a_b", "--", "x" * 60)]
    assert derived == ["web-1", "node-10", "a-b", "node", "x" * 40]
    assert free_name("x" * 40, ("x" * 40).__eq__) == ("x" * 38 + "-2", 2)


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_addresses(source: str, address: str) -> None:
    assert lease_address(source) == address


@pytest.mark.parametrize(
    "source", ["", "host", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "224.0.0.1", "::ffff:0.0.0.0"]
)
def test_addresses_nobody_could_reach(source: str) -> None:
    with pytest.raises(ValueError, match="address"):
        lease_address(source)
