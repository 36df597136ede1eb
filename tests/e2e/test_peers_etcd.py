"""Several control planes on one etcd, with a real node and gateway: what happens when the one that leads is killed."""

from collections.abc import Iterator

import pytest
from whole_cluster import Whole

from demo.load import Load
from fallow.client.contexts import resolve
from fallow.client.errors import ClientError
from fallow.model.peers import PeerView
from testbed import images, parts
from testbed.etcd import EtcdCluster
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

WEB = """
services:
  web:
    image: {image}
    expose: ["8080"]
    deploy: {{replicas: {replicas}}}
    x-fallow: {{routes: [http://web.test], health: {{http: /healthz}}}}
"""


class Pair(Whole):
    """Two processes of one control plane: `server`, which people call, and `second`."""

    etcd: EtcdCluster
    second_port = 0

    def peers_of(self, port: int) -> list[PeerView]:
        """Return what the process at `port` says of all of them."""
        with self.client(port) as client:
            return list(client.peers().items)

    def leads(self, port: int, asked: int | None = None) -> bool:
        """Say whether the process at `port` leads, as that one or another says."""
        try:
            found = self.peers_of(asked or port)
        except ClientError:
            return False
        return any(peer.leads and peer.url.endswith(f":{port}") for peer in found)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    parts.require("namespaces", "registry", "haproxy", "busybox", "curl", "etcd")
    with Fabric() as fabric, EtcdCluster() as etcd:
        registry = Registry(fabric)
        cluster = Pair(
            fabric,
            insecure_registries=(registry.address,),
            port=free_port(17443),
            server_options=("--store", etcd.url()),
            server_environment=etcd.environment,
        )
        cluster.etcd = etcd
        cluster.image = images.push(registry.address, "shop:1", images.shop("1"))
        cluster.http_port = free_port(18080)
        cluster.second_port = free_port(17543)
        try:
            cluster.power_on("n1", "n2")
            cluster.start_server()
            cluster.start_peer("second", cluster.second_port)
            cluster.boot("n1", "n2")
            cluster.join("n1", "--name", "n1", token=cluster.token("node"))
            second = f"https://{cluster.address}:{cluster.second_port}"
            cluster.join("n2", "--name", "n2", token=cluster.token("node"), url=second)
            cluster.start_gateway("gw1", cluster.http_port, cluster.token("gateway"))
            cluster.wait_ready("n1", "n2", "gw1")
            yield cluster
        finally:
            cluster.close()


def test_one_leads_and_both_serve(pair: Pair) -> None:
    assert pair.leads(pair.port)
    pair.wait(lambda: pair.leads(pair.port, asked=pair.second_port), 10, "the second knows who leads")
    pair.deploy(WEB.format(image=pair.image, replicas=2))
    pair.wait(lambda: pair.get("web.test")[0] == 200, 10, "route serves")
    with pair.client(pair.second_port) as second:
        assert {found.name: found.connected for found in second.members().items} == {
            "n1": True,
            "n2": True,
            "gw1": True,
        }
        (replica, *_) = [found for found in second.replicas().items if found.state == "running"]
        assert list(second.logs(replica.id))


def test_the_leader_is_killed_and_nobody_notices(pair: Pair) -> None:
    before = {found["id"] for found in pair.running("test/web")}
    containers = {name: pair.containers(name) for name in pair.nodes}
    load = Load("127.0.0.1", pair.http_port, ["web.test"])
    load.start()
    try:
        pair.kill_server()
        pair.wait(lambda: pair.leads(pair.second_port), 20, "the second leads")

        def back() -> bool:
            with pair.client(pair.second_port) as second:
                return all(found.connected and found.state == "ready" for found in second.members().items)

        pair.wait(back, 20, "members at the second")
        with pair.client(pair.second_port) as second:
            assert {found.id for found in second.replicas().items if found.state == "running"} == before
        both = ",".join(f"https://{pair.address}:{port}" for port in (pair.port, pair.second_port))
        name = resolve(environment=pair.environment).name
        assert "test/web" in pair.fallow("deployment", "list", env={"FALLOW_CONTEXT": name, "FALLOW_URL": both})
    finally:
        load.stop()
    assert load.sent["steady"] > 0
    assert load.failures == []
    assert {name: pair.containers(name) for name in pair.nodes} == containers


def test_it_goes_on_deciding_and_the_first_comes_back_as_a_follower(pair: Pair) -> None:
    pair.start_server()
    assert pair.leads(pair.second_port, asked=pair.port)
    pair.deploy(WEB.format(image=pair.image, replicas=4))
    pair.healthy("test/web", 4)


def test_a_member_of_the_store_is_killed_during_a_deployment(pair: Pair) -> None:
    pair.etcd.kill(leader := pair.etcd.leader())
    pair.deploy(WEB.format(image=pair.image, replicas=2))
    pair.healthy("test/web", 2)
    pair.etcd.start(leader)


def test_all_processes_are_killed_at_once(pair: Pair) -> None:
    containers = {name: pair.containers(name) for name in pair.nodes}
    pair.peers["second"].kill()
    pair.kill_server()
    pair.start_server()
    pair.wait(lambda: pair.leads(pair.port), 20, "somebody leads")
    pair.wait_ready("n1", "n2", "gw1")
    pair.healthy("test/web", 2)
    assert {name: pair.containers(name) for name in pair.nodes} == containers
