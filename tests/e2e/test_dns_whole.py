"""Names on real parts: machines join and have names, one dies and has none, and a gateway answers on its own."""

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest
from dns_client import rcode, tcp, udp, values

from testbed import parts, processes
from testbed.cluster import Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

NODES = ("n1", "n2")


class Named(Cluster):
    """A cluster whose control plane and gateway serve names."""

    own_port = 0
    gateway_port = 0

    def look_up(self, name: str, kind: str = "A", port: int = 0) -> list[str] | str:
        """Return the values, or the rcode when there are none."""
        found = asyncio.run(udp(f"{name}.cluster.example", port or self.own_port, kind))
        return values(found) or rcode(found)

    def says(self, name: str, address: str) -> bool:
        """Say whether the gateway answers with this address."""
        return self.look_up(name, port=self.gateway_port) == [address]


@pytest.fixture(scope="module")
def named() -> Iterator[Named]:
    parts.require("namespaces", "haproxy")
    with Fabric() as fabric:
        cluster = Named(fabric, port=free_port(17543))
        cluster.own_port, cluster.gateway_port = free_port(18453), free_port(18553)
        cluster.server_options = (
            *("--domain", "cluster.example", "--dns-listen", f"127.0.0.1:{cluster.own_port}"),
            *("--suspect-after", "2s", "--dead-after", "4s"),
        )
        try:
            cluster.power_on(*NODES)
            cluster.start_server()
            cluster.fallow("pool", "create", "--cidr", str(fabric.subnet))
            cluster.boot(*NODES)
            for name in NODES:
                cluster.join(name, "--name", name, token=cluster.token("node"))
            dns = ("--dns-listen", f"127.0.0.1:{cluster.gateway_port}")
            cluster.start_gateway("gw1", free_port(18180), cluster.token("gateway"), *dns)
            cluster.wait_ready(*NODES, "gw1")
            yield cluster
        finally:
            cluster.close()


def test_who_has_joined_has_a_name_wherever_names_are_served(named: Named) -> None:
    for name in NODES:
        member = named.members()[name]
        address = member["address"]
        assert (address, member["lease"]["pool"]) == (named.nodes[name].address, "default"), (
            "its own, of the direct pool"
        )
        assert named.look_up(f"{name}.node") == [address]
        assert named.look_up(f"{name}.node", port=named.own_port) == [address]
        named.wait(partial(named.says, f"{name}.node", address), 10, "the gateway knows")
        reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
        found = asyncio.run(tcp(reverse, named.own_port, "PTR"))
        assert values(found) == [f"{name}.node.cluster.example."]
    assert named.look_up("gw1.gateway") == [named.members("gateway")["gw1"]["address"]]


def test_status_and_query_tell_the_same(named: Named) -> None:
    status = named.call("dns", "status", "--json")
    assert (status["domain"], status["hosts"]) == ("cluster.example", 3)
    assert {server["name"] for server in status["servers"]} == {"control plane", "gw1"}
    answer = named.call("dns", "query", "n1.node.cluster.example", "--json")
    assert [record["value"] for record in answer["answers"]] == named.look_up("n1.node")
    processes.wait_until(
        lambda: all(server["current"] for server in named.call("dns", "status", "--json")["servers"]), 10, "newest"
    )


def test_a_dead_node_has_no_name_any_more_within_a_second(named: Named) -> None:
    def state() -> str:
        return str(named.members()["n2"]["state"])

    named.nodes["n2"].power_cut()
    named.wait(lambda: state() == "dead", 20, "n2 is dead")
    processes.wait_until(lambda: named.look_up("n2.node") == "NXDOMAIN", 1, "the name has gone here")
    processes.wait_until(
        lambda: named.look_up("n2.node", port=named.gateway_port) == "NXDOMAIN", 1, "and at the gateway"
    )
    assert named.look_up("n1.node") != "NXDOMAIN"


def test_a_gateway_answers_without_control_plane_and_after_being_killed(named: Named) -> None:
    address = named.members()["n1"]["address"]
    folder = named.fabric.folder / "gw1"
    processes.wait_until((folder / "last-known-names.json").exists, 10, "names are kept")
    named.kill_server()
    assert named.look_up("n1.node", port=named.gateway_port) == [address]
    gateway = named.gateways["gw1"]
    os.kill(gateway.pid, signal.SIGKILL)
    gateway.wait(10)
    named.start_gateway("gw1", free_port(18180), None, "--dns-listen", f"127.0.0.1:{named.gateway_port}")

    def answers() -> bool:
        try:
            return named.look_up("n1.node", port=named.gateway_port) == [address]
        except (OSError, TimeoutError):
            return False

    processes.wait_until(answers, 20, "the gateway answers from what it knew")
