"""A member's own network: made from what is told, kept, remembered, and told of."""

import asyncio
import base64
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from records import overlaid, wireguard_key

from fallow.agent import network as network_module
from fallow.agent.network import KEEPALIVE_SECONDS, Networking, interface_of, key_of, own_resolvers
from fallow.decide.network import peer_of, state_of
from fallow.drivers.engine.contract import Resolving
from fallow.drivers.network.fake import FakeNetwork
from fallow.model.frames import Frame
from fallow.model.members import Lease
from fallow.model.network import NetworkReport, NetworkState
from fallow.model.wire import ChangePeers, NetworkReported, SetNetwork, Welcome

ME, OTHER, THIRD = (overlaid(f"m{number}", number) for number in (1, 2, 3))
MINE = "192.0.2.1"


def told(*others: Any) -> NetworkState:
    return state_of(ME, {found.id: peer_of(found) for found in others})


def welcome(lease: Lease = ME.lease, source: str = MINE) -> Welcome:
    return Welcome(member_id=ME.id, name="a", heartbeat_seconds=1.0, lease=lease, source_address=source)


class Rig:
    def __init__(self, folder: Path, driver: FakeNetwork | None = None, lease: Lease = ME.lease) -> None:
        self.driver = driver or FakeNetwork(ME.wireguard_key, [MINE])
        self.network = Networking(self.driver, ME.wireguard_key, folder, lease, check_seconds=0.05)
        self.reports: list[NetworkReport] = []
        self.deaf = False

    async def send(self, frame: Frame) -> None:
        if self.deaf:
            raise ConnectionError("there is no session")
        assert isinstance(frame, NetworkReported)
        self.reports.append(frame.report)

    def addresses(self) -> set[str]:
        return {peer.address for peer in self.driver.state.peers} if self.driver.state is not None else set()


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    await rig.network.start()
    task = asyncio.create_task(rig.network.run(rig.send))
    try:
        yield rig
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_the_lease_is_had_before_there_is_a_session_and_peers_as_they_are_told(tmp_path: Path) -> None:
    async with running(Rig(tmp_path)) as rig:
        assert rig.driver.state is not None
        assert rig.network.bind_address == ME.lease.address
        rig.network.opened(welcome())
        rig.network.received(SetNetwork(state=told(OTHER)))
        await until(lambda: rig.addresses() == {OTHER.lease.address})
        third = peer_of(THIRD)
        assert third is not None
        rig.network.received(ChangePeers(changed=(third,), removed=(OTHER.wireguard_key, wireguard_key(77))))
        await until(lambda: rig.addresses() == {THIRD.lease.address})
        await until(lambda: bool(rig.reports) and rig.reports[-1].peers == 1)


async def test_the_last_known_peers_are_there_after_a_boot(tmp_path: Path) -> None:
    async with running(Rig(tmp_path)) as rig:
        rig.network.received(SetNetwork(state=told(OTHER, THIRD)))
        await until(lambda: len(rig.addresses()) == 2)
    again = Rig(tmp_path)
    await again.network.start()
    assert again.addresses() == {OTHER.lease.address, THIRD.lease.address}


async def test_a_saved_state_that_cannot_be_read_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "network.json").write_text("{")
    rig = Rig(tmp_path)
    await rig.network.start()
    assert rig.driver.state is not None
    assert rig.driver.state.lease == ME.lease


async def test_what_is_taken_away_is_made_again(tmp_path: Path) -> None:
    async with running(Rig(tmp_path)) as rig:
        await rig.driver.remove()
        await until(lambda: rig.driver.state is not None)


async def test_a_failure_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fallow.agent.network.RETRY_SECONDS", 0.02)
    rig = Rig(tmp_path)
    rig.driver.failing = "wg is not installed"
    async with running(rig):
        rig.network.opened(welcome())
        await until(lambda: bool(rig.reports) and rig.reports[-1].problem == "wg is not installed")
        rig.driver.failing = ""
        await until(lambda: rig.reports[-1].problem == "")


async def test_reports_that_nobody_heard_are_told_to_the_next_session(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.deaf = True
    async with running(rig):
        rig.network.received(SetNetwork(state=told(OTHER)))
        await until(lambda: len(rig.addresses()) == 1)
        rig.deaf = False
        rig.network.opened(welcome())
        await until(lambda: bool(rig.reports))


@pytest.mark.parametrize(("source", "seconds"), [(MINE, 0), ("203.0.113.9", KEEPALIVE_SECONDS), ("127.0.0.1", 25)])
async def test_ways_are_kept_open_by_who_is_not_where_it_is_seen(tmp_path: Path, source: str, seconds: int) -> None:
    async with running(Rig(tmp_path)) as rig:
        rig.network.opened(welcome(source=source))
        rig.network.received(SetNetwork(state=told(OTHER)))
        await until(
            lambda: (
                rig.driver.state is not None
                and rig.driver.state.keepalive_seconds == seconds
                and bool(rig.driver.state.peers)
            )
        )


async def test_a_lease_of_a_resized_pool_keeps_its_peers_until_it_is_told_more(tmp_path: Path) -> None:
    async with running(Rig(tmp_path)) as rig:
        rig.network.received(SetNetwork(state=told(OTHER)))
        await until(lambda: len(rig.addresses()) == 1)
        wider = msgspec.structs.replace(ME.lease, prefix_length=12)
        rig.network.opened(welcome(wider))
        await until(lambda: rig.driver.state is not None and rig.driver.state.lease.prefix_length == 12)
        assert rig.addresses() == {OTHER.lease.address}
        elsewhere = msgspec.structs.replace(ME.lease, pool="green", address="10.99.0.1")
        rig.network.opened(welcome(elsewhere))
        await until(lambda: rig.driver.state is not None and rig.driver.state.lease == elsewhere)
        assert rig.addresses() == set()


async def test_a_direct_lease_takes_the_overlay_away(tmp_path: Path) -> None:
    async with running(Rig(tmp_path)) as rig:
        rig.network.opened(welcome(Lease(address=MINE)))
        await until(lambda: rig.driver.state is None)
        assert rig.network.bind_address == ""
        assert not (tmp_path / "network.json").exists()


@pytest.mark.parametrize(
    ("address", "source", "well"),
    [
        (MINE, MINE, True),
        (MINE, "203.0.113.9", True),  # its own, though it is seen elsewhere
        ("203.0.113.9", "203.0.113.9", True),  # behind a forwarding router
        ("192.0.2.77", MINE, False),
        ("192.0.2.77", "", True),  # an older control plane does not tell
    ],
)
async def test_a_direct_lease_is_checked(tmp_path: Path, address: str, source: str, well: bool) -> None:
    rig = Rig(tmp_path, lease=Lease(address=address))
    async with running(rig):
        rig.network.opened(welcome(Lease(address=address), source))
        await until(lambda: bool(rig.reports) and (rig.reports[-1].problem == "") is well)
    assert rig.driver.applied == 0
    if not well:
        assert "192.0.2.77" in rig.reports[-1].problem
        assert MINE in rig.reports[-1].problem


async def test_who_is_turned_away_for_good_leaves_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.network.start()
    rig.driver.failing = "busy"
    await rig.network.forget()
    rig.driver.failing = ""
    await rig.network.forget()
    assert rig.driver.state is None
    assert not (tmp_path / "network.json").exists()


def test_a_key_is_kept_and_its_own_for_each_identity(tmp_path: Path) -> None:
    path, public = key_of(tmp_path, "n-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(base64.b64decode(public)) == 32
    assert key_of(tmp_path, "n-1") == (path, public)
    assert key_of(tmp_path, "n-2")[1] != public
    path.write_text("not a key")
    assert key_of(tmp_path, "n-1")[1] != public
    assert path.with_name(path.name + ".1").read_text() == "not a key"


def test_names_of_interfaces_are_short_enough() -> None:
    assert interface_of("n-abcd2345") == "fallow-abcd2345"
    assert len(interface_of("n-" + "x" * 40)) <= 15


# names for containers


async def test_containers_ask_the_pools_name_servers_and_then_the_machines_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_module, "own_resolvers", lambda: ("192.0.2.53", "10.86.0.8", "192.0.2.54"))
    served = msgspec.structs.replace(
        told(OTHER), name_servers=("10.86.0.8", "10.86.0.9", "10.86.0.10"), domain="d.test"
    )
    async with running(Rig(tmp_path)) as rig:
        assert rig.network.resolving("shop/web") == Resolving(), "as the engine has it, until names are served"
        rig.network.received(SetNetwork(state=served))
        found = rig.network.resolving("shop/web")
        assert found.servers == ("10.86.0.8", "10.86.0.9", "192.0.2.53")
        assert (found.search, found.options) == (("shop.svc.d.test",), ("timeout:1", "attempts:2"))
        rig.network.received(ChangePeers(removed=(wireguard_key(77),)))
        assert rig.network.resolving("shop/web") == found, "a change that says nothing of it leaves it as it was"
        rig.network.received(ChangePeers(name_servers=("10.86.0.9",)))
        assert rig.network.resolving("shop/web").servers == ("10.86.0.9", "192.0.2.53", "10.86.0.8")
        rig.network.opened(welcome())
        assert rig.network.resolving("shop/web").servers[0] == "10.86.0.9"
        await until(lambda: b"10.86.0.9" in (tmp_path / "network.json").read_bytes())
    again = Rig(tmp_path)
    assert again.network.resolving("shop/web").servers[0] == "10.86.0.9", "also before there is a session"
    again.network.opened(welcome(lease=Lease(address=MINE)))
    assert again.network.resolving("shop/web") == Resolving()


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2 # x\n", "nameserver 192.0.2.9\n", ("192.0.2.1", "192.0.2.2")),
        ("# none\nnameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.9\n", ("192.0.2.9",)),
        ("nameserver ::1\nnameserver 2001:db8::1\n", "", ("2001:db8::1",)),
        ("nameserver fe80::1%eth0\nnameserver nonsense\nnameserver\nnameserver 0.0.0.0\n", None, ()),
        (None, None, ()),
    ],
)
def test_of_the_machines_own_resolvers_containers_get_those_they_reach(
    tmp_path: Path, first: str | None, second: str | None, found: tuple[str, ...]
) -> None:
    files = [tmp_path / "resolv.conf", tmp_path / "stub-resolv.conf"]
    for file, text in zip(files, (first, second), strict=True):
        if text is not None:
            file.write_text(text)
    assert own_resolvers(files) == found
