"""Overlay: what passes through WireGuard between two namespaces, against the bare cable between them in the same run.

Peer: the same iperf3 over the same cable without the overlay, by turns. It also tells what a member's peers cost: the
time to write 5,000 of them, to write one more, and to find that nothing has changed. Needs root, iperf3, wg, and the
kernel's WireGuard or wireguard-go; says which it was. JSON to standard output; numbers are medians of `--runs`.

    python benchmarks/overlay.py [--runs 3] [--seconds 3] [--peers 5000]
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from machine import describe

from fallow.drivers.network.wireguard import WireGuard
from fallow.model.members import Lease
from fallow.model.network import NetworkPeer, NetworkReport, NetworkState
from fallow.model.pools import NetworkMode

PORT = 8455
IPERF_PORT = 5201


@dataclass
class Side:
    """One end of the cable: its namespace, its driver, its address on the cable and in the overlay."""

    namespace: str
    network: WireGuard
    underlay: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Return the words for a command in the namespace."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *words]

    def ip(self, *words: str) -> None:
        """Run `ip` in the namespace."""
        subprocess.run(self.command("ip", *words), check=True)

    def peer(self) -> NetworkPeer:
        """Return this side as the other sees it."""
        return NetworkPeer(key=self.network.key, address=self.address, endpoint=f"{self.underlay}:{PORT}")

    def state(self, *peers: NetworkPeer) -> NetworkState:
        """Return this side's network with these peers."""
        lease = Lease(address=self.address, prefix_length=16, agent_port=PORT, mode=NetworkMode.WIREGUARD, pool="p")
        return NetworkState(lease=lease, peers=peers)


@contextmanager
def cable() -> Iterator[tuple[Side, Side]]:
    """Two namespaces with a cable between them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = [_side(number, Path(folder), stack) for number in (1, 2)]
        one, two = sides
        one.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", two.namespace)
        for side in sides:
            side.ip("link", "set", "lo", "up")
            side.ip("address", "add", f"{side.underlay}/24", "dev", "eth0")
            side.ip("link", "set", "eth0", "up")
        yield one, two


def _side(number: int, folder: Path, stack: ExitStack) -> Side:
    private = X25519PrivateKey.generate()
    path = folder / f"{number}.key"
    path.touch(0o600)
    path.write_bytes(base64.b64encode(private.private_bytes_raw()))
    namespace = f"fwb{os.getpid()}-{number}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    stack.callback(subprocess.run, ["ip", "netns", "del", namespace], check=False)
    prefix = ("nsenter", f"--net=/run/netns/{namespace}")
    key = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    network = WireGuard(f"fwb{os.getpid() % 10**7}{number}", path, key, prefix=prefix)
    stack.callback(lambda: asyncio.run(network.remove()))
    return Side(namespace, network, f"192.0.2.{number}", f"10.86.0.{number}")


def throughput(client: Side, server: Side, address: str, seconds: float) -> float:
    """Return what one TCP stream carries, in Gbit/s."""
    words = server.command("iperf3", "--server", "--one-off", "--forceflush", "--port", str(IPERF_PORT))
    listening = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert listening.stdout is not None
        while "listening" not in (line := listening.stdout.readline()):
            if not line:
                raise RuntimeError("iperf3 does not start")
        asked = ["iperf3", "--client", address, "--port", str(IPERF_PORT), "--time", str(seconds), "--json"]
        done = subprocess.run(client.command(*asked), capture_output=True, text=True, check=True)
    finally:
        listening.kill()
        listening.communicate()
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def round_trip_ms(client: Side, address: str) -> float:
    """Return the median round trip of a TCP connection and one byte each way, without the connection's own."""
    code = (
        "import socket, statistics, sys, time\n"
        "s = socket.create_connection((sys.argv[1], 7777))\n"
        "s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
        "def ask():\n begun = time.perf_counter()\n s.sendall(b'x')\n s.recv(1)\n return time.perf_counter() - begun\n"
        "print(statistics.median(ask() for _ in range(500)) * 1000)\n"
    )
    words = client.command(sys.executable, "-I", "-c", code, address)
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@contextmanager
def echo(server: Side) -> Iterator[None]:
    """Answer every byte at port 7777."""
    code = (
        "import socketserver\n"
        "class Echo(socketserver.BaseRequestHandler):\n"
        " def handle(self):\n  while data := self.request.recv(9):\n   self.request.sendall(data)\n"
        "with socketserver.ThreadingTCPServer(('0.0.0.0', 7777), Echo) as server:\n"
        " print(flush=True)\n server.serve_forever()\n"
    )
    process = subprocess.Popen(server.command(sys.executable, "-I", "-c", code), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


async def peers_cost(side: Side, count: int) -> dict[str, float]:
    """Return what so many peers cost one member, in seconds."""
    crowd = [
        NetworkPeer(
            key=base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode(),
            address=f"10.86.{100 + number // 250}.{number % 250 + 1}",
            endpoint=f"192.0.2.{number % 200 + 20}:{PORT}",
        )
        for number in range(count + 1)
    ]
    states = {"all": crowd[:count], "nothing_new": crowd[:count], "one_more": crowd, "none_left": []}
    took = {}
    for name, peers in states.items():
        begun = time.perf_counter()
        await side.network.apply(side.state(*peers))
        took[f"{name}_seconds"] = round(time.perf_counter() - begun, 3)
    return took


async def join(one: Side, two: Side) -> NetworkReport:
    """Set up the overlay between both."""
    await two.network.apply(two.state(one.peer()))
    return await one.network.apply(one.state(two.peer()))


def measure(runs: int, seconds: float, peers: int) -> dict[str, Any]:
    """Return everything, overlay and bare cable by turns."""
    rates: dict[str, list[float]] = {"overlay": [], "bare": []}
    trips: dict[str, list[float]] = {"overlay": [], "bare": []}
    with cable() as (one, two):
        report = asyncio.run(join(one, two))
        for _ in range(runs):
            for name, address in (("overlay", two.address), ("bare", two.underlay)):
                rates[name].append(throughput(one, two, address, seconds))
                with echo(two):
                    trips[name].append(round_trip_ms(one, address))
        cost = asyncio.run(peers_cost(one, peers))
    rate = {name: round(statistics.median(found), 3) for name, found in rates.items()}
    return {
        "machine": describe(),
        "implementation": report.implementation,
        "mtu": report.mtu,
        "gbit_per_second": rate,
        "share_of_bare": round(rate["overlay"] / rate["bare"], 3),
        "round_trip_ms": {name: round(statistics.median(found), 3) for name, found in trips.items()},
        "peers": {"count": peers, **cost},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--peers", type=int, default=5000)
    wanted = parser.parse_args()
    print(json.dumps(measure(wanted.runs, wanted.seconds, wanted.peers), indent=2))


if __name__ == "__main__":
    main()
