"""Nodes with real engines, and a registry that tests can watch and break; no engine knows that it speaks plain HTTP."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from testbed import images, parts
from testbed.cluster import Cluster
from testbed.engines import DockerNode, PodmanNode
from testbed.fabric import Fabric
from testbed.faulty import FaultyRegistry
from testbed.ports import free_port
from testbed.registry import Registry


class Watched(Cluster):
    """`watched` is the registry as nodes know it, `stored` the address of what lies behind it."""

    watched: FaultyRegistry
    stored: str

    def push_image(self, name: str, image: images.LocalImage) -> str:
        """Store an image, unseen; return its reference."""
        images.push(self.stored, name, image)
        self.watched.seen.clear()
        return f"{self.watched.address}/{name}"


Kind = TypeVar("Kind", bound=Watched)


@contextmanager
def watched_cluster(
    kind: type[Kind], nodes: Mapping[str, type[PodmanNode] | type[DockerNode]], port: int
) -> Iterator[Kind]:
    """Start a cluster of such nodes that are ready; `port` is where to look for a free one."""
    parts.require("namespaces", "registry", "busybox", "curl", "docker", "podman")
    with Fabric() as fabric:
        registry = Registry(fabric)
        watched = FaultyRegistry(registry.address, fabric.host_address)
        cluster = kind(fabric, port=free_port(port))
        cluster.watched, cluster.stored = watched, registry.address
        try:
            for name, engine in nodes.items():
                cluster.nodes[name] = engine(fabric, name)
                cluster.nodes[name].power_on(wait=False)
            cluster.start_server()
            cluster.fallow("registry", "add", watched.address, "--insecure")
            for name in nodes:
                cluster.nodes[name].wait_ready()
                cluster.join(name, "--name", name, token=cluster.token("node"))
            cluster.wait_ready(*nodes)
            yield cluster
        finally:
            cluster.close()
            watched.close()
