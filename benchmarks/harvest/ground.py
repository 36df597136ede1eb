"""A control plane, a registry and one machine with an engine: what a server that lends is measured on."""

from collections.abc import Iterator
from contextlib import contextmanager

from testbed import images
from testbed.cluster import Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.registry import Registry


@contextmanager
def whole(machine: str, image: str, content: images.LocalImage) -> Iterator[tuple[Cluster, str]]:
    """Yield a cluster whose `machine` is booted and no member yet, and the name of an image that is in its registry."""
    with Fabric() as fabric:
        registry = Registry(fabric)
        cluster = Cluster(fabric, insecure_registries=(registry.address,), port=free_port(17443))
        try:
            pushed = images.push(registry.address, image, content)
            cluster.power_on(machine)
            cluster.start_server()
            cluster.fallow("registry", "add", registry.address, "--insecure")
            cluster.boot(machine)
            yield cluster, pushed
        finally:
            cluster.close()
