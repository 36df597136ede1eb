"""A registry with a CA of a company's own, behind a proxy: no engine knows of either, Podman and Docker pull."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from testbed import images, noise, parts
from testbed.certificates import OwnCa
from testbed.cluster import Cluster
from testbed.engines import DockerNode, PodmanNode
from testbed.fabric import Fabric
from testbed.faulty import FaultyRegistry
from testbed.forward_proxy import ForwardProxy
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]
NODES = {"p1": PodmanNode, "d1": DockerNode}
APP = """
services:
  app:
    image: {image}
    deploy: {{replicas: 2}}
"""


class Trusted(Cluster):
    """Two nodes; `front` is the registry as everybody knows it, `proxy` the way to it."""

    front: FaultyRegistry
    proxy: ForwardProxy
    ca: OwnCa
    stored: str

    def push(self, name: str, seed: int) -> str:
        images.push(self.stored, name, noise.image(seed, 300_000))
        return f"{self.front.address}/{name}"

    def add(self, *options: str) -> None:
        self.fallow("registry", "add", self.front.address, *options)

    def pulled(self, reference: str) -> dict[str, Any]:
        """Pull on all nodes and return the tasks by node; they are all done."""
        told = json.loads(self.fallow("image", "pull", reference, "--on", "all", "--json"))
        return {task["node"]: task for task in told["tasks"]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Trusted]:
    parts.require("namespaces", "registry", "busybox", "docker", "podman")
    with Fabric() as fabric:
        made = Trusted(fabric, port=free_port(17743))
        made.ca = OwnCa(fabric.folder)
        made.stored = Registry(fabric).address
        made.front = FaultyRegistry(made.stored, fabric.host_address, made.ca.issue(fabric.host_address))
        made.proxy = ForwardProxy(fabric.host_address)
        try:
            made.start_server()
            for name, engine in NODES.items():
                made.nodes[name] = engine(fabric, name)
                made.nodes[name].power_on()
                made.join(name, "--name", name, token=made.token("node"))
            made.wait_ready(*NODES)
            yield made
        finally:
            made.close()
            made.proxy.close()
            made.front.close()


def test_without_its_ca_it_is_not_believed_and_the_command_says_what_to_do(cluster: Trusted) -> None:
    reference = cluster.push("own/app:1", 1)
    cluster.add()
    with pytest.raises(TestbedError, match="--ca-file"):
        cluster.fallow("registry", "test", cluster.front.address)
    with pytest.raises(TestbedError, match="certificate"):
        cluster.fallow("image", "pull", reference, "--on", "all", "--attempts", "1")


def test_with_its_ca_every_engine_pulls_from_it(cluster: Trusted) -> None:
    reference = cluster.push("own/app:1", 1)
    cluster.add("--ca-file", str(cluster.ca.file))
    assert "works" in cluster.fallow("registry", "test", cluster.front.address)
    done = cluster.pulled(reference)
    assert {name: task["state"] for name, task in done.items()} == dict.fromkeys(NODES, "done")
    assert cluster.proxy.seen == []


def test_an_image_named_by_its_digest_is_pulled_and_runs(cluster: Trusted) -> None:
    cluster.push("own/pinned:1", 2)
    (digest,) = {
        json.loads(cluster.fallow("image", "pull", f"{cluster.front.address}/own/pinned:1", "--on", "p1", "--json"))[
            "job"
        ]["digest"]
    }
    reference = f"{cluster.front.address}/own/pinned@{digest}"
    done = cluster.pulled(reference)
    assert {name: task["state"] for name, task in done.items()} == dict.fromkeys(NODES, "done")
    file = cluster.fabric.folder / "pinned.yaml"
    file.write_text(APP.format(image=reference))
    cluster.fallow("deploy", str(file), "--project", "pinned", "--timeout", "90s")
    assert {item["node"] for item in cluster.replicas() if item["state"] == "running"} == set(NODES)
    assert not json.loads(cluster.fallow("image", "drift", "--json"))["items"]


def test_through_a_proxy_go_control_plane_and_nodes_alike(cluster: Trusted) -> None:
    reference = cluster.push("own/far:1", 3)
    cluster.add("--ca-file", str(cluster.ca.file), "--proxy", f"http://{cluster.proxy.address}")
    done = cluster.pulled(reference)
    assert {name: task["state"] for name, task in done.items()} == dict.fromkeys(NODES, "done")
    asked = {who for who, where in cluster.proxy.seen if where == cluster.front.address}
    assert len(asked) >= 2, "the control plane, and the node that fetched for both"
