"""The overlay on real parts: nodes with engines in namespaces, real packets, and somebody who listens on the wire.

n1, n2 and the gateway gw are in the pool `blue`, n3 is in `red`, whose addresses are IPv6. The tests follow each other
on one cluster.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fallow.agent.network import interface_of
from testbed import images, parts
from testbed.cluster import FALLOW, Cluster
from testbed.engines import EngineNode
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry
from testbed.sniffer import Sniffer, udp_ports

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PORT = 8455
NODES = ("n1", "n2", "n3")
POOLS = {"blue": "10.86.0.0/24", "red": "fd00:87::/64"}
LEASES = {"n1": "10.86.0.2", "n2": "10.86.0.3", "gw": "10.86.0.9", "n3": "fd00:87::3"}
MARKER = "plain-as-day-4711"

APPLICATION = """
services:
  {name}:
    image: {image}
    environment: {{NAME: {name}}}
    expose: ["8080"]{more}
    x-fallow:
      selector: "spot={spot}"
      routes: ["http://{name}.test"]
      health: {{http: /healthz}}
"""


class Overlay(Cluster):
    """A cluster whose members get their leases from overlays."""

    image = ""

    def start_gateway_inside(self, name: str, token: str) -> None:
        node = self.nodes[name]
        self.agents[name] = node.run_inside(
            [
                FALLOW,
                "gateway",
                self.url,
                "--data",
                str(node.folder / "agent"),
                "--name",
                name,
                "--address",
                LEASES[name],
                "--http-port",
                "80",
                "--dns-listen",
                "0.0.0.0:53",
            ],
            node.folder / "agent.log",
            self.environment | {"FALLOW_JOIN_TOKEN": token},
        )

    def join_pool(self, name: str, pool: str) -> None:
        """Let a node join that is to have its address of a pool."""
        token = self.token("node", "--pool", pool, "--label", f"spot={name}")
        self.join(name, "--name", name, "--address", LEASES[name], token=token)

    def deploy(self, name: str, spot: str, more: str = "", project: str = "test") -> None:
        file = self.fabric.folder / "compose.yaml"
        file.write_text(APPLICATION.format(name=name, spot=spot, image=self.image, more=more))
        self.fallow("deploy", str(file), "--project", project, "--timeout", "60s")

    def published(self, name: str) -> int:
        """Return the host port of a deployment's only replica."""
        (found,) = [item for item in self.replicas() if item["deployment"] == name and item["state"] == "running"]
        (port,) = found["host_ports"].values()
        return int(port)

    def up(self, *names: str) -> None:
        """Wait until these members have their leases' addresses, and say so."""

        def ready() -> bool:
            members = self.members()
            return all(
                members[name]["state"] == "ready"
                and members[name]["address"] == LEASES[name]
                and not members[name]["network_problem"]
                and LEASES[name] in self.nodes[name].run("ip", "address", check=False)
                for name in names
            )

        self.wait(ready, 30, f"overlay of {', '.join(names)}", self.nodes[names[0]].folder / "agent.log")

    def reaches(self, name: str) -> set[str]:
        """Return the addresses that a member's interface sends to."""
        id_ = self.members()[name]["id"]
        said = self.nodes[name].run("wg", "show", interface_of(id_), "allowed-ips")
        return {line.split("\t")[1].removesuffix("/32") for line in said.splitlines()}


def get(node: EngineNode, url: str, seconds: float = 3) -> str:
    """Ask from a node; return the body, empty when there is no answer."""
    words = ("curl", "-s", "--max-time", str(seconds), "--noproxy", "*", url)
    try:
        return node.run(*words)
    except TestbedError:
        return ""


def until(condition: Callable[[], bool], cluster: Overlay, what: str, seconds: float = 20) -> None:
    cluster.wait(condition, seconds, what, cluster.fabric.folder / "n1" / "agent.log")


@pytest.fixture(scope="module")
def overlay() -> Iterator[Overlay]:
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl", "wireguard")
    with Fabric() as fabric:
        registry = Registry(fabric)
        # On a machine with much to do an agent may take seconds to start; it must not be taken for dead meanwhile.
        patience = ("--dead-after", "60s")
        cluster = Overlay(
            fabric, insecure_registries=(registry.address,), port=free_port(17443), server_options=patience
        )
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        try:
            cluster.power_on(*NODES, "gw")
            cluster.start_server()
            for pool, cidr in POOLS.items():
                cluster.fallow("pool", "create", pool, "--cidr", cidr, "--mode", "wireguard")
            cluster.boot(*NODES, "gw")
            for name in NODES:
                cluster.join_pool(name, "red" if name == "n3" else "blue")
            cluster.start_gateway_inside("gw", cluster.token("gateway", "--pool", "blue"))
            cluster.wait_ready(*NODES, "gw")
            cluster.up(*LEASES)
            yield cluster
        finally:
            cluster.close()


def test_everybody_of_a_pool_is_a_peer_and_nobody_else(overlay: Overlay) -> None:
    def meshed() -> bool:
        return all(
            overlay.reaches(name) == {LEASES[other] for other in ("n1", "n2", "gw")} - {LEASES[name]}
            for name in ("n1", "n2", "gw")
        )

    until(meshed, overlay, "full mesh")
    assert overlay.reaches("n3") == set()


def test_requests_reach_containers_through_the_overlay(overlay: Overlay) -> None:
    for name, spot in (("a", "n1"), ("b", "n2")):
        overlay.deploy(name, spot)
    for name, spot in (("a", "n1"), ("b", "n2")):
        (found,) = [item for item in overlay.replicas() if item["deployment"] == name]
        assert found["address"] == LEASES[spot]
    body = get(overlay.nodes["n2"], f"http://{LEASES['n1']}:{overlay.published('a')}/")
    assert json.loads(body)["app"] == "a"
    done = subprocess.run(
        ["curl", "-s", "--max-time", "5", "-H", "Host: b.test", f"http://{overlay.nodes['gw'].address}/"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["app"] == "b", "the gateway reaches containers through the overlay"


def test_the_wire_shows_nothing_of_what_is_said(overlay: Overlay) -> None:
    one, two, gateway = (overlay.nodes[name] for name in ("n1", "n2", "gw"))
    with Sniffer(overlay.fabric, two.network.cable) as sniffer:
        url = f"http://{LEASES['n1']}:{overlay.published('a')}/{MARKER}"
        for _ in range(5):
            assert json.loads(get(two, url))["app"] == "a"
        get(two, f"http://{gateway.address}/{MARKER}-in-the-clear")
        until(lambda: any(b"-in-the-clear" in frame for frame in sniffer.frames()), overlay, "the sniffer hears", 5)
        between = sniffer.between(one.address, two.address)
        assert len(between) >= 20, "requests and answers went over this cable"
        assert {udp_ports(packet) for packet in between} == {(PORT, PORT)}, "nothing but the overlay's own packets"
        heard = [frame for frame in sniffer.frames() if MARKER.encode() in frame and b"-in-the-clear" not in frame]
        assert heard == []
        assert not any(LEASES["n1"].encode() in packet for packet in between)


def test_published_ports_are_on_the_lease_alone(overlay: Overlay) -> None:
    one, two = overlay.nodes["n1"], overlay.nodes["n2"]
    port = overlay.published("a")
    refused = subprocess.run(["curl", "-s", "--max-time", "3", f"http://{one.address}:{port}/"], check=False)
    assert refused.returncode == 7, "the public address refuses"
    assert get(two, f"http://{one.address}:{port}/") == ""
    assert json.loads(get(two, f"http://{LEASES['n1']}:{port}/"))["app"] == "a"


def test_a_neighbour_cannot_route_its_way_in(overlay: Overlay) -> None:
    """Linux answers for its addresses on every interface: without a filter, a route on the neighbour would do."""
    one, three = overlay.nodes["n1"], overlay.nodes["n3"]
    url = f"http://{LEASES['n1']}:{overlay.published('a')}/"
    assert get(three, url, 2) == "", "another pool is another world"
    three.run("ip", "route", "add", f"{LEASES['n1']}/32", "via", one.address)
    assert get(three, url, 2) == ""
    three.run("ip", "route", "del", f"{LEASES['n1']}/32")


def test_containers_reach_containers_of_other_nodes(overlay: Overlay) -> None:
    (container,) = containers(overlay.nodes["n2"])
    url = f"http://{LEASES['n1']}:{overlay.published('a')}/"
    said = inside(overlay.nodes["n2"], container, "curl", "-s", "--max-time", "5", url)
    assert json.loads(said)["app"] == "a"


def test_containers_find_and_reach_each_other_by_name(overlay: Overlay) -> None:
    """As in Compose on one machine: by the name of a service of the own project, at its published port."""
    n1, n2 = overlay.nodes["n1"], overlay.nodes["n2"]
    overlay.deploy("web", "n1", "\n    ports: [{target: 8080, published: 8080, mode: host}]")
    (asking,) = [found for found in containers(n2) if name_of(n2, found) == "test/b"]
    (beside,) = [found for found in containers(n1) if name_of(n1, found) == "test/a"]
    resolver = in_container(n2, asking, "cat", "/etc/resolv.conf").split("\n")
    assert f"nameserver {LEASES['gw']}" == next(line for line in resolver if line.startswith("nameserver"))
    assert "search test.svc.fallow.internal" in resolver
    for node, container in ((n2, asking), (n1, beside)):  # through the overlay, and on the node where it runs
        until(lambda node=node, container=container: "web" in say(node, container, "web"), overlay, "web by its name")
    assert resolved(n2, asking, "web") == LEASES["n1"]
    assert resolved(n2, asking, "web.test.svc.fallow.internal") == LEASES["n1"]
    assert resolved(n2, asking, "nobody") == ""
    (srv,) = overlay.call("dns", "query", "web.test.svc.fallow.internal", "SRV", "--json")["answers"]
    assert srv["value"].split()[2] == "8080", "the port of the lease where it is published"
    overlay.deploy("other", "n2", project="else")
    (stranger,) = [found for found in containers(n2) if name_of(n2, found) == "else/other"]
    assert resolved(n2, stranger, "web") == "", "the short name is for its project"
    assert resolved(n2, stranger, "web.test.svc.fallow.internal") == LEASES["n1"]
    for path in ("else/other", "test/web"):
        overlay.fallow("deployment", "delete", path)
    until(lambda: resolved(n2, asking, "web") == "", overlay, "the name gone with the service")
    until(lambda: "else/other" not in overlay.deployments(), overlay, "deletion")


class Stream:
    """Asks once after the other, and counts what came back and what did not."""

    def __init__(self, node: EngineNode, url: str) -> None:
        self.good = self.bad = 0
        self._node, self._url = node, url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            if '"app"' in get(self._node, self._url, 2):
                self.good += 1
            else:
                self.bad += 1

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def test_traffic_goes_on_while_agents_are_killed_and_come_back(overlay: Overlay) -> None:
    stream = Stream(overlay.nodes["n2"], f"http://{LEASES['n1']}:{overlay.published('a')}/")
    try:
        for name in ("n1", "n2"):
            os.kill(overlay.agents[name].inner_pid, signal.SIGKILL)
            overlay.agents[name].wait(15)
        before = stream.good
        until(lambda: stream.good > before + 5, overlay, "requests without agents")
        for name in ("n1", "n2"):
            overlay.join(name)
        until(lambda: all(overlay.members()[name]["connected"] for name in ("n1", "n2")), overlay, "agents back")
        overlay.up("n1", "n2")
        before = stream.good
        until(lambda: stream.good > before + 5, overlay, "requests with new agents")
    finally:
        stream.end()
    assert stream.bad == 0


def test_a_pool_grows_under_traffic_and_who_joins_beyond_its_old_end_is_reached(overlay: Overlay) -> None:
    url = f"http://{LEASES['n1']}:{overlay.published('a')}/"
    LEASES["n4"] = "10.86.77.4"
    overlay.boot("n4")
    overlay.join_pool("n4", "blue")
    assert overlay.agents["n4"].wait(20) != 0, "there is no such address yet"
    assert LEASES["n4"] in (overlay.nodes["n4"].folder / "agent.log").read_text()
    stream = Stream(overlay.nodes["n2"], url)
    try:
        overlay.fallow("pool", "resize", "blue", "--cidr", "10.86.0.0/16")
        for name in ("n1", "n2", "gw"):
            until(lambda name=name: f"{LEASES[name]}/16" in overlay.nodes[name].run("ip", "address"), overlay, name)
        overlay.join_pool("n4", "blue")
        overlay.wait_ready("n4")
        overlay.up("n1", "n2", "gw", "n4")
        until(lambda: '"app"' in get(overlay.nodes["n4"], url, 2), overlay, "requests from beyond the old end")
        before = stream.good
        until(lambda: stream.good > before + 5, overlay, "requests after all of it")
    finally:
        stream.end()
    assert stream.bad == 0
    overlay.fallow("node", "remove", "n4")
    assert overlay.agents["n4"].wait(20) == 77


def test_an_interface_that_is_taken_away_comes_back(overlay: Overlay) -> None:
    id_ = overlay.members()["n1"]["id"]
    overlay.nodes["n1"].run("ip", "link", "del", interface_of(id_))
    url = f"http://{LEASES['n1']}:{overlay.published('a')}/"
    until(lambda: '"app"' in get(overlay.nodes["n2"], url, 2), overlay, "the interface made anew")


def test_a_rebooted_node_is_back_at_its_address_before_it_has_a_session(overlay: Overlay) -> None:
    node, port = overlay.nodes["n1"], overlay.published("a")
    overlay.kill_server()
    node.power_cut()
    node.power_on()
    overlay.join("n1")
    url = f"http://{LEASES['n1']}:{port}/"
    until(lambda: '"app"' in get(overlay.nodes["n2"], url, 2), overlay, "served from saved state", 30)
    overlay.start_server()
    overlay.up("n1", "n2", "gw")


def test_who_is_removed_is_out(overlay: Overlay) -> None:
    one, two = overlay.nodes["n1"], overlay.nodes["n2"]
    url = f"http://{LEASES['n1']}:{overlay.published('a')}/"
    overlay.fallow("deployment", "delete", "test/b")
    until(lambda: "test/b" not in overlay.deployments(), overlay, "deletion")
    overlay.fallow("node", "remove", "n2")
    assert overlay.agents["n2"].wait(20) == 77
    until(lambda: overlay.reaches("n1") == {LEASES["gw"]}, overlay, "the peer withdrawn", 5)
    assert get(two, url, 2) == ""
    assert LEASES["n2"] not in two.run("ip", "-4", "address"), "and has taken its interface away"
    assert one.running
    held = {found["address"]: found["state"] for found in overlay.call("pool", "leases", "blue", "--json")["items"]}
    assert held == {
        LEASES["n1"]: "leased", LEASES["gw"]: "leased", LEASES["n2"]: "quarantined", LEASES["n4"]: "quarantined",
    }  # fmt: skip
    log = two.folder / "agent.log"
    before = len(log.read_text())
    overlay.join_pool("n2", "blue")
    assert overlay.agents["n2"].wait(20) != 0
    assert "quarantine" in log.read_text()[before:], "what still remembers the address must not reach a stranger"


def containers(node: EngineNode) -> list[str]:
    listing = node.run("curl", "-s", "--unix-socket", node.socket_inside, "http://d/containers/json")
    return [item["Id"] for item in json.loads(listing)]


def inside(node: EngineNode, container: str, *words: str) -> str:
    """Run a command of the node in a container's network; return what it says."""
    return node.run("nsenter", f"--target={_inspect(node, container)['State']['Pid']}", "--net", *words)


def name_of(node: EngineNode, container: str) -> str:
    """Return the deployment a container belongs to."""
    return str(_inspect(node, container)["Config"]["Labels"]["io.fallow.deployment"])


def _inspect(node: EngineNode, container: str) -> dict[str, Any]:
    raw = node.run("curl", "-s", "--unix-socket", node.socket_inside, f"http://d/containers/{container}/json")
    found: dict[str, Any] = json.loads(raw)
    return found


def in_container(node: EngineNode, container: str, *words: str) -> str:
    """Run a command of a container inside of it, with all it sees; return what it says, empty when it fails."""
    target = f"--target={_inspect(node, container)['State']['Pid']}"
    try:
        return node.run("nsenter", target, "--mount", "--net", "--root", "--wd", *words)
    except TestbedError:
        return ""


def resolved(node: EngineNode, container: str, name: str) -> str:
    """Return the address a container's C library finds for a name; empty: none."""
    code = f"import socket; print(socket.gethostbyname({name!r}))"
    return in_container(node, container, images.INTERPRETER, "-I", "-S", "-c", code).strip()


def say(node: EngineNode, container: str, host: str) -> str:
    """Ask the shop at a host, from within a container; return the answer."""
    code = (
        f"import socket; s = socket.create_connection(({host!r}, 8080), 3);"
        f"s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'); print(s.recv(65536).decode())"
    )
    return in_container(node, container, images.INTERPRETER, "-I", "-S", "-c", code)
