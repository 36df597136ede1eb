"""A member cluster whose machines sit behind a router that masquerades: they call out, and nobody calls in.

Only its control plane's API is let through, for the test to ask it. The tests follow each other on one federation.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from joined import PATH, Joined, federation, no_request_fails

from testbed import processes
from testbed.cluster import Cluster
from testbed.fabric import Fabric

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.slow]

FORWARDED = "/proc/sys/net/ipv4/ip_forward"


class Behind(Joined):
    """The clusters west and far, of which far lies on a fabric of its own behind the router."""

    inner: Fabric

    def cluster(self, name: str) -> Cluster:
        """Return a cluster of which nothing runs yet; far ones are behind the router."""
        fabric = self.inner if name == "far" else self.host.fabric
        return Cluster(fabric, insecure_registries=self.host.insecure_registries, name=name)

    def route_to_far(self) -> None:
        """Make the router; what was a way from this machine into the inner fabric becomes the router's."""
        outer = self.host.fabric
        router = outer.node("router")
        wire, within = self.inner.namespace, ("ip", "-n", router.namespace)
        processes.run("ip", "link", "set", wire, "netns", router.namespace)
        processes.run(*within, "addr", "add", f"{self.inner.host_address}/24", "dev", wire)
        processes.run(*within, "link", "set", wire, "up")
        inside = ("nsenter", f"--net={router.path}")
        processes.run(*inside, "sh", "-c", f"echo 1 > {FORWARDED}")
        tables = (*inside, "iptables", "--wait")
        known = ("--match", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "--jump", "ACCEPT")
        processes.run(*tables, "--table", "nat", "--append", "POSTROUTING", "-o", "eth0", "--jump", "MASQUERADE")
        processes.run(*tables, "--append", "FORWARD", "-i", "eth0", *known)
        api = ("--protocol", "tcp", "--dport", str(Cluster.port), "--jump", "ACCEPT")
        processes.run(*tables, "--append", "FORWARD", "-i", "eth0", *api)
        processes.run(*tables, "--append", "FORWARD", "-i", "eth0", "--jump", "DROP")
        processes.run("ip", "route", "add", str(self.inner.subnet), "via", router.address)


@contextmanager
def behind() -> Iterator[Behind]:
    with Fabric() as inner, federation({}, Behind) as found:
        found.inner = inner
        found.route_to_far()
        found.add({"west": 1, "far": 1})
        for name in found.members:
            found.join(name, f"region={name}")
        yield found


@pytest.fixture(scope="module")
def joined() -> Iterator[Behind]:
    with behind() as found:
        found.clusters_policy = "divide: weighted, where: region"
        yield found


def test_it_joins_and_runs_what_it_is_told_and_no_request_fails(joined: Behind) -> None:
    joined.deploy(4)
    joined.wait_shares(west=2, far=2)
    assert (joined.containers("west"), joined.containers("far")) == (2, 2)
    joined.host.wait(lambda: joined.host.get("web.test")[0] == 200, 10, "the gateway knows it")
    with no_request_fails(joined.host.http_port) as load:
        joined.host.wait(lambda: load.sent.total() > 200, 20, "requests")
    west = {found["id"] for found in joined.members["west"].replicas()}
    assert {json.loads(answer)["replica"] for answer in load.served_by} <= west


def test_it_is_said_where_people_look(joined: Behind) -> None:
    joined.host.wait(lambda: bool(joined.clusters()["far"]["unreached"]), 40, "somebody has noticed")
    assert joined.clusters()["west"]["unreached"] == ""
    for command in (("cluster", "show", "far"), ("explain", PATH), ("explain", "far")):
        assert "gw1" in joined.host.fallow(*command), command
    assert "not reached" in joined.host.fallow("cluster", "list")
    assert "ClusterUnreached" in joined.host.fallow("events", "--since", "5m", "--json")


def test_a_drain_towards_it_waits_and_no_request_fails(joined: Behind) -> None:
    host = joined.host
    with no_request_fails(host.http_port):
        host.fallow("cluster", "drain", "west", "--no-wait")
        host.wait(lambda: joined.ready(PATH) == {"west": 2, "far": 4}, 30, "replacements ready")
        with pytest.raises(processes.TestbedError, match="no gateway here reaches them"):
            host.fallow("cluster", "drain", "west", "--timeout", "5s")
        assert joined.containers("west") == 2
        host.fallow("cluster", "uncordon", "west")
        joined.settled()


def test_updates_scaling_and_a_gateway_that_starts_again_fail_no_request(joined: Behind) -> None:
    host = joined.host
    with no_request_fails(host.http_port):
        joined.deploy(4, "2")
        joined.wait_shares(60, west=2, far=2)
        joined.wait_versions("2")
        host.fallow("deployment", "scale", f"{PATH}=8", "--wait", "--timeout", "60s")
        joined.wait_shares(west=4, far=4)
        host.gateways["gw1"].kill()
        host.gateways["gw1"].wait(10)
        host.start_gateway("gw1", host.http_port)
        host.wait_ready("gw1")
        host.fallow("deployment", "scale", f"{PATH}=2", "--wait", "--timeout", "60s")
        joined.wait_shares(60, west=1, far=1)


def test_a_gateway_of_its_own_reaches_its_nodes_and_those_elsewhere(joined: Behind) -> None:
    far = joined.members["far"]
    far.start_gateway("gw-far", 18080, far.token("gateway"), network=far.network)
    far.wait_ready("gw-far")
    assert far.network is not None

    def served_by() -> set[str]:
        """Ask the gateway from where it stands."""
        asks = ("nsenter", f"--net={far.network.path}", "curl", "-sS", "--max-time", "5", "-H", "Host: web.test")
        answers = {json.loads(processes.run(*asks, "http://127.0.0.1:18080/"))["replica"] for _ in range(10)}
        owners = {found["id"]: name for name in ("west", "far") for found in joined.members[name].replicas()}
        return {owners[answer] for answer in answers}

    far.wait(lambda: served_by() == {"far"}, 20, "its own region is asked")
    joined.host.fallow("cluster", "drain", "far", "--timeout", "60s")
    assert served_by() == {"west"}
