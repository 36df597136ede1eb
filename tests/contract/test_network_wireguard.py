"""WireGuard with real packets: what only it can show."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_rigs import PORT, Side, key_pair, wireguards

from fallow.drivers.network.contract import NetworkError
from fallow.drivers.network.device import INSTALL
from fallow.drivers.network.wireguard import WireGuard
from fallow.model.network import NetworkPeer
from testbed import parts, processes

pytestmark = pytest.mark.real

ONE, TWO = "10.86.0.1", "10.86.0.2"

# Sends a numbered datagram every 5 ms to an address, for so many seconds; prints how many came back.
_ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 7))
print(flush=True)
while True:
    s.sendto(*s.recvfrom(99))
"""
_ASK = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
sent = back = 0
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    s.sendto(b"x", (sys.argv[1], 7))
    sent += 1
    try:
        back += len(s.recv(99))
    except TimeoutError:
        pass
    time.sleep(0.005)
print(sent, back)
"""


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    with wireguards() as found:
        yield found


async def join(one: Side, two: Side) -> None:
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    await two.network.apply(two.state(TWO, one.peer(ONE)))


def anew(side: Side) -> WireGuard:
    """Return the driver that an agent started later would have."""
    assert isinstance(side.network, WireGuard)
    return WireGuard(side.interface, side.network._key_path, side.key, prefix=side.command()[:2])


async def test_packets_pass_both_ways_and_over_ipv6(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await join(one, two)
    assert one.pings(TWO)
    assert two.pings(ONE)
    await one.network.apply(one.state("fd86::1", two.peer("fd86::2", f"[2001:db8::2]:{PORT}"), length=64))
    await two.network.apply(two.state("fd86::2", one.peer("fd86::1", f"[2001:db8::1]:{PORT}"), length=64))
    assert one.pings("fd86::2")


async def test_a_peer_that_is_withdrawn_is_not_heard_any_more(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await join(one, two)
    assert two.pings(ONE)
    await one.network.apply(one.state(ONE))
    assert not two.pings(ONE, 1)


async def test_applying_again_by_a_new_driver_loses_no_packet(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await join(one, two)
    assert one.pings(TWO)
    echo = two.start(_ECHO)
    assert echo.stdout is not None
    echo.stdout.readline()
    asking = one.start(_ASK, TWO, "3")
    try:
        others = [two.peer(TWO)]
        while asking.poll() is None:
            others.append(NetworkPeer(key=key_pair()[1], address=f"10.86.9.{len(others)}"))
            await anew(one).apply(one.state(ONE, *others))
            await anew(two).apply(two.state(TWO, one.peer(ONE)))
    finally:
        echo.kill()
        echo.communicate()
        said, _ = asking.communicate()
    sent, back = map(int, said.split())
    assert len(others) > 2, "it was applied while packets went"
    assert sent == back > 20


async def test_what_was_changed_by_somebody_else_is_put_right(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await join(one, two)
    one.ip("address", "add", "10.86.77.7/16", "dev", one.interface)
    one.ip("address", "del", f"{ONE}/16", "dev", one.interface)
    one.ip("link", "set", "dev", one.interface, "mtu", "1300", "down")
    one.run("wg", "set", one.interface, "listen-port", "9999", "peer", two.key, "remove")
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    assert one.pings(TWO)
    assert "10.86.77.7" not in one.ip("address")


def program_of(interface: str) -> int:
    """Return the id of the wireguard-go behind an interface; 0 when the kernel does its work."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"wireguard-go", interface.encode()]:
            return int(entry.name)
    return 0


async def test_a_program_that_was_killed_is_started_again(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await join(one, two)
    pid = program_of(one.interface)
    if not pid:
        pytest.skip("the kernel's own WireGuard is used here, which nobody can kill")
    os.kill(pid, signal.SIGKILL)
    processes.wait_until(lambda: one.interface not in one.ip("link"), 5, "the interface gone")
    await one.network.apply(one.state(ONE, two.peer(TWO)))
    assert one.pings(TWO)


async def test_a_peer_stays_where_it_is_heard_and_moves_when_told(sides: tuple[Side, Side]) -> None:
    one, two = sides
    wrong = two.peer(TWO, f"192.0.2.2:{PORT + 1}")
    await one.network.apply(one.state(ONE, wrong))
    await two.network.apply(two.state(TWO, one.peer(ONE)))
    assert two.pings(ONE), "it dials us from another port than we would dial: as behind NAT"
    for driver in (one.network, anew(one)):
        await driver.apply(one.state(ONE, wrong))
        assert one.pings(TWO)
    moved = two.peer(TWO, f"192.0.2.3:{PORT}")
    await one.network.apply(one.state(ONE, moved))
    seen = await one.network.read()
    assert seen is not None
    assert seen.peers[0].endpoint == moved.endpoint


async def test_the_size_of_packets_follows_the_underlay(sides: tuple[Side, Side]) -> None:
    one, two = sides
    sizes = []
    for underlay in (1500, 9000, 1400, 1300):
        one.ip("link", "set", "dev", "eth0", "mtu", str(underlay))
        sizes.append((await one.network.apply(one.state(ONE, two.peer(TWO)))).mtu)
    assert sizes == [1420, 8920, 1320, 1280]


async def test_a_neighbour_cannot_reach_the_address_past_the_overlay(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await one.network.apply(one.state(ONE))
    two.ip("route", "add", f"{ONE}/32", "via", "192.0.2.1")
    assert two.pings("192.0.2.1"), "the neighbour is there"
    assert not two.pings(ONE, 1)
    await one.network.remove()
    one.ip("address", "add", f"{ONE}/32", "dev", "lo")
    assert two.pings(ONE), "and only the filter kept it out"


async def test_a_peer_cannot_reach_other_addresses_through_the_overlay(sides: tuple[Side, Side]) -> None:
    """Not those of containers behind their published ports, nor those of the machine's other networks."""
    one, two = sides
    await join(one, two)
    one.ip("address", "add", "10.200.0.1/32", "dev", "lo")
    two.run("wg", "set", two.interface, "peer", one.key, "allowed-ips", f"{ONE}/32,10.200.0.0/24")
    two.ip("route", "add", "10.200.0.0/24", "dev", two.interface)
    assert two.pings(ONE)
    assert not two.pings("10.200.0.1", 1)


async def test_removing_takes_the_filter_along(sides: tuple[Side, Side]) -> None:
    one, two = sides
    await join(one, two)
    assert one.interface in one.run("iptables-save")
    await one.network.remove()
    assert one.interface not in one.run("iptables-save")


async def test_a_port_that_is_taken_is_named(sides: tuple[Side, Side]) -> None:
    one, _ = sides
    code = f"import socket,time\ns=socket.socket(2,2)\ns.bind(('0.0.0.0',{PORT}))\nprint(flush=True)\ntime.sleep(60)"
    other = one.start(code)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(NetworkError, match=str(PORT)):
            await one.network.apply(one.state(ONE))
    finally:
        other.kill()
        other.communicate()


@pytest.mark.parametrize(
    ("programs", "text"),
    [((), "ip is not installed"), (("ip",), "wg is not installed"), (("ip", "wg"), INSTALL)],
    ids=["nothing", "ip", "ip and wg"],
)
async def test_what_is_missing_is_named(
    sides: tuple[Side, Side], tmp_path: Path, programs: tuple[str, ...], text: str
) -> None:
    one, _ = sides
    for name in programs:
        found = parts.program(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    assert isinstance(one.network, WireGuard)
    prefix = (*one.command()[:2], "/usr/bin/env", f"PATH={tmp_path}")
    driver = WireGuard(one.interface, one.network._key_path, one.key, prefix=prefix)
    with pytest.raises(NetworkError) as raised:
        await driver.apply(one.state(ONE))
    assert text in str(raised.value)


async def test_the_private_key_is_in_no_argument_and_no_error(sides: tuple[Side, Side], tmp_path: Path) -> None:
    one, two = sides
    log = tmp_path / "words"
    trace = tmp_path / "trace"
    trace.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{log}\nexec "$@"\n')
    trace.chmod(0o755)
    assert isinstance(one.network, WireGuard)
    secret = one.network._key_path.read_text().strip()
    driver = WireGuard(one.interface, one.network._key_path, one.key, prefix=(str(trace), *one.command()[:2]))
    await driver.apply(one.state(ONE, two.peer(TWO)))
    words = log.read_text()
    assert "wg set" in words
    assert secret not in words
    broken = WireGuard(one.interface, tmp_path / "nowhere", two.key, prefix=one.command()[:2])
    with pytest.raises(NetworkError) as raised:
        await broken.apply(one.state(ONE))
    assert secret not in str(raised.value)
