"""A host and member clusters of the real command with real engines, a registry and a gateway."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import yaml
from whole_cluster import Whole, replicas_on, web

from demo.load import Load
from fallow.client.errors import ClientError
from testbed import images, parts, processes
from testbed.cluster import FALLOW, Cluster
from testbed.fabric import Fabric
from testbed.federation import Federation, join_nodes
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry

WEIGHTED = "divide: weighted, where: region, weights: {west: 2, east: 1}"
PATH = "test/web"
WATCH_SECONDS = 0.05


class Joined(Federation):
    """A host with a gateway, mostly without nodes of its own; what has joined it lies in a region of its own name."""

    host: Whole
    clusters_policy = WEIGHTED
    cpus = "0.05"  # that each replica reserves; a node has two

    def deploy(self, replicas: int, version: str = "1", *options: str) -> None:
        """Deploy the web service with so many replicas in all."""
        image = self.host.image2 if version == "2" else self.host.image
        deploy = {
            "replicas": replicas,
            "update_config": {"parallelism": 2, "monitor": "1s"},
            "resources": {"reservations": {"cpus": self.cpus, "memory": "32M"}},
        }
        # A busy machine may let it start slowly: that would be a version that fails, and is taken back.
        health = {"http": "/healthz", "interval": "300ms", "retries": 2, "start_period": "20s"}
        fallow = {"health": health, "clusters": yaml.safe_load(f"{{{self.clusters_policy}}}")}
        self.host.deploy(web(image, version=version, deploy=deploy, fallow=fallow), *options)

    def wait_shares(self, seconds: float = 30, path: str = PATH, **wanted: int) -> None:
        """Wait until exactly so many replicas are ready in these clusters, and nothing is on the move."""

        def so() -> bool:
            division = self.division(path)
            ready = {share["cluster"]: share["ready"] for share in division["shares"] if share["ready"]}
            return ready == wanted and not division["moving"]

        try:
            self.host.wait(so, seconds, f"ready: {wanted}")
        except TestbedError as error:
            raise TestbedError(f"{error}\n{self.host.fallow('deployment', 'division', path)}") from None

    def told(self, path: str = PATH) -> dict[str, int]:
        """Return how many replicas each cluster is told to run, but for none."""
        shares: list[dict[str, Any]] = self.division(path)["shares"]
        return {share["cluster"]: share["replicas"] for share in shares if share["replicas"]}

    def settled(self) -> dict[str, int]:
        """Wait until all of the web service is ready and nothing is on the move; return what each cluster is told."""

        def so() -> bool:
            division = self.division()
            return division["ready"] == division["total"] and not division["moving"]

        try:
            self.host.wait(so, 40, "settled")
        except TestbedError as error:
            raise TestbedError(f"{error}\n{self.host.fallow('deployment', 'division', PATH)}") from None
        return self.told()

    def division(self, deployment: str = PATH) -> dict[str, Any]:
        """Return a deployment's division as the host tells it."""
        return super().division(deployment)

    def site(self, name: str) -> Cluster:
        """Return a cluster by its name at the host, which is `here` itself."""
        return self.host if name == "here" else self.members[name]

    def containers(self, name: str) -> int:
        """Return how many replicas the engines of a cluster really run."""
        return sum(len(replicas_on(node)) for node in self.site(name).nodes.values())

    def wait_versions(self, version: str, seconds: float = 30) -> None:
        """Wait until no other version of the web service answers any more."""

        def answers() -> set[str]:
            return {json.loads(self.host.get("web.test")[1])["version"] for _ in range(20)}

        self.host.wait(lambda: answers() == {version}, seconds, f"only version {version} answers")

    def wait_state(self, seconds: float = 30, **states: str) -> None:
        """Wait until the host sees clusters so, name -> state."""
        self.host.wait(lambda: all(self.state_of(name) == states[name] for name in states), seconds, f"{states}")


Kind = TypeVar("Kind", bound=Joined)


@contextmanager
def federation(sizes: Mapping[str, int], kind: type[Kind], own_nodes: int = 0) -> Iterator[Kind]:
    """Make a host with a gateway and nodes of its own, and clusters with so many nodes each that have joined it."""
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl")
    with Fabric() as fabric:
        registry = Registry(fabric)
        host = Whole(fabric, insecure_registries=(registry.address,), port=free_port(17443))
        host.image = images.push(registry.address, "shop:1", images.shop("1"))
        host.image2 = images.push(registry.address, "shop:2", images.shop("2"))
        host.http_port = free_port(18080)
        found = kind(host)
        own = [f"here-{number + 1}" for number in range(own_nodes)]
        try:
            host.power_on(*own)
            host.start_server()
            host.fallow("registry", "add", registry.address, "--insecure")
            host.start_gateway("gw1", host.http_port, host.token("gateway"))
            join_nodes(host, *own)
            host.wait_ready("gw1", *own)
            found.add(sizes)
            for name in found.members:
                found.join(name, f"region={name}")
            yield found
        finally:
            found.close()


@contextmanager
def requests(port: int) -> Iterator[Load]:
    """Send requests to a gateway meanwhile."""
    load = Load("127.0.0.1", port, ["web.test"], clients=6)
    load.start()
    try:
        yield load
    finally:
        load.stop()


@contextmanager
def no_request_fails(port: int) -> Iterator[Load]:
    """Send requests to a gateway meanwhile; none may fail."""
    with requests(port) as load:
        yield load
    assert load.failures == [], f"{len(load.failures)} of {load.sent.total()} failed"
    assert load.sent.total() > 20


@contextmanager
def told_by(cluster: Cluster, *words: str) -> Iterator[Callable[[], list[str]]]:
    """Run the command line meanwhile; give what returns the lines that it has printed until now."""
    log = cluster.folder / f"told-by-{'-'.join(words).replace('/', '-')}.log"
    log.unlink(missing_ok=True)
    process = processes.start([FALLOW, *words], log, cluster.environment)
    try:
        yield lambda: log.read_text().splitlines()
    finally:
        processes.stop(process)


@contextmanager
def watching(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` all the time meanwhile, from a thread of its own."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(WATCH_SECONDS):
            look()

    watcher = threading.Thread(target=run, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(10)


@contextmanager
def never_fewer_ready(joined: Joined, least: int) -> Iterator[list[int]]:
    """Look all the time how many replicas of the web service are ready in all clusters; never fewer than so many."""
    seen: list[int] = []

    def look() -> None:
        with suppress(TestbedError, ClientError):  # a host that is busy or starts again is asked the next time
            seen.append(int(joined.division()["ready"]))

    with watching(look):
        yield seen
    assert len(seen) > 5
    assert min(seen) >= least, f"ready, one look after the other: {seen}"


@contextmanager
def one_way(joined: Joined, cluster: Cluster, way: str) -> Iterator[None]:
    """Drop what a control plane sends to its host (`way` is OUTPUT), or what it hears (INPUT), but not both."""
    assert cluster.network is not None
    port = "--dport" if way == "OUTPUT" else "--sport"
    rule = [way, "--protocol", "tcp", port, str(joined.host.port + 1), "--jump", "DROP"]
    inside = ["nsenter", f"--net={cluster.network.path}", "iptables", "--wait"]
    processes.run(*inside, "--append", *rule)
    try:
        yield
    finally:
        processes.run(*inside, "--delete", *rule)
