"""One release after the other on real parts: agents and control planes of neighbouring releases work together.

The earlier release is a real one, from the history of this tree. The tests follow each other on one cluster, in the
order in which an operator goes from one release to the next: first the control plane, then the agents.
"""

from collections.abc import Iterator

import pytest
from releases import earlier, offer
from whole_cluster import Whole, no_request_fails, web

from demo.load import Load
from fallow.model.wire import PROTOCOL_VERSION
from testbed import images, parts
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NEXT = "0.99.1"
# On a machine with much to do a container may take seconds to start; that is no fault of its version.
SPREAD = {"health": {"http": "/healthz", "start_period": "60s"}, "spread": ["node"]}


class Mixed(Whole):
    """A cluster whose parts are of two releases: n1 and the gateway of the earlier one, n2 of this one."""

    def all_containers(self) -> dict[str, dict[str, str]]:
        return {name: self.containers(name) for name in self.nodes}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl", "git")
    old = earlier(tmp_path_factory.mktemp("earlier"))
    assert f"PROTOCOL_VERSION = {PROTOCOL_VERSION - 1}" in (old / "fallow/model/wire.py").read_text()
    with Fabric() as fabric:
        registry = Registry(fabric)
        cluster = Mixed(fabric, insecure_registries=(registry.address,), port=free_port(17443))
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        cluster.image2 = images.push(registry.address, "shop:2", images.shop("2"))
        cluster.http_port = free_port(18080)
        try:
            cluster.server_environment = cluster.agent_environment = {"PYTHONPATH": str(old)}
            cluster.start_server()
            cluster.boot("n1", "n2")
            cluster.join("n1", "--name", "n1", token=cluster.token("node"))
            cluster.start_gateway("gw1", cluster.http_port, cluster.token("gateway"))
            cluster.agent_environment = {}
            cluster.join("n2", "--name", "n2", token=cluster.token("node"))
            cluster.wait_ready("n1", "n2", "gw1")
            yield cluster
        finally:
            cluster.close()


@pytest.fixture
def load(mixed: Mixed) -> Iterator[Load]:
    """Send requests through the gateway while a test runs; none may fail."""
    with no_request_fails(mixed, "web", clients=4) as found:
        yield found


def test_an_agent_of_this_release_works_with_the_control_plane_of_the_one_before(mixed: Mixed) -> None:
    mixed.deploy(web(mixed.image, deploy={"replicas": 2}, fallow=SPREAD))
    mixed.healthy("test/web", 2)
    assert {found["node"] for found in mixed.running("test/web")} == {"n1", "n2"}
    mixed.wait(lambda: mixed.get("web.test")[0] == 200, 10, "route serves")


def test_the_control_plane_goes_first_and_agents_of_the_release_before_go_on(mixed: Mixed, load: Load) -> None:
    before = mixed.all_containers()
    mixed.kill_server()
    mixed.server_environment = {}
    mixed.start_server()
    mixed.wait_ready("n1", "n2", "gw1")
    assert mixed.all_containers() == before
    mixed.fallow("deployment", "scale", "test/web", "4")
    mixed.healthy("test/web", 4)
    assert {found["node"] for found in mixed.running("test/web")} == {"n1", "n2"}
    for replica in mixed.running("test/web"):
        assert mixed.fallow("logs", str(replica["id"]))


def test_images_and_updates_reach_an_agent_of_the_release_before(mixed: Mixed, load: Load) -> None:
    mixed.fallow("image", "pull", mixed.image2, "--on", "all", "--timeout", "60s")
    mixed.deploy(web(mixed.image2, deploy={"replicas": 4}, fallow=SPREAD, version="2"))
    mixed.healthy("test/web", 4)
    mixed.fallow("node", "cordon", "n1")
    mixed.fallow("node", "uncordon", "n1")


def test_agents_of_the_release_before_are_upgraded_and_nothing_that_runs_notices(mixed: Mixed, load: Load) -> None:
    before = mixed.all_containers()
    offer(mixed.folder / "server", NEXT)
    told = mixed.fallow(
        "node", "upgrade", "--selector", "", "--version", NEXT, "--max-unavailable", "34%", "--timeout", "90s"
    )
    assert f"3 of 3 are {NEXT}" in told
    assert {found["agent_version"] for found in mixed.members().values()} == {NEXT}
    assert mixed.all_containers() == before
    mixed.fallow("deployment", "scale", "test/web", "2")
    mixed.healthy("test/web", 2)
