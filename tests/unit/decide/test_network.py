"""Who is told of whom in an overlay."""

from typing import Any

import pytest
from records import member, overlaid, snapshot, wireguard_key

from fallow.decide.network import peer_of, peers_of, state_of
from fallow.model.members import Lease, MemberState
from fallow.model.network import is_wireguard_key

KEY = "x" * 42 + "A="


def test_all_of_a_pool_are_peers_but_oneself() -> None:
    one, two, other = overlaid("a", 1), overlaid("b", 2), overlaid("c", 3, pool="red")
    seen = snapshot(one, two, other, member("flat", session_address="192.0.2.9", wireguard_key=wireguard_key(9)))
    peers = peers_of(seen, "blue")
    assert set(peers) == {one.id, two.id}
    state = state_of(one, peers)
    assert state.lease == one.lease
    (peer,) = state.peers
    assert (peer.key, peer.address, peer.endpoint) == (wireguard_key(2), "10.86.0.2", "192.0.2.2:8455")
    assert set(peers_of(seen, "red")) == {other.id}


@pytest.mark.parametrize("state", [MemberState.JOINING, MemberState.READY, MemberState.SUSPECT])
def test_silence_withdraws_nobody(state: MemberState) -> None:
    assert peer_of(overlaid("a", 1, state=state)) is not None


@pytest.mark.parametrize(
    "changes",
    [{"state": MemberState.DEAD}, {"wireguard_key": ""}, {"lease": Lease(address="192.0.2.1")}],
    ids=["dead", "no key", "no overlay"],
)
def test_who_is_no_peer(changes: dict[str, Any]) -> None:
    assert peer_of(overlaid("a", 1, **changes)) is None


@pytest.mark.parametrize(
    ("source", "endpoint"),
    [
        ("2001:db8::7", "[2001:db8::7]:8455"),
        ("127.0.0.1", ""),  # beside a control plane: others cannot dial it there
        ("10.86.9.9", ""),  # through the overlay itself
        ("", ""),
    ],
)
def test_where_a_peer_is_dialled(source: str, endpoint: str) -> None:
    peer = peer_of(overlaid("a", 1, session_address=source))
    assert peer is not None
    assert peer.endpoint == endpoint


def test_what_a_member_without_overlay_is_told() -> None:
    flat = member("flat")
    assert state_of(flat, {"x": peer_of(overlaid("a", 1))}).peers == ()  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (KEY, True),
        ("A" * 43 + "=", False),  # all zero: everybody has that one
        ("A" * 42 + "B=", False),  # more bits than 32 bytes have
        ("A" * 44, False),
        ("A" * 41 + "\n0=", False),
        (KEY + "\n", False),
        ("", False),
    ],
)
def test_keys(text: str, usable: bool) -> None:
    assert is_wireguard_key(text) is usable
