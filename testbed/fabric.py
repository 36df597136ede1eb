"""A private network on this machine: a bridge, a namespace for each node, and cables that can be pulled.

Everything a fabric makes carries its number: the folder /tmp/fallow-testbed-7, the namespaces fw7 and fw7-NAME, the
interface fw7 and the subnet 10.99.7.0/24. So two runs never meet, and what a crashed run left behind can be told apart.
"""

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import processes
from testbed.processes import TestbedError, run

_PREFIX = "fallow-testbed-"
_OWNERLESS_SECONDS = 60  # a folder this young without an owner is just being made


@dataclass(frozen=True)
class NodeNetwork:
    """One node's place on the fabric."""

    name: str
    number: int
    address: str
    namespace: str
    cable: str  # the fabric's end of it

    @property
    def path(self) -> str:
        """Return the namespace's file, for `nsenter --net=`."""
        return f"/run/netns/{self.namespace}"


class Fabric:
    """A network of its own, with this machine on it as `host_address`. Use it as a context manager, or close it."""

    def __init__(self, *, base: str = "10.99.0.0/16") -> None:
        """Make the network. `base` is where the subnet (a /24) is taken from. Raises TestbedError."""
        Fabric.sweep()
        self.folder, self.number, self.subnet = _claim(ipaddress.IPv4Network(base))
        self.host_address = str(self.subnet[1])
        self.namespace = f"fw{self.number}"
        self._nodes: dict[str, NodeNetwork] = {}
        self._switches: dict[str, str] = {}  # of machines that are not on the common one
        self._uplinks: dict[str, str] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        name = self.namespace
        run("ip", "netns", "add", name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "host", "netns", name)
        _batch(name, "link set lo up", "link add br0 type bridge", "link set br0 up", "link set host master br0 up")
        _batch("", f"addr add {self.host_address}/24 dev {name}", f"link set {name} up")

    def segment(self, name: str, *machines: str) -> None:
        """Put machines that are not made yet on a switch of their own, whose cable to all others can be pulled."""
        number = len(self._uplinks) + 1
        switch, uplink, inner = f"br{number}", f"up{number}", f"in{number}"
        _batch(
            self.namespace,
            f"link add {switch} type bridge",
            f"link set {switch} up",
            f"link add {uplink} type veth peer name {inner}",
            f"link set {uplink} master br0 up",
            f"link set {inner} master {switch} up",
        )
        self._uplinks[name] = uplink
        self._switches.update(dict.fromkeys(machines, switch))

    def node(self, name: str) -> NodeNetwork:
        """Return the node's network, made afresh: as after a power cut nothing of an earlier one remains."""
        network = self._nodes.get(name)
        if network is None:
            number = len(self._nodes) + 10
            network = NodeNetwork(name, number, str(self.subnet[number]), f"{self.namespace}-{name}", f"v{number}")
            self._nodes[name] = network
        run("ip", "-n", self.namespace, "link", "del", network.cable, check=False)  # `netns del` alone is asynchronous
        run("ip", "netns", "del", network.namespace, check=False)
        run("ip", "netns", "add", network.namespace)
        # The address of the interface is fixed, or neighbours would keep the former one for seconds.
        mac = f"02:fa:00:00:{self.number:02x}:{network.number:02x}"
        switch = self._switches.get(name, "br0")
        peer = f"type veth peer name eth0 netns {network.namespace} address {mac}"
        _batch(self.namespace, f"link add {network.cable} {peer}", f"link set {network.cable} master {switch} up")
        _batch(
            network.namespace,
            f"addr add {network.address}/24 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via {self.host_address}",
        )
        return network

    def cut(self, name: str) -> None:
        """Pull the cable of a node or a segment."""
        run("ip", "-n", self.namespace, "link", "set", self._cable(name), "down")

    def restore(self, name: str) -> None:
        """Plug the cable of a node or a segment in again."""
        run("ip", "-n", self.namespace, "link", "set", self._cable(name), "up")

    def _cable(self, name: str) -> str:
        return self._uplinks.get(name) or self._nodes[name].cable

    def popen(
        self, network: NodeNetwork, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in a node's network and nothing else of it; see `EngineNode.run_inside` for all of it."""
        # `ip netns exec` would mount another /sys and so hide the cgroups.
        process = processes.start(["nsenter", f"--net={network.path}", *argv], log, env)
        self.remember(process)
        return process

    def remember(self, process: subprocess.Popen[bytes]) -> None:
        """Note a process, so that it is ended with the fabric, or by `sweep` should this program be killed."""
        self._children.append(process)
        with (self.folder / "processes").open("a") as file:
            file.write(f"{process.pid} {processes.start_time(process.pid)}\n")

    def close(self) -> None:
        """Remove everything. Does no harm when done twice."""
        _remove(self.folder)
        for process in self._children:
            process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def sweep() -> list[Path]:
        """Remove what runs left behind whose program is gone; return their folders."""
        gone = [folder for folder in _folders() if not _owned(folder)]
        for folder in gone:
            _remove(folder)
        return gone


def _batch(namespace: str, *commands: str) -> None:
    where = ("-n", namespace) if namespace else ()
    run("ip", *where, "-batch", "-", stdin="\n".join(commands) + "\n")


def _folders() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob(_PREFIX + "[0-9]*"))


def _claim(base: ipaddress.IPv4Network) -> tuple[Path, int, ipaddress.IPv4Network]:
    """Take a number nobody has: making its folder is what claims it."""
    taken = [
        ipaddress.ip_network(route["dst"])
        for route in json.loads(run("ip", "-j", "-4", "route") or "[]")
        if route["dst"] != "default"
    ]
    for number, subnet in enumerate(base.subnets(new_prefix=24)):
        if number == 0 or any(subnet.overlaps(other) and other.prefixlen >= base.prefixlen for other in taken):
            continue
        folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{number}"
        try:
            folder.mkdir(mode=0o755)
        except FileExistsError:
            continue
        (folder / "owner").write_text(f"{os.getpid()} {processes.start_time(os.getpid())}\n")
        return folder, number, subnet
    raise TestbedError(f"no free subnet in {base}")


def _owned(folder: Path) -> bool:
    try:
        pid, started = (folder / "owner").read_text().split()
    except (OSError, ValueError):
        with suppress(OSError):
            return time.time() - folder.stat().st_mtime < _OWNERLESS_SECONDS
        return False
    return processes.start_time(int(pid)) == started


def _remove(folder: Path) -> None:
    """End the processes, then remove networks, cgroups and at last the folder, whose name held the claim."""
    _kill_processes(folder)
    _kill_daemons(folder)
    name = "fw" + folder.name.removeprefix(_PREFIX)
    for namespace in sorted(entry.name for entry in Path("/run/netns").glob(name + "*")):
        if namespace == name or namespace.startswith(name + "-"):
            run("ip", "netns", "del", namespace, check=False)
    run("ip", "link", "del", name, check=False)
    with suppress(TestbedError):
        processes.wait_until(lambda: _remove_cgroups(folder), 5, "cgroups of ended containers")
    shutil.rmtree(folder, ignore_errors=True)


def _kill_daemons(folder: Path) -> None:
    """End what left its parent behind and still works in the folder: a HAProxy outlives the agent that was killed."""
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if entry.readlink().is_relative_to(folder):
                os.kill(int(entry.parent.name), signal.SIGKILL)


def _kill_processes(folder: Path) -> None:
    with suppress(FileNotFoundError):
        entries = [line.split() for line in (folder / "processes").read_text().splitlines()]
        for pid, started in (entry for entry in entries if len(entry) == 2):
            if processes.start_time(int(pid)) != started:
                continue
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
            processes.wait_until(partial(_has_ended, int(pid), started), 10, f"end of {pid}")


def _has_ended(pid: int, started: str) -> bool:
    return processes.start_time(pid) != started


def _remove_cgroups(folder: Path) -> bool:
    """Remove the cgroups of this folder's containers, deepest first; say whether none is left."""
    ids = {entry.name for entry in folder.glob("*/root/*-containers/*") if len(entry.name) == 64}
    own = [cgroup for parent in _cgroups("libpod_parent") for cgroup in parent.iterdir() if cgroup.name[-64:] in ids]
    own += _cgroups(folder.name)
    for cgroup in own:
        for inner in sorted(cgroup.glob("**/"), reverse=True):
            with suppress(OSError):
                inner.rmdir()
    return not any(cgroup.exists() for cgroup in own)


def _cgroups(name: str) -> list[Path]:
    """Return the cgroups of this name directly below the root of each hierarchy, of version 1 or 2."""
    return [path for pattern in (name, f"*/{name}") for path in Path("/sys/fs/cgroup").glob(pattern) if path.is_dir()]
