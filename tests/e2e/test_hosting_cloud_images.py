"""A disk as the images of clouds are, with Debian's cloud-init: a server starts it, and it becomes a node by itself."""

import sys

import pytest
import yaml
from lender import SERVER, VM, Lender, lending

from fallow.client.api import Client
from fallow.model.server_pools import VmPlanChange
from testbed import cloud_images, processes, vms
from testbed.cloud_images import CloudImage
from testbed.fabric import Fabric
from testbed.vms import VmGround

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1800)]
GIB = 2**30
JOIN_SECONDS = 880.0  # emulated, and beside others; a machine that takes longer is started again
ADD_SECONDS = 600.0  # until the packages of the agent are there


def test_an_image_of_a_cloud_tells_what_it_lacks_and_becomes_a_node_that_runs_containers() -> None:
    if (reason := vms.missing() or cloud_images.missing()) is not None:
        pytest.skip(reason)
    image = cloud_images.image()
    with (
        lending(memory_bytes=6 * GIB) as lender,
        VmGround(lender.cluster.fabric) as ground,
        lender.cluster.client() as client,
    ):
        try:
            _begin(lender, ground, client, image)
            _lacks_an_engine(lender, client)
            serve(image, lender.cluster.fabric)
            _becomes_a_node(lender, client)
        except (AssertionError, processes.TestbedError) as error:
            told = lender.cluster.fallow("vm", "list"), ground.consoles()[-12000:], lender.told()
            raise AssertionError("\n".join((str(error), *told))) from error
        assert "DataSourceNoCloud" in ground.consoles()


def _begin(lender: Lender, ground: VmGround, client: Client, image: CloudImage) -> None:
    """Let a server join that lends machines of the image."""
    words = ("vm", "image", "add", "cloud", str(image.disk), "--python", "3.11", "--vm-folder", str(ground.folder))
    lender.cluster.fallow(*words, timeout=ADD_SECONDS)
    lender.lend_patiently(client, vms=VmPlanChange(cpus=1, memory_bytes=GIB, disk_bytes=4 * GIB, image="cloud"))
    lender.cluster.nodes[SERVER].wait_ready()
    lender.prime()
    lender.join("--name", SERVER, *ground.options, token=lender.cluster.token("server"))


def _lacks_an_engine(lender: Lender, client: Client) -> None:
    lacks = "cannot join: there is no engine in its image, and Podman could not be installed"
    lender.cluster.wait(lambda: lacks in problem(lender, client), JOIN_SECONDS, "what the machine lacks")
    assert not lender.runs(client)


def _becomes_a_node(lender: Lender, client: Client) -> None:
    lender.cluster.wait(lambda: lender.runs(client), JOIN_SECONDS, "the machine of the server")
    lender.cluster.wait_ready(VM, seconds=60)
    assert client.member(VM).labels["fallow.server"] == SERVER
    service = {
        "image": lender.cluster.image,
        "expose": ["8080"],
        "x-fallow": {"class": "harvest", "selector": "fallow.vm", "health": {"http": "/healthz"}},
    }
    lender.cluster.deploy(yaml.safe_dump({"services": {"web": service}}), "--timeout", "180s")
    assert lender.where(client) == [VM]
    lender.cluster.wait(lambda: problem(lender, client) == "", 30, "a machine without a problem")


def problem(lender: Lender, client: Client) -> str:
    """Return what is wrong with the machine, as its server told last."""
    vm = lender.vm(client)
    return vm.use.problem if vm is not None and vm.use is not None else ""


def serve(image: CloudImage, fabric: Fabric) -> None:
    """Serve the packages that can be installed in an image, where it looks for them."""
    words = [sys.executable, "-m", "http.server", "--bind", fabric.host_address, "--directory", str(image.mirror)]
    fabric.remember(processes.start([*words, str(cloud_images.MIRROR_PORT)], fabric.folder / "mirror.log"))
