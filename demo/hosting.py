"""The act of a server that lends: its virtual machine joins, takes replicas, and is left when the primary wants all."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.load import Load
from demo.screen import Screen
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.vms import LENT_GROUP
from testbed.cluster import Cluster
from testbed.processes import TestbedError
from testbed.servers import LendingServer
from testbed.vms import VmGround

COMPOSE = Path(__file__).parent.parent / "examples" / "lent" / "compose.yaml"
HOST = "lent.localhost"
SERVER, VM = "srv1", "srv1-vm"
GIB = 2**30
THRESHOLD, CEILING = 0.95, 0.97
SUMS_CPUS = 0.1  # as the Compose file says
LOOK_SECONDS = 0.02
WATCH_SECONDS = 20.0
GONE = ("stopping", "stopped", "failed", "lost")  # states of a replica that no gateway knows any more


@dataclass(frozen=True)
class Size:
    """A server, what its primary takes when it spikes, and what is deployed to what is left. Processors."""

    cpus: float
    spike_cpus: float  # leaves `web` less than 60 % of what it asks for, so that it is moved
    web_cpus: float
    one_request_in: int  # is for what runs there: an emulated processor answers some 20 a second
    join_seconds: float  # at the longest
    policy: tuple[str, ...]

    @property
    def limit_cpus(self) -> float:
        """Return what may be lent at most during the spike."""
        return self.cpus * CEILING - self.spike_cpus


GROUP = Size(1.2, 0.98, 0.28, 4, 90, ("--isolation", "cgroup"))
MACHINE = Size(1.35, 0.98, 0.54, 10, 400, ("--isolation", "vm", "--vm-cpus", "1", "--vm-memory", "768MiB"))


@dataclass
class HostingFigures:
    """What the act measured; times in seconds."""

    joined_after: float = 0.0
    serving_after: float = 0.0
    limited_after: float = 0.0
    moved_after: float = 0.0


class Hosting:
    """One server beside the nodes; with a ground its lent capacity is a virtual machine, else a control group."""

    def __init__(self, cluster: Cluster, screen: Screen, load: Load) -> None:
        self.cluster, self.screen, self.load = cluster, screen, load
        self.ground: VmGround | None = None
        self.server: LendingServer | None = None
        self.figures = HostingFigures()

    @property
    def size(self) -> Size:
        """Return what the server is like."""
        return GROUP if self.ground is None else MACHINE

    def join(self) -> None:
        """Let a server join that runs something of its own, and wait until what it lends is a node."""
        shares = ("--cpu-threshold", f"{THRESHOLD:.0%}", "--cpu-ceiling", f"{CEILING:.0%}", "--evict-after", "2s")
        self.cluster.fallow("server-pool", "policy", "set", "default", *shares, *self.size.policy)
        self.cluster.boot(SERVER)
        self.server = LendingServer(self.cluster, SERVER, self.size.cpus, 4 * GIB)
        options = self.ground.options if self.ground is not None else ()
        token = self.cluster.fallow("server", "token", "create", "--name", SERVER, "--quiet").strip()
        began = time.time()
        self.server.join(*options, token=token)
        self._wait(self._joined, "what the server lends is a node", self.size.join_seconds)
        self.figures.joined_after = self.cluster.members()[VM]["state_since"] - began
        self._wait(self._roomy, "room on the server for what is deployed next", 90)
        self.screen.say(self.cluster.fallow("vm", "list"))

    def use(self, image: str) -> None:
        """Deploy what would rather run on lent capacity than anywhere else."""
        began = time.time()
        settings = {"LENT_IMAGE": image, "LENT_WEB_CPUS": str(self.size.web_cpus)}
        self.cluster.fallow("deploy", str(COMPOSE), "--timeout", "240s", env=settings, timeout=260)
        self.figures.serving_after = time.time() - began
        nodes = {one["node"] for one in self._replicas()}
        if nodes != {VM}:
            raise TestbedError(f"what prefers lent capacity is on {', '.join(sorted(nodes))}\n{self._told()}")
        self.load.ask_too(HOST, self.size.one_request_in)
        self.screen.say(self.cluster.fallow("top", "--once", "--vms"))

    def spike(self) -> None:
        """Let the primary take what it wants: the limit falls, then what has no room left moves."""
        assert self.server is not None
        limits = KernelLimits(f"{self.server.within}/{LENT_GROUP}")
        began = time.time()
        watch = threading.Thread(target=self._watch, args=(limits, began), daemon=True)
        watch.start()
        self.server.spike(self.size.spike_cpus)
        watch.join()
        self.screen.say(self.cluster.fallow("top", "--once", "--vms"))
        self._wait(self._moved, "what was on lent capacity elsewhere", 90)
        self.figures.moved_after = time.time() - began
        self.screen.say(self.cluster.fallow("replica", "list", "--project", "lent", "--all"))

    def leave(self) -> None:
        """Take the server, and what was deployed for it, out of the story."""
        assert self.server is not None
        self.load.ask_as_before()
        self.server.calm()
        self.screen.say(self.cluster.fallow("server", "drain", SERVER, "--timeout", "60s").splitlines()[-1])
        self.cluster.fallow("deployment", "delete", "lent/web", "lent/sums", "--wait")
        self.cluster.fallow("server", "remove", SERVER)
        self.close()

    def close(self) -> None:
        """End the server with all it runs."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def _watch(self, limits: KernelLimits, began: float) -> None:
        """Note when the kernel's own limit is down."""
        while time.time() - began < WATCH_SECONDS:
            held = limits.cpus()
            if held is not None and held <= self.size.limit_cpus + 0.05:
                self.figures.limited_after = time.time() - began
                return
            time.sleep(LOOK_SECONDS)

    def _joined(self) -> bool:
        return self.cluster.members().get(VM, {}).get("state") == "ready"

    def _roomy(self) -> bool:
        """Say whether the offer has room for both services; it fell while everything started, and rises slowly."""
        report = self.cluster.call("server", "show", SERVER, "--json")["report"]
        return bool(report["lends"] and report["offer_cpus"] >= self.size.web_cpus + SUMS_CPUS)

    def _replicas(self) -> list[dict[str, Any]]:
        return [one for one in self.cluster.replicas() if one["project"] == "lent" and one["state"] not in GONE]

    def _moved(self) -> bool:
        found = self._replicas()
        ready = {one["deployment"] for one in found if one["state"] == "running" and one["health"] != "unhealthy"}
        return ready == {"web", "sums"} and VM not in {one["node"] for one in found}

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        try:
            self.cluster.wait(condition, seconds, what)
        except TestbedError as error:
            raise TestbedError(f"{error}\n{self._told()}") from error

    def _told(self) -> str:
        """Return what a person would look at when something is not as it should be."""
        told = [self.cluster.fallow("explain", SERVER), self.cluster.fallow("events", "--since", "3m")]
        if self.server is not None:
            told.append(self.server.log.read_text()[-2000:])
        if self.ground is not None:
            told.append(self.ground.consoles()[-2000:])
        return "\n".join(told)
