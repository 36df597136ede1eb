"""Blobs from a real registry and from a real pull-through mirror of it, one after the other when one fails."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from blob_nodes import Neighbourhood

from fallow.agent.blobs.registries import RegistryOrigins
from fallow.drivers.registry import Access, RegistryError
from fallow.drivers.registry.http import HttpRegistry
from fallow.model.images import PlatformImage, PullGrant
from fallow.model.references import parse_reference
from testbed import images, noise, parts, processes
from testbed.fabric import Fabric
from testbed.faulty import Fault, FaultyRegistry
from testbed.ports import free_port
from testbed.registry import Registry

pytestmark = pytest.mark.real


class Rig:
    """A registry that can be watched, and a mirror of it."""

    def __init__(self, fabric: Fabric) -> None:
        self.stored = Registry(fabric)
        self.watched = FaultyRegistry(self.stored.address, fabric.host_address)
        self.mirror = f"{fabric.host_address}:{free_port(5600)}"
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(fabric.folder / "mirror")}},
            "http": {"addr": self.mirror},
            "proxy": {"remoteurl": f"http://{self.watched.address}"},
        }
        path = fabric.folder / "mirror.yml"
        path.write_text(json.dumps(config))
        self.process = processes.start(
            ["docker-registry", "serve", str(path)], fabric.folder / "mirror.log", {"OTEL_TRACES_EXPORTER": "none"}
        )
        fabric.remember(self.process)
        processes.wait_until(self._answers, 20, "mirror")

    def _answers(self) -> bool:
        return asyncio.run(self._asked())

    async def _asked(self) -> bool:
        registry = HttpRegistry()
        try:
            await registry.check(Access(host=self.mirror, insecure=True))
        except RegistryError:
            return False
        finally:
            await registry.close()
        return True

    def push(self, name: str, seed: int) -> str:
        images.push(self.stored.address, name, noise.image(seed, 300_000))
        self.watched.seen.clear()
        return f"{self.watched.address}/{name}"

    def given(self) -> int:
        return sum(each.method == "GET" and "/blobs/" in each.path for each in self.watched.seen)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    parts.require("namespaces", "registry", "busybox")
    with Fabric() as fabric:
        found = Rig(fabric)
        yield found
        found.watched.close()


async def resolved(registry: HttpRegistry, reference: str) -> PlatformImage:
    parsed = parse_reference(reference)
    found = await registry.resolve(Access(host=parsed.registry, insecure=True), parsed)
    image = found.for_architecture(images.ARCHITECTURE)
    assert image is not None
    return image


async def pull(rig: Rig, tmp_path, reference: str, member_id: str, *, mirror: str = "") -> dict[str, int]:
    """Pull every blob through a new node; return how many bytes came from where."""
    registry = HttpRegistry()
    try:
        image = await resolved(registry, reference)
        rig.watched.seen.clear()
        async with Neighbourhood(tmp_path) as place:
            node = await place.node(member_id, RegistryOrigins(registry))
            grant = PullGrant(reference=reference, image=image, insecure=True, mirror=mirror)
            assert await node.blobs.source(grant, image)
            assert node.blobs._granted is not None
            for layer in image.layers:
                assert await node.blobs._for_peer(layer.digest)
            fetches = node.blobs._fetches
            granted = node.blobs._granted.with_blob(image.manifest.digest)
            for layer in image.layers:
                await fetches.whole(layer.digest, layer.size_bytes, lambda: node.blobs._ways(granted))
            return node.blobs.fetched_bytes
    finally:
        await registry.close()


def size_of(places: dict[str, int], word: str) -> int:
    return sum(count for place, count in places.items() if place.startswith(word))


async def test_blobs_come_from_the_registry(rig: Rig, tmp_path) -> None:
    places = await pull(rig, tmp_path, rig.push("a:1", 1), "n-1")
    assert size_of(places, "registry") > 600_000
    assert rig.given() == 3


async def test_a_mirror_asks_the_registry_once_for_two_nodes(rig: Rig, tmp_path) -> None:
    reference = rig.push("b:1", 2)
    first = await pull(rig, tmp_path, reference, "n-1", mirror=rig.mirror)
    assert size_of(first, "mirror") > 600_000
    assert not size_of(first, "registry")
    second = await pull(rig, tmp_path, reference, "n-2", mirror=rig.mirror)
    assert size_of(second, "mirror") > 600_000
    assert rig.given() == 0


async def test_without_its_mirror_a_node_goes_on_to_the_registry(rig: Rig, tmp_path) -> None:
    places = await pull(rig, tmp_path, rig.push("c:1", 3), "n-1", mirror="127.0.0.1:9")
    assert size_of(places, "registry") > 600_000


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="/blobs/", times=1, cut_after=100_000),
        Fault(path="/blobs/", times=1, status=500),
        Fault(path="/blobs/", times=1, body=lambda body: bytes(len(body))),
    ],
    ids=["truncates", "500", "lies"],
)
async def test_a_registry_that_fails_once_is_asked_again(rig: Rig, tmp_path, fault: Fault) -> None:
    reference = rig.push(f"d:{id(fault)}", 4)
    registry = HttpRegistry()
    image = await resolved(registry, reference)
    await registry.close()
    rig.watched.faults.append(Fault(**{**fault.__dict__, "path": f"/blobs/{image.layers[1].digest}"}))
    try:
        assert size_of(await pull(rig, tmp_path, reference, "n-1"), "registry") > 600_000
    finally:
        rig.watched.faults.clear()
