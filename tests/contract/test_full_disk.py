"""A container that has filled the disk of its engine: it is removed, and with it all that it wrote."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_rig import until

from fallow.agent.reserve import BYTES, FILE, Reserve
from fallow.drivers.engine.contract import ContainerRequest
from fallow.drivers.engine.docker_api import DockerApiEngine
from fallow.model.deployments import ContainerSpec
from testbed import images, parts
from testbed.engines import DockerNode, PodmanNode
from testbed.fabric import Fabric
from testbed.registry import Registry

pytestmark = pytest.mark.real
KINDS = {"podman": (PodmanNode, "root"), "docker": (DockerNode, "data")}


@pytest.fixture(params=KINDS)
def small(request: pytest.FixtureRequest) -> Iterator[tuple[str, Path, str]]:
    """The URL of an engine, the folder of 60 MB that is all it has, and an image."""
    parts.require(request.param, "registry", "busybox")
    kind, folder = KINDS[request.param]
    with Fabric() as fabric:
        registry = Registry(fabric)
        node = kind(fabric, "small", insecure_registries=(registry.address,))
        disk = node.folder / folder
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)], check=True)
        try:
            node.power_on()
            node.wait_ready()
            yield node.url, disk, images.push(registry.address, "busybox:1", images.busybox())
        finally:
            node.power_cut()
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_a_container_that_filled_the_disk_leaves_nothing_behind(small: tuple[str, Path, str]) -> None:
    url, disk, image = small
    engine, reserve = DockerApiEngine(url, "n"), Reserve(disk)
    await engine.pull(image)
    before = (await engine.disk())[1]
    reserve.keep()
    made = await engine.create(
        ContainerRequest(
            replica_id="full-0",
            deployment="default/full",
            spec=ContainerSpec(image=image, command=("/bin/sh", "-c", "cat /dev/zero >/full; sleep 600")),
            spec_hash="h",
        )
    )
    await engine.start(made.id)
    await until(lambda: free_bytes(disk) == 0, "the disk is full", 30)
    await engine.stop(made.id, 0)
    await reserve.remove(engine, made.id)
    assert free_bytes(disk) > before - BYTES - 2**20
    assert (disk / FILE).exists()
    await engine.close()


def free_bytes(disk: Path) -> int:
    return shutil.disk_usage(disk).free
