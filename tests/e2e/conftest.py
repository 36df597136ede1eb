"""A cluster of the real command on real engines and a real HAProxy, made once for the tests of a module."""

from collections.abc import Iterator

import pytest
from left_out import (  # noqa: F401 - pytest finds them here
    pytest_deselected,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from lender import Lender
from victim import Victim, attacked, unharmed
from whole_cluster import Whole

from fallow.client.api import Client
from testbed import images, parts
from testbed.engines import EngineNode
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.registry import Registry

EngineNode.with_dpkg = False
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl")
    with Fabric() as fabric:
        registry = Registry(fabric)
        cluster = Whole(fabric, insecure_registries=(registry.address,), port=free_port(17443))
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        cluster.image2 = images.push(registry.address, "shop:2", images.shop("2"))
        cluster.http_port = free_port(18080)
        try:
            cluster.power_on(*NODES)
            cluster.start_server()
            cluster.boot(*NODES)
            for name in NODES:
                zone = "a" if name == "n1" else "b"
                cluster.join(name, "--name", name, token=cluster.token("node", "--label", f"zone={zone}"))
            cluster.start_gateway("gw1", cluster.http_port, cluster.token("gateway"))
            cluster.wait_ready(*NODES, "gw1")
            yield cluster
        finally:
            cluster.close()


@pytest.fixture
def client(lender: Lender) -> Iterator[Client]:
    """Call the cluster of a module's server that lends."""
    with lender.cluster.client() as found:
        yield found


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with attacked() as found:
        yield found


@pytest.fixture
def unharmed_victim(victim: Victim) -> Iterator[None]:
    with unharmed(victim):
        yield
