"""One cluster over three regions: each has a member of the store, a process of the control plane, a gateway and a node.

The nodes of west and east are what servers there lend. Each region has a switch of its own, whose cable can be pulled.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from whole_cluster import Whole, web

from demo.load import Load
from testbed import cgroups, images, parts, processes
from testbed.cluster import FALLOW
from testbed.etcd import EtcdCluster
from testbed.fabric import Fabric, NodeNetwork
from testbed.ports import free_port
from testbed.registry import Registry
from testbed.servers import LendingServer

REGIONS = ("west", "east", "north")
LENDING = ("west", "east")
HTTP_PORT = 8080
GIB = 2**30


class Regional(Whole):
    """The cluster; `asked` is the region whose process people call."""

    etcd: EtcdCluster
    machines: dict[str, NodeNetwork]  # of store member, control plane and gateway, by region
    servers: dict[str, LendingServer]
    asked = ""

    @property
    def environment(self) -> dict[str, str]:
        """Return what makes the command line talk to the region that is asked."""
        return {**super().environment, **(self._calls(self.asked) if self.asked else {})}

    def _calls(self, region: str) -> dict[str, str]:
        return {"FALLOW_CONTEXT": "default", "FALLOW_URL": self.url_in(region)}

    def turn_to(self, region: str) -> None:
        """Call the process of another region from now on."""
        self.asked = region
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    def url_in(self, region: str) -> str:
        """Return where the process of a region is reached."""
        return f"https://{self.machines[region].address}:{self.port}"

    def store_options(self, region: str) -> Sequence[str]:
        """Return what the process of a region is told: where it is, and the members of the store, its own first."""
        order = sorted(REGIONS, key=lambda other: other != region)
        places = ",".join(f"{other}/{other}-a" for other in order)
        hosts = ",".join(self.etcd.endpoint(self.etcd.names[REGIONS.index(other)]) for other in order)
        return ("--store", f"etcd://{hosts}?places={places}", "--region", region, "--zone", f"{region}-a")

    def node_in(self, region: str) -> str:
        """Return the name of the node of a region."""
        return f"{region}-srv-vm" if region in LENDING else f"{region}-node"

    def where(self) -> dict[str, int]:
        """Return how many healthy replicas the nodes have, by region; `-` for those that are anything else."""
        regions = {self.node_in(region): region for region in REGIONS}
        found: dict[str, int] = {}
        for replica in self.running("test/web"):
            place = regions.get(str(replica["node"]), "-") if replica["health"] == "healthy" else "-"
            found[place] = found.get(place, 0) + 1
        return found

    def wait_where(self, seconds: float = 60, **wanted: int) -> None:
        """Wait until so many replicas are healthy in these regions, and nothing else is there."""
        told: dict[str, int] = {}

        def so() -> bool:
            told.clear()
            told.update(self.where())
            return told == wanted

        try:
            self.wait(so, seconds, f"replicas {wanted}")
        except processes.TestbedError as error:
            looks = (("replica", "list"), ("node", "list", "--role", "all"), ("events", "--since", "2m"))
            raise processes.TestbedError(
                "\n".join([str(told), *(self.fallow(*look) for look in looks), str(error)])
            ) from None

    def wait_lending(self) -> None:
        """Wait until both servers take something."""

        def so() -> bool:
            found = self.call("server", "list", "--json")["items"]
            return all(not one["why_not"] and one["offered_cpus"] >= 0.1 for one in found)

        try:
            self.wait(so, 60, "both servers lend")
        except processes.TestbedError as error:
            told = "\n".join(self.fallow("explain", f"{region}-srv") for region in LENDING)
            raise processes.TestbedError(f"{told}\n{error}") from None

    def really(self) -> dict[str, set[str]]:
        """Return the replicas whose containers the engines really run, by region."""
        return {region: set(self.containers(self._machine(region))) for region in REGIONS}

    def _machine(self, region: str) -> str:
        return f"{region}-srv" if region in LENDING else f"{region}-node"

    def answers_inside(self, region: str, count: int) -> list[str]:
        """Ask a region's gateway from inside of it; return who answered each request, or its status and error."""
        url = f"http://127.0.0.1:{HTTP_PORT}/?[1-{count}]"
        argv = ["curl", "-s", "-m", "5", "-H", "Host: web.test", "-w", "\\n%{http_code}\\n", url]
        told = self.inside(region, *argv).stdout.splitlines()
        bodies, statuses = [line for line in told if line.startswith("{")], [line for line in told if line.isdigit()]
        failed = [status for status in statuses if status != "200"]
        return failed or [json.loads(body)["replica"] for body in bodies]

    def inside(self, region: str, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on a region's machine and return what came of it."""
        where = ("nsenter", f"--net={self.machines[region].path}")
        return subprocess.run([*where, *argv], capture_output=True, text=True, timeout=60, check=False)

    def write_inside(self, region: str) -> "subprocess.Popen[bytes]":
        """Begin to write through a region's own process, from inside of it."""
        return self.fabric.popen(
            self.machines[region],
            [FALLOW, "token", "create", "--role", "node", "--quiet"],
            self.folder / f"write-in-{region}.log",
            {**super().environment, **self._calls(region)},
        )

    def leading(self) -> str:
        """Return the region of the process that leads, as the region that is asked says; empty: nobody."""
        return next((peer["region"] for peer in self.call("peer", "list", "--json")["items"] if peer["leads"]), "")

    def web(self, replicas: int) -> str:
        """Return the Compose file of the web service, spread over regions."""
        reservations = {"cpus": "0.01", "memory": "32M"}
        return web(
            self.image,
            deploy={"replicas": replicas, "resources": {"reservations": reservations}},
            fallow={
                "class": "harvest",
                "spread": ["region"],
                "health": {"http": "/healthz", "interval": "500ms", "timeout": "5s", "retries": 3},
            },
            stop_grace_period="1s",
        )

    @contextmanager
    def load_outside(self, region: str) -> Iterator[Sequence[Load]]:
        """Send requests to the gateways of all other regions meanwhile."""
        others = [other for other in REGIONS if other != region]
        loads = [Load(self.machines[other].address, HTTP_PORT, ["web.test"], clients=2) for other in others]
        for load in loads:
            load.start()
        try:
            yield loads
        finally:
            for load in loads:
                load.stop()


@contextmanager
def regional() -> Iterator[Regional]:
    """Make the cluster, with everything joined in the region where it is."""
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl", "podman", "etcd")
    if (reason := cgroups.missing()) is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        fabric = stack.enter_context(Fabric())
        names = {region: (f"{region}-cp", f"{region}-srv", f"{region}-node") for region in REGIONS}
        for region, machines in names.items():
            fabric.segment(region, *machines)
        networks = {region: fabric.node(f"{region}-cp") for region in REGIONS}
        etcd = stack.enter_context(EtcdCluster(networks=list(networks.values())))
        registry = Registry(fabric)
        cluster = Regional(fabric, insecure_registries=(registry.address,), port=free_port(17443))
        cluster.machines, cluster.etcd, cluster.network = networks, etcd, networks["west"]
        cluster.server_options = cluster.store_options("west")
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        cluster.servers = {}
        try:
            _start(cluster, registry.address)
            yield cluster
        finally:
            for server in cluster.servers.values():
                server.close()
            cluster.close()


def _start(cluster: Regional, registry: str) -> None:
    cluster.power_on(*(f"{region}-srv" if region in LENDING else f"{region}-node" for region in REGIONS))
    cluster.start_server()
    cluster.fallow("registry", "add", registry, "--insecure")
    cluster.server_options = ()
    for region in REGIONS[1:]:
        cluster.start_peer(region, cluster.port, cluster.machines[region], *cluster.store_options(region))
    levels = ("--cpu-threshold", "90%", "--cpu-ceiling", "95%")
    policy = ("--isolation", "cgroup", "--backoff", "0s", *levels)
    cluster.fallow("server-pool", "create", "lenders", "--on", "region")
    cluster.fallow("server-pool", "policy", "set", "lenders", *policy)
    for region in REGIONS:
        labels = ("--label", f"region={region}", "--label", f"zone={region}-a")
        url, machine = cluster.url_in(region), cluster.machines[region]
        token = cluster.token("gateway", *labels)
        cluster.start_gateway(f"{region}-gw", HTTP_PORT, token, network=machine, url=url)
        if region in LENDING:
            name = f"{region}-srv"
            cluster.nodes[name].wait_ready()
            cluster.servers[region] = LendingServer(cluster, name, 1.0, 4 * GIB)
            cluster.servers[region].join(token=cluster.token("server", *labels), url=url)
        else:
            name = f"{region}-node"
            cluster.nodes[name].wait_ready()
            cluster.join(name, "--name", name, token=cluster.token("node", *labels), url=url)
    cluster.wait_ready(*(f"{region}-gw" for region in REGIONS), *map(cluster.node_in, REGIONS), seconds=60)
