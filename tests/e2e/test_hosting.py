"""A server lends what its primary leaves idle: what runs there serves, and leaves when the primary wants it back."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from whole_cluster import Whole, web

from demo.load import Load
from fallow.drivers.limits.resctrl import KernelFiles
from testbed import cgroups, images, parts, vms
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry
from testbed.servers import LendingServer
from testbed.vms import VmGround

GIB = 2**30
HEALTH = {"http": "/healthz", "interval": "500ms", "timeout": "5s", "retries": 3, "start_period": "60s"}


class Lending(Whole):
    """A cluster with one machine that is a server, and one that can be a node of its own."""

    lender: LendingServer

    def web(self, service_class: str, replicas: int, cpus: float, memory: str = "32M") -> str:
        """Return a Compose file of the web service, which wants so much for each replica."""
        reservations = {"cpus": str(cpus), "memory": memory}
        return web(
            self.image,
            deploy={"replicas": replicas, "resources": {"reservations": reservations}},
            fallow={"class": service_class, "health": HEALTH},
        )

    def lent(self) -> dict[str, object] | None:
        """Return the server's first virtual machine."""
        found = self.ask(lambda client: client.vms.all())["items"]
        return found[0] if found else None

    def vm_joined(self) -> bool:
        """Say whether the virtual machine is a node that is ready."""
        vm = self.lent()
        members = self.members("node") if vm is not None and vm["node"] else {}
        return vm is not None and members.get(str(vm["node"]), {}).get("state") == "ready"

    def on(self, node: str, count: int) -> bool:
        """Say whether so many replicas are healthy on a node, and nothing is elsewhere."""
        found = self.running("test/web")
        return len(found) == count and all((one["node"], one["health"]) == (node, "healthy") for one in found)

    def report(self) -> dict[str, object]:
        """Return what the server said last."""
        found: dict[str, object] = self.ask(lambda client: client.servers.one("srv1"))["report"]
        return found

    def explained(self) -> str:
        """Return why the web service is as it is, on one line."""
        return " ".join(self.fallow("explain", "test/web").split())

    def told(self) -> str:
        """Return what a person would look at when something is not as it should be."""
        looks = (("top", "--once", "--vms"), ("explain", "srv1"), ("events", "--since", "10m"))
        texts = [self.fallow(*look) for look in looks]
        return "\n".join([*texts, self.lender.log.read_text()[-4000:]])


@contextmanager
def lending(cpus: float, memory_bytes: int) -> Iterator[Lending]:
    """Yield the cluster; its server has not joined yet."""
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl", "podman")
    if (reason := cgroups.missing()) is not None:
        pytest.skip(reason)
    with Fabric() as fabric:
        registry = Registry(fabric)
        cluster = Lending(fabric, insecure_registries=(registry.address,), port=free_port(17443))
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        cluster.http_port = free_port(18080)
        try:
            cluster.power_on("srv1", "n1")
            cluster.start_server()
            cluster.fallow("registry", "add", registry.address, "--insecure")
            cluster.start_gateway("gw1", cluster.http_port, cluster.token("gateway"))
            cluster.boot("srv1", "n1")
            cluster.lender = LendingServer(cluster, "srv1", cpus, memory_bytes)
            try:
                yield cluster
            except (AssertionError, TestbedError) as error:
                raise AssertionError(f"{error}\n{cluster.told()}") from error
            finally:
                cluster.lender.close()
        finally:
            cluster.close()


def test_containers_in_a_control_group_leave_when_the_primary_wants_all_of_it() -> None:
    with lending(1.0, 4 * GIB) as cluster:
        cluster.fallow(
            "server-pool", "policy", "set", "--isolation", "cgroup", "--evict-after", "2s",
            "--cpu-threshold", "15%", "--cpu-ceiling", "95%", "--vm-cpus", "0.6", "--vm-memory", "1GiB",
        )  # fmt: skip
        cluster.lender.spike(0.2)
        cluster.lender.join(token=cluster.token("server", "--label", "region=west"))
        cluster.wait(cluster.vm_joined, 60, "a node on lent capacity")
        labels = cluster.members("node")["srv1-vm"]["labels"]
        assert labels.pop("fallow.size").endswith("MiB")
        assert labels == {"fallow.server": "srv1", "fallow.vm": "srv1-vm", "region": "west"}

        refused = cluster.web("standard", 1, cpus=0.1)
        assert "lent capacity" in cluster.fallow("deploy", "--dry-run", str(_written(cluster, refused)))
        _placed_by_both_conditions(cluster)
        _says_what_caches_are_held_to(cluster)
        _leaves_under_load(cluster, 1.0)
        cluster.lender.calm()
        _drained_and_used_again(cluster)


def _placed_by_both_conditions(cluster: Lending) -> None:
    """See replicas wait for their server to be below its threshold, then placed, and others wait for room of the VM."""
    wanted = cluster.web("harvest", 2, cpus=0.1)
    cluster.deploy(wanted, "--no-wait")
    above = re.compile(r"srv1 would be at (\d+) % of its processors, above its threshold of 15 %")
    cluster.wait(lambda: above.search(cluster.explained()) is not None, 20, "a refusal by the threshold")
    found = above.search(cluster.explained())
    assert found is not None
    assert int(found[1]) > 15
    assert not cluster.on("srv1-vm", 1)

    cluster.lender.calm()
    cluster.fallow("server-pool", "policy", "set", "--cpu-threshold", "93%")
    cluster.deploy(wanted)
    assert cluster.on("srv1-vm", 2)
    cluster.deploy(cluster.web("harvest", 2, cpus=0.1, memory="1280M"), "--no-wait")
    room = re.compile(r"not enough memory \(need 1\.2 GiB, best has \d+ MiB free\)")
    cluster.wait(lambda: room.search(cluster.explained()) is not None, 20, "a refusal for want of room")
    cluster.deploy(wanted)
    cluster.wait(lambda: cluster.on("srv1-vm", 2), 20, "the two as they were")


def _says_what_caches_are_held_to(cluster: Lending) -> None:
    """Ask for a share of the cache: it is held, or both views of the server say why not, and it lends all the same."""

    def told() -> bool:
        report = cluster.report()
        return bool(report["classes"]) or "--cache 100%" in str(report["problems"])

    cluster.fallow("server-pool", "policy", "set", "--cache", "20%")
    cluster.wait(told, 20, "what the cache is held to")
    report = cluster.report()
    assert report["lends"]
    assert bool(report["classes"]) == bool(KernelFiles().read("schemata"))
    for view in () if report["classes"] else (("server", "show", "srv1"), ("top", "--once")):
        assert "--cache 100%" in " ".join(cluster.fallow(*view).split())
    cluster.fallow("server-pool", "policy", "set", "--cache", "100%")
    cluster.wait(lambda: not told(), 20, "a cache that nothing is held to")


def _written(cluster: Lending, text: str) -> object:
    file = cluster.fabric.folder / "refused.yaml"
    file.write_text(text)
    return file


def _leaves_under_load(cluster: Lending, cpus: float) -> None:
    """Let a node of its own join, the primary use so many processors, and see all replicas move with nothing failed."""
    cluster.join("n1", "--name", "n1", token=cluster.token("node"))
    cluster.wait_ready("n1")
    load = Load("127.0.0.1", cluster.http_port, ["web.test"], clients=2)
    load.start()
    try:
        cluster.wait(lambda: load.sent.total() > 20, 30, "requests under way")
        cluster.lender.spike(cpus)
        count = len(cluster.running("test/web"))
        cluster.wait(lambda: cluster.on("n1", count), 90, "all replicas on the node of its own")
    finally:
        load.stop()
    assert not load.failures, (len(load.failures), load.failures[:5], load.sent)
    events = cluster.fallow("events", "--since", "5m")
    assert "ReplicasEvicted" in events
    shown = cluster.call("server", "show", "srv1", "--json")
    assert shown["backoff_until"] > 0
    assert shown["evictions"] == count


def _drained_and_used_again(cluster: Lending) -> None:
    """Drain the server: its virtual machine stops. Undrain it: the machine is back, the same node as before."""
    before = cluster.lent()
    assert before is not None
    assert "can be shut down" in cluster.fallow("server", "drain", "srv1", "--timeout", "60s")
    cluster.wait(lambda: (cluster.lent() or {}).get("state") == "stopped", 30, "the virtual machine stopped")
    cluster.fallow("server", "undrain", "srv1")
    cluster.wait(lambda: (cluster.lent() or {}).get("state") == "running", 60, "the virtual machine back")
    after = cluster.lent()
    assert after is not None
    passing = ("state", "state_since", "use", "revision", "cpus")  # its size is that of what is offered
    assert {**after, **{key: before[key] for key in passing}} == before


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("network", ["bridge", "nat"])
def test_a_virtual_machine_joins_by_itself_serves_and_is_left(network: str) -> None:
    if (reason := vms.missing()) is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        cluster = stack.enter_context(lending(1.45, 4 * GIB))
        behind = cluster.nodes["srv1"].network if network == "nat" else None
        ground = stack.enter_context(VmGround(cluster.fabric, behind=behind))
        cluster.fallow(
            "server-pool", "policy", "set", "default",
            "--cpu-threshold", "95%", "--cpu-ceiling", "97%", "--evict-after", "2s",
            "--vm-memory", "768MiB", "--vm-cpus", "1",
        )  # fmt: skip
        cluster.lender.join(*ground.options, token=cluster.token("server"))
        cluster.wait(cluster.vm_joined, 180, f"a virtual machine that has joined\n{ground.consoles()[-3000:]}")
        node = cluster.members("node")["srv1-vm"]
        assert (node["lease"]["address"] == cluster.nodes["srv1"].address) == (network == "nat")
        cluster.deploy(cluster.web("harvest", 1, cpus=0.75), "--timeout", "150s")
        assert cluster.on("srv1-vm", 1)
        _leaves_under_load(cluster, 0.98)  # by one process, which does not wait for another one of its own
