"""Networks for the contract suite: the fake, and WireGuard between two namespaces joined by a cable."""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fallow.drivers.network.contract import Network
from fallow.drivers.network.fake import FakeNetwork
from fallow.drivers.network.wireguard import WireGuard
from fallow.model.members import Lease
from fallow.model.network import NetworkPeer, NetworkState
from fallow.model.pools import NetworkMode
from testbed import parts
from testbed.processes import run

PORT = 8455


def key_pair() -> tuple[str, str]:
    """Return a private and its public key, in base64."""
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return base64.b64encode(private.private_bytes_raw()).decode(), base64.b64encode(public).decode()


def lease(address: str, length: int = 16) -> Lease:
    return Lease(address=address, prefix_length=length, agent_port=PORT, mode=NetworkMode.WIREGUARD, pool="p")


@dataclass
class Side:
    """One machine: its network, the address it is dialled at, and its words for a command in its namespace."""

    network: Network
    key: str
    underlay: str
    namespace: str = ""
    interface: str = ""

    def peer(self, address: str, endpoint: str | None = None) -> NetworkPeer:
        return NetworkPeer(key=self.key, address=address, endpoint=endpoint or f"{self.underlay}:{PORT}")

    def state(self, address: str, *peers: NetworkPeer, length: int = 16, keepalive: int = 0) -> NetworkState:
        return NetworkState(lease=lease(address, length), peers=peers, keepalive_seconds=keepalive)

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *words]

    def pings(self, address: str, seconds: int = 10) -> bool:
        """Say whether an answer comes in time; a single packet may be lost while an address or a key is settled."""
        words = self.command("busybox", "ping", "-c1", "-W1", address)
        ends = time.monotonic() + seconds
        while True:
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return True
            if time.monotonic() >= ends:
                return False

    def run(self, *words: str) -> str:
        return run(*self.command(*words))

    def ip(self, *words: str) -> str:
        return self.run("ip", *words)

    def start(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a piece of Python in the namespace."""
        words = self.command(sys.executable, "-I", "-c", code, *arguments)
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


@contextmanager
def fakes() -> Iterator[tuple[Side, Side]]:
    sides = (("192.0.2.1", key_pair()[1]), ("192.0.2.2", key_pair()[1]))
    yield tuple(Side(FakeNetwork(key, [address]), key, address) for address, key in sides)  # type: ignore[misc]


@contextmanager
def wireguards() -> Iterator[tuple[Side, Side]]:
    """Two namespaces on one cable, 192.0.2.1 and 192.0.2.2."""
    parts.require("wireguard", "busybox")
    folder = Path(tempfile.mkdtemp(prefix="fallow-network-"))
    tag = f"{os.getpid() % 0xFFFFF:05x}"
    sides: list[Side] = []
    try:
        for number in (1, 2):
            private, public = key_pair()
            path = folder / f"{number}.key"
            path.touch(0o600)
            path.write_text(private + "\n")
            namespace, interface = f"fwn-{tag}-{number}", f"fwn{tag}{number}"
            run("ip", "netns", "add", namespace)
            prefix = ("nsenter", f"--net=/run/netns/{namespace}")
            network = WireGuard(interface, path, public, prefix=prefix)
            sides.append(Side(network, public, f"192.0.2.{number}", namespace, interface))
        one, two = sides
        one.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", two.namespace)
        for side in sides:
            side.ip("link", "set", "lo", "up")
            side.ip("address", "add", f"{side.underlay}/24", "dev", "eth0")
            side.ip("address", "add", f"2001:db8::{side.underlay[-1]}/64", "dev", "eth0", "nodad")
            side.ip("link", "set", "eth0", "up")
        yield one, two
    finally:
        for side in sides:
            subprocess.run(side.command("ip", "link", "del", side.interface), capture_output=True, check=False)
            run("ip", "netns", "del", side.namespace, check=False)
        shutil.rmtree(folder)
