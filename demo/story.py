"""What happens in the demo, in order; each step says what it does and measures how long it took."""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from demo.clusters import Clusters
from demo.hosting import Hosting
from demo.load import Load
from demo.names import Names
from demo.screen import Screen
from testbed import images
from testbed.cluster import Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.registry import Registry
from testbed.vms import VmGround

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "examples" / "shop" / "compose.yaml"
NODES = ("n1", "n2", "n3", "n4")
HOSTS = ("shop.localhost", "api.shop.localhost")
REPLICAS = 8
SETTLE_SECONDS = 2.0
EMULATED_PACE_SECONDS = 0.25  # between requests of a client: an emulated machine shares the processors with them


@dataclass
class Figures:
    """What the demo measured; times in seconds."""

    join_to_ready: list[float] = field(default_factory=list)
    deploy_to_serving: float = 0.0
    full_strength_again: float = 0.0
    suspected_after: float = 0.0
    cut_at: float = 0.0
    updated_after: float = 0.0
    pulled_ahead: int = 0  # nodes
    rolled_back_after: float = 0.0
    name_gone_after: float = 0.0
    suspected_at: float = 0.0


class Story:
    """The stage and what is played on it."""

    def __init__(self, fabric: Fabric, screen: Screen, with_vm: bool = False) -> None:
        """Prepare; `with_vm`: what a server lends is a virtual machine, and there are no further clusters."""
        self.fabric = fabric
        self.with_vm = with_vm
        self.phases: list[str] = []  # that were played, in order
        self.screen = screen
        self.figures = Figures()
        self.http_port = free_port(8080)
        self.load = Load("127.0.0.1", self.http_port, HOSTS)
        self.registry: Registry | None = None
        self.names = Names("127.0.0.1", free_port(8453))
        options = ("--dns-listen", self.names.place)
        self.cluster = Cluster(fabric, port=free_port(7443), server_options=options)
        self.clusters = Clusters(self.cluster, screen)
        self.hosting = Hosting(self.cluster, screen, self.load)
        self.ground: VmGround | None = None

    def play(self) -> None:
        """Play everything up to the end of the load."""
        self.prepare()
        self.join_nodes()
        self.deploy()
        self.load.start()
        self._phase("steady", lambda: time.sleep(SETTLE_SECONDS))
        self._phase("scale up", lambda: self._scale(10))
        self._phase("scale down", lambda: self._scale(6))
        self._phase("drain a node", self.drain)
        self._phase("new version", self.update)
        self._phase("bad version", self.bad_update)
        self._phase("clean images", self.clean)
        self.screen.say(self.cluster.fallow("image", "job", "list"))
        self.screen.say(self.cluster.fallow("image", "list"))
        self._phase("power cut", self.power_cut)
        self._lend()
        if not self.with_vm:
            self._federate()
        self._phase("after", lambda: None)
        self.load.stop()

    def _lend(self) -> None:
        """Play the act of a server that lends."""
        if self.with_vm:
            with self.screen.step("starting libvirt, with an image made of this machine's own programs"):
                self.ground = VmGround(self.fabric, accelerator="auto")
                self.hosting.ground = self.ground
            self.load.pace_seconds = EMULATED_PACE_SECONDS
        self._phase("a server lends", self.hosting.join)
        self._phase("deploy to what it lends", lambda: self.hosting.use(self.image2))
        self._phase("its primary spikes", self.hosting.spike)
        self._phase("give all of it back", self.hosting.leave)

    def _federate(self) -> None:
        """Play the act of several clusters."""
        self._phase("two clusters join", self.clusters.join)
        self._phase("move to them", self.clusters.take_over)
        self._phase("drain a cluster", self.clusters.drain)
        self._phase("use it again", self.clusters.grow)
        self._phase("lose a cluster", self.clusters.lose)

    def close(self) -> None:
        """End everything that was started; the fabric is closed by whoever made it."""
        self.load.stop()
        self.hosting.close()
        if self.ground is not None:
            self.ground.close()
        self.clusters.close()
        self.cluster.close()

    def prepare(self) -> None:
        """Start what is there before any node: a registry with an image, the control plane."""
        with self.screen.step("starting a registry, building a web image from nothing and pushing it"):
            self.registry = Registry(self.fabric)
            self.image = images.push(self.registry.address, "shop:1", images.shop("1"))
            self.image2 = images.push(self.registry.address, "shop:2", images.shop("2"))
            self.bad_image = images.push(
                self.registry.address, "shop:3", replace(images.busybox(), command=("/bin/false",))
            )
        self.cluster.insecure_registries = (self.registry.address,)
        with self.screen.step("starting the control plane, with a pool that leases come from"):
            self.cluster.start_server()
            self.cluster.fallow("pool", "create", "default", "--cidr", str(self.fabric.subnet))
            self.cluster.fallow("registry", "add", self.registry.address, "--insecure")

    def join_nodes(self) -> None:
        """Boot four machines and a gateway, and let them join."""
        with self.screen.step(f"switching on {len(NODES)} machines, each with a container engine of its own"):
            self.cluster.boot(*NODES)
        with self.screen.step("joining them, and a gateway on this machine"):
            began = {}
            for name in NODES:
                zone = "a" if name in NODES[:2] else "b"
                token = self.cluster.token("node", "--label", f"zone={zone}")
                began[name] = time.time()
                self.cluster.join(name, "--name", name, "--function", "demo node", token=token)
            token = self.cluster.token("gateway")
            self.cluster.start_gateway("gw1", self.http_port, token)
            self.cluster.wait_ready(*NODES, "gw1")
            members = self.cluster.members()
            self.figures.join_to_ready = [members[name]["state_since"] - began[name] for name in NODES]
        self.screen.say(self.cluster.fallow("node", "list", "--role", "all"))
        self.screen.say(self.cluster.fallow("pool", "leases", "default"))
        self.screen.say(self._looked_up(*(f"{name}.node" for name in NODES), "gw1.gateway"))

    def deploy(self) -> None:
        """Bring up the shop."""
        began = time.time()
        with self.screen.step("fallow deploy examples/shop/compose.yaml: 8 replicas of two services"):
            self.cluster.fallow("deploy", str(COMPOSE), env={"SHOP_IMAGE": self.image})
            for host in HOSTS:
                self._wait(lambda host=host: _answers(self.http_port, host), f"{host} serving")
        self.figures.deploy_to_serving = time.time() - began
        self.screen.say(self.cluster.fallow("deployment", "list"))
        self.screen.say(self.cluster.fallow("route", "list"))
        self.screen.say(self._looked_up("web.shop.svc", "api.shop.svc"))

    def drain(self) -> None:
        """Empty a node while it works; its replicas are replaced first."""
        self.cluster.fallow("node", "drain", NODES[0], "--timeout", "60s")
        self._wait_full()
        self.cluster.fallow("node", "uncordon", NODES[0])

    def update(self) -> None:
        """Deploy the second version; it takes over two replicas at a time, each proved before the old one leaves."""
        began = time.time()
        versions = {"SHOP_IMAGE": self.image2, "SHOP_VERSION": "2"}
        self.cluster.fallow("deploy", str(COMPOSE), "--timeout", "90s", env=versions)
        self.figures.updated_after = time.time() - began
        self.figures.pulled_ahead = self._pulled_ahead()
        self._wait_full()

    def _pulled_ahead(self) -> int:
        """Return on how many nodes the update's image was there before a replica was replaced."""
        ahead = [task for task in self.cluster.call("image", "job", "export") if task["job_id"].startswith("a-")]
        return len({task["node"] for task in ahead if task["state"] == "done"})

    def clean(self) -> None:
        """Delete on all nodes what no deployment needs any more, even to go back."""
        self.cluster.fallow("image", "clean", "--on", "all", "--unused-for", "0s")

    def bad_update(self) -> None:
        """Deploy a version that ends as soon as it starts; it goes back by itself, and no request notices."""
        began = time.time()
        versions = {"SHOP_IMAGE": self.bad_image, "SHOP_VERSION": "3"}
        self.cluster.fallow("deploy", str(COMPOSE), "--no-wait", env=versions)

        def rolled_back() -> bool:
            return all(item["update"]["state"] == "rolled-back" for item in self.cluster.deployments().values())

        self._wait(rolled_back, "the bad version rolled back")
        self.figures.rolled_back_after = time.time() - began
        self._wait_full()

    def power_cut(self) -> None:
        """Cut the power of a node that holds replicas, without a word to anybody."""
        node = self.cluster.nodes[NODES[1]]
        self.figures.cut_at = time.time()
        node.power_cut()
        self._wait(lambda: self._state_of(NODES[1]) != "ready", "the dead node suspected")
        self.figures.suspected_at = self.cluster.members()[NODES[1]]["state_since"]
        self._wait(lambda: not self.names.addresses(f"{NODES[1]}.node"), "the dead node's name gone")
        gone_at = time.time()
        self._wait(lambda: self._state_of(NODES[1]) == "dead", "the dead node declared dead")
        self.figures.name_gone_after = gone_at - self.cluster.members()[NODES[1]]["state_since"]
        self._wait_full()
        self.figures.full_strength_again = time.time() - self.figures.cut_at

    def in_flight_failures(self) -> int:
        """Return the failures that a power cut may cost: begun before the dead node was suspected."""
        return sum(
            failure.phase == "power cut" and failure.at <= self.figures.suspected_at for failure in self.load.failures
        )

    def _looked_up(self, *names: str) -> str:
        """Return what the control plane's name server says of these names."""
        return "\n".join(f"{self.names.full(name)}  {'  '.join(self.names.addresses(name))}" for name in names)

    def _phase(self, name: str, act: Callable[[], None]) -> None:
        self.load.phase = name
        self.phases.append(name)
        with self.screen.step(name, lambda: f"{self.load.sent[name]} requests, {self.load.failed(name)} failed"):
            act()
            time.sleep(SETTLE_SECONDS)  # what a step leaves behind shows a little later, and counts for it

    def _scale(self, replicas: int) -> None:
        self.cluster.fallow("deployment", "scale", f"shop/web={replicas}")
        self._wait_full()

    def _wait_full(self) -> None:
        """Wait until every deployment has what it wants, and nothing is leaving any more."""

        def full() -> bool:
            found = [item["counts"] for item in self.cluster.deployments().values()]
            return all(counts["healthy"] == counts["wanted"] and counts["leaving"] == 0 for counts in found)

        self._wait(full, "full strength")

    def _state_of(self, name: str) -> str:
        return str(self.cluster.members()[name]["state"])

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
        self.cluster.wait(condition, seconds, what)


def _answers(port: int, host: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": host})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
