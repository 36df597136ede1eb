"""What every network does, whether in memory or with real packets."""

from collections.abc import Iterator

import msgspec
import pytest
from network_rigs import PORT, Side, fakes, key_pair, lease, wireguards

from fallow.drivers.network.contract import NetworkError
from fallow.model.network import NetworkPeer, NetworkState

RIGS = {"fake": fakes, "wireguard": wireguards}
ONE, TWO = "10.86.0.1", "10.86.0.2"


@pytest.fixture(params=["fake", pytest.param("wireguard", marks=pytest.mark.real)])
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[Side, Side]]:
    with RIGS[request.param]() as found:
        yield found


def by_key(state: NetworkState | None) -> dict[str, NetworkPeer]:
    assert state is not None
    return {peer.key: peer for peer in state.peers}


async def test_what_is_applied_is_what_is_read(sides: tuple[Side, Side]) -> None:
    one, two = sides
    assert await one.network.read() is None
    report = await one.network.apply(one.state(ONE, two.peer(TWO)))
    assert (report.address, report.peers, report.problem) == (ONE, 1, "")
    assert report.mtu >= 1280
    seen = await one.network.read()
    assert seen is not None
    assert (seen.lease.address, seen.lease.prefix_length, seen.lease.agent_port) == (ONE, 16, PORT)
    assert by_key(seen) == {two.key: two.peer(TWO)}
    assert ONE in await one.network.addresses()
    assert one.underlay in await one.network.addresses()


async def test_peers_come_change_and_go(sides: tuple[Side, Side]) -> None:
    one, two = sides
    others = [NetworkPeer(key=key_pair()[1], address=f"10.86.1.{number}") for number in range(1, 6)]
    await one.network.apply(one.state(ONE, *others))
    moved = msgspec.structs.replace(others[0], address="10.86.7.7", endpoint=f"192.0.2.9:{PORT}")
    await one.network.apply(one.state(ONE, moved, *others[1:4], two.peer(TWO)))
    wanted = {peer.key: peer for peer in (moved, *others[1:4], two.peer(TWO))}
    assert by_key(await one.network.read()) == wanted
    elsewhere = two.peer(TWO, "192.0.2.77:9000")
    await one.network.apply(one.state(ONE, elsewhere))
    assert by_key(await one.network.read()) == {two.key: elsewhere}
    await one.network.apply(one.state(ONE))
    assert by_key(await one.network.read()) == {}


async def test_an_address_that_changes_hands_belongs_to_its_new_owner(sides: tuple[Side, Side]) -> None:
    one, two = sides
    before = NetworkPeer(key=key_pair()[1], address=TWO)
    await one.network.apply(one.state(ONE, before))
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    assert by_key(await one.network.read()) == {two.key: two.peer(TWO)}


async def test_one_is_no_peer_of_oneself(sides: tuple[Side, Side]) -> None:
    one, two = sides
    report = await one.network.apply(one.state(ONE, one.peer(ONE), two.peer(TWO)))
    assert report.peers == 1
    assert set(by_key(await one.network.read())) == {two.key}


async def test_ways_through_nat_are_kept_open_where_asked(sides: tuple[Side, Side]) -> None:
    one, two = sides
    for seconds in (25, 0):
        await one.network.apply(one.state(ONE, two.peer(TWO), keepalive=seconds))
        seen = await one.network.read()
        assert seen is not None
        assert seen.keepalive_seconds == seconds


async def test_a_lease_may_change_its_address_and_its_network(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    for address, length in ((ONE, 12), ("10.86.3.4", 16), ("fd86::1", 64)):
        await one.network.apply(one.state(address, two.peer(TWO), length=length))
        seen = await one.network.read()
        assert seen is not None
        assert (seen.lease.address, seen.lease.prefix_length) == (address, length)
        assert address == ONE or ONE not in await one.network.addresses()


async def test_removing_leaves_nothing_and_does_no_harm_twice(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    await one.network.remove()
    await one.network.remove()
    assert await one.network.read() is None
    assert ONE not in await one.network.addresses()
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    assert set(by_key(await one.network.read())) == {two.key}


@pytest.mark.parametrize(
    "bad",
    [
        {"address": "10.86.0.2/8"},
        {"address": "10.86.0.2\nEndpoint = 192.0.2.66:1"},
        {"key": "A" * 43 + "="},
        {"key": "short"},
        {"endpoint": "attacker.example:8455"},
        {"endpoint": "192.0.2.2:0"},
        {"endpoint": "192.0.2.2:99999"},
        {"endpoint": "192.0.2.2:8455\n[Peer]"},
    ],
)
async def test_what_is_no_peer_is_refused_and_changes_nothing(sides: tuple[Side, Side], bad: dict[str, str]) -> None:
    one, two = sides
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    with pytest.raises(NetworkError, match="peer"):
        await one.network.apply(one.state(ONE, msgspec.structs.replace(two.peer("10.86.0.9"), **bad)))
    assert by_key(await one.network.read()) == {two.key: two.peer(TWO)}


@pytest.mark.parametrize("bad", [{"address": "-4"}, {"address": ""}, {"prefix_length": 33}, {"agent_port": 0}])
async def test_what_is_no_lease_is_refused(sides: tuple[Side, Side], bad: dict[str, object]) -> None:
    one, _ = sides
    with pytest.raises(NetworkError, match="lease"):
        await one.network.apply(NetworkState(lease=msgspec.structs.replace(lease(ONE), **bad)))
    assert await one.network.read() is None
