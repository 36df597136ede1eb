"""What a node's agent does with images, on Podman and Docker, with registries that go wrong as they are told."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine_backends import Backend, leave, real_backend
from faulty_registry import FaultyRegistry, random_layer
from image_rig import Control, clean, container, delete, pull, until

from fallow.agent.pulling import PullFailed
from fallow.drivers.engine.contract import Engine, EngineError
from fallow.drivers.engine.docker_api import DockerApiEngine
from fallow.model.images import PlatformImage, PullGrant
from fallow.model.watermarks import Watermarks
from testbed import parts
from testbed.engines import DockerNode, PodmanNode
from testbed.fabric import Fabric

pytestmark = pytest.mark.real
KINDS = ["podman", "docker"]
STOP_SECONDS = 8.0
MEGABYTE = 1_000_000


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with real_backend(request.param) as real:
        yield real


@pytest.fixture
async def engine(backend: Backend) -> AsyncIterator[Engine]:
    driver = backend.connect("node-images")
    yield driver
    await leave(driver, images_too=True)


@pytest.fixture
async def registry(backend: Backend) -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry(backend.faulty) as made:
        yield made


@pytest.fixture
async def control(engine: Engine, tmp_path: Path) -> AsyncIterator[Control]:
    async with Control(engine, tmp_path) as made:
        yield made


async def names(engine: Engine) -> list[str]:
    return sorted(name for image in await engine.images() for name in image.references)


async def quiet(registry: FaultyRegistry) -> None:
    await until(lambda: not registry.sending, "the engine has stopped", STOP_SECONDS)


async def test_pulled_by_digest_named_by_tag_and_deleted_without_a_trace(
    control: Control, engine: Engine, registry: FaultyRegistry
) -> None:
    image = registry.add("shop/app:1", random_layer(MEGABYTE))
    name = registry.reference("shop/app:1")
    control.order(pull("j.n", name, image))
    report = await control.done("j.n")
    assert (report.state, report.image_id, report.unchanged) == ("done", image.image_id, False), report
    assert await names(engine) == [name]
    control.order(pull("again.n", name, image))
    assert (await control.done("again.n")).unchanged
    control.order(delete("d.n", name))
    gone = await control.done("d.n")
    assert (gone.state, [each.outcome for each in gone.verdicts]) == ("done", ["deleted"])
    assert await engine.images() == []


async def test_whoever_waits_for_an_image_and_by_whatever_name_it_comes_once(
    control: Control, engine: Engine, registry: FaultyRegistry
) -> None:
    image = registry.add("shop/app:1", random_layer(3 * MEGABYTE))
    registry.manifests["shop/app:stable"] = registry.manifests["shop/app:1"]
    registry.bytes_a_second = 3 * MEGABYTE
    one, other = registry.reference("shop/app:1"), registry.reference("shop/app:stable")
    control.order(pull("a.n", one, image), pull("b.n", one, image), pull("c.n", other, image))
    control.grant(one, image)
    found, wanted = await control.images.find(one, "web-0")
    assert found is None
    assert await control.images.pull(one, "web-0", wanted) == image.image_id
    for task in ("a.n", "b.n", "c.n"):
        assert (await control.done(task)).state == "done"
    assert sum(registry.sent[layer.digest] for layer in image.layers) == image.size_bytes
    assert await names(engine) == sorted([one, other])


class Nearby:
    """A place that has the image under another name."""

    def __init__(self, registry: FaultyRegistry) -> None:
        self.registry = registry

    async def source(self, grant: PullGrant, image: PlatformImage) -> str | None:
        return self.registry.reference(f"shop/app@{image.manifest.digest}")

    def fault(self, image: PlatformImage) -> None:
        return


async def test_pulled_through_a_place_nearby_whose_name_goes_again(
    control: Control, engine: Engine, backend: Backend, registry: FaultyRegistry
) -> None:
    layer = random_layer(MEGABYTE)
    image = registry.add("shop/app:1", layer)
    # Podman has not been told that this one speaks plain HTTP, as it is not of a place of the agent's.
    address = backend.faulty if backend.kind == "docker" else backend.nowhere
    wanted = "registry.nowhere.example/shop/app:1"
    if backend.kind == "docker":
        control.images.fetches_with(Nearby(registry))
        control.order(pull("j.n", wanted, image))
        assert (await control.done("j.n")).state == "done"
    else:
        async with FaultyRegistry(address) as place:
            place.add("shop/app:1", layer)
            control.images.fetches_with(Nearby(place))
            control.order(pull("j.n", wanted, image))
            assert (await control.done("j.n")).state == "done"
    (found,) = await engine.images()
    assert found.references == (wanted,)
    assert not [name for name in found.digests if name.startswith(address)]


async def test_what_fails_nearby_comes_from_the_registry(
    control: Control, engine: Engine, backend: Backend, registry: FaultyRegistry
) -> None:
    image = registry.add("shop/app:1", random_layer(MEGABYTE))

    class Dead:
        async def source(self, grant: PullGrant, image: PlatformImage) -> str | None:
            return f"{backend.nowhere}/shop/app@{image.manifest.digest}"

        def fault(self, image: PlatformImage) -> None:
            return

    control.images.fetches_with(Dead())
    control.order(pull("j.n", registry.reference("shop/app:1"), image))
    report = await control.done("j.n")
    assert report.state == "done", report
    assert any("not from neighbours" in line for line in report.log)


async def test_a_registry_that_falls_silent_is_given_up_and_the_engine_stops(
    control: Control, engine: Engine, backend: Backend, registry: FaultyRegistry
) -> None:
    image = registry.add("shop/app:1", random_layer(3 * MEGABYTE))
    registry.stall_after = MEGABYTE
    control.order(pull("j.n", registry.reference("shop/app:1"), image, stall_seconds=4.0))
    report = await control.done("j.n")
    assert (report.state, report.kind) == ("failed", "stalled")
    if backend.kind == "podman":  # Docker lets the silent connection be, until a byte comes on it
        await quiet(registry)
    registry.stall_after = -1
    control.order(pull("j.n", registry.reference("shop/app:1"), image, attempt=2))
    assert (await control.done("j.n", 2)).state == "done"


async def test_a_cancelled_pull_stops_and_leaves_nothing(
    control: Control, engine: Engine, registry: FaultyRegistry
) -> None:
    image = registry.add("shop/app:1", random_layer(20 * MEGABYTE))
    registry.bytes_a_second = MEGABYTE
    control.order(pull("j.n", registry.reference("shop/app:1"), image))
    await until(lambda: any(0 < each.current_bytes < image.size_bytes for each in control.progress), "bytes are told")
    control.order(cancelled=("j.n",))
    assert (await control.done("j.n")).state == "cancelled"
    await quiet(registry)
    assert await engine.images() == []


async def test_an_agent_that_is_killed_ends_the_pull_and_its_heir_does_it(
    engine: Engine, registry: FaultyRegistry, tmp_path: Path
) -> None:
    image = registry.add("shop/app:1", random_layer(5 * MEGABYTE))
    registry.bytes_a_second = MEGABYTE
    order = pull("j.n", registry.reference("shop/app:1"), image)
    async with Control(engine, tmp_path) as first:
        first.order(order)
        await until(lambda: registry.sending, "it began")
    await quiet(registry)
    registry.bytes_a_second = 0
    async with Control(engine, tmp_path) as second:
        second.order(order, full=True)
        assert (await second.done("j.n")).state == "done"


async def test_an_engine_that_is_killed_while_it_pulls(
    control: Control, engine: Engine, backend: Backend, registry: FaultyRegistry
) -> None:
    image = registry.add("shop/app:1", random_layer(10 * MEGABYTE))
    registry.bytes_a_second = MEGABYTE
    name = registry.reference("shop/app:1")
    control.order(pull("j.n", name, image))
    await until(lambda: registry.sending, "it began")
    assert backend.node is not None
    await asyncio.to_thread(backend.node.power_cut)
    report = await control.done("j.n")
    assert (report.state, report.kind) == ("failed", "unreachable")
    assert "engine" in report.text
    await asyncio.to_thread(backend.node.power_on)
    registry.bytes_a_second = 0
    control.order(pull("j.n", name, image, attempt=2))
    assert (await control.done("j.n", 2)).state == "done"
    assert await names(engine) == [name]


async def test_an_engine_that_is_killed_while_it_deletes(
    control: Control, engine: Engine, backend: Backend, registry: FaultyRegistry
) -> None:
    images = {f"app:{number}": registry.add(f"app:{number}", random_layer(MEGABYTE)) for number in range(4)}
    control.order(*(pull(f"{name}.n", registry.reference(name), image) for name, image in images.items()))
    for name in images:
        assert (await control.done(f"{name}.n")).state == "done"
    assert backend.node is not None
    control.order(clean("c.n"))
    await until(lambda: control.images._removals, "it began")
    await asyncio.to_thread(backend.node.power_cut)
    first = await control.done("c.n")
    await asyncio.to_thread(backend.node.power_on)
    assert first.state in ("failed", "done")
    control.order(clean("c.n", attempt=2))
    second = await control.done("c.n", 2)
    assert second.state == "done", second
    assert await engine.images() == []
    control.order(pull("after.n", registry.reference("app:0"), images["app:0"]))  # the store is whole
    assert (await control.done("after.n")).state == "done"


async def test_the_bytes_that_are_freed_are_those_nobody_else_has(
    control: Control, engine: Engine, registry: FaultyRegistry
) -> None:
    shared = random_layer(4 * MEGABYTE)
    images = {name: registry.add(name, shared, random_layer(2 * MEGABYTE)) for name in ("app:1", "app:2")}
    for name, image in images.items():
        control.order(pull(f"{name}.n", registry.reference(name), image))
        assert (await control.done(f"{name}.n")).state == "done"
    first, second = (registry.reference(name) for name in images)
    control.order(delete("dry.n", first, second, dry_run=True))
    dry = await control.done("dry.n")
    sizes = [each.size_bytes for each in dry.verdicts]
    assert sizes == pytest.approx([2 * MEGABYTE, 6 * MEGABYTE], rel=0.05)
    control.order(delete("one.n", first))
    report = await control.done("one.n")
    assert [each.outcome for each in report.verdicts] == ["deleted"]
    assert await names(engine) == [second]


async def test_a_delete_while_a_container_runs_is_refused_and_the_container_lives(
    control: Control, engine: Engine, backend: Backend
) -> None:
    await engine.pull(backend.image)
    made = await engine.create(container(backend.image))
    await engine.start(made.id)
    control.order(delete("d.n", backend.image), clean("c.n"))
    assert (await control.done("d.n")).kind == "in-use"
    (verdict,) = (await control.done("c.n")).verdicts
    assert verdict.outcome == "in-use"
    found = await engine.inspect(made.id)
    assert found is not None
    assert found.status == "running"


async def test_a_name_that_stands_for_something_else_here_is_not_used(
    control: Control, engine: Engine, registry: FaultyRegistry
) -> None:
    right = registry.add("shop/app:1", random_layer(MEGABYTE))
    wrong = registry.add("shop/other:1", random_layer(MEGABYTE))
    name = registry.reference("shop/app:1")
    await engine.pull(registry.reference("shop/other:1"))
    await engine.tag(wrong.image_id, name)
    control.grant(name, right)
    found, wanted = await control.images.find(name, "web-0")
    assert (found, wanted) == (None, right)
    assert await control.images.pull(name, "web-0", wanted) == right.image_id
    now = await engine.image(name)
    assert now is not None
    assert now.id == right.image_id


async def test_an_image_whose_index_lied_about_its_machine_is_not_kept(
    control: Control, engine: Engine, registry: FaultyRegistry
) -> None:
    other = registry.add("shop/app:1", random_layer(1000), architecture="s390x")
    lied = PlatformImage(
        platform="linux/" + (await engine.info()).architecture,
        manifest=other.manifest,
        image_id=other.image_id,
        layers=other.layers,
    )
    control.order(pull("j.n", registry.reference("shop/app:1"), lied))
    assert (await control.done("j.n")).kind == "wrong-platform"
    assert await engine.images() == []


async def test_a_grant_that_refuses_ends_it(control: Control, registry: FaultyRegistry) -> None:
    registry.add("shop/app:1", random_layer(1000))
    name = registry.reference("shop/app:1")
    control.grants[name] = PullGrant(reference=name, kind="denied", text="no login for it")
    with pytest.raises(PullFailed, match="no login"):
        await control.images.pull(name, "web-0", None)
    assert not registry.asked


# a small disk


@pytest.fixture(params=KINDS)
def small_disk(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The URL of an engine whose images lie on 60 MB, and where a registry may be put."""
    parts.require(request.param, "registry", "busybox")
    with Fabric() as fabric:
        address = f"{fabric.host_address}:5002"
        kind = {"podman": PodmanNode, "docker": DockerNode}[request.param]
        node = kind(fabric, "small", insecure_registries=(address,))
        root = node.folder / {"podman": "root", "docker": "data"}[request.param]
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(root)], check=True)
        try:
            node.power_on()
            yield node.url, address
        finally:
            node.power_cut()
            subprocess.run(["umount", "--lazy", str(root)], check=True)


async def test_a_full_disk_is_told_before_and_while_it_happens(small_disk: tuple[str, str], tmp_path: Path) -> None:
    engine, address = DockerApiEngine(small_disk[0], "n"), small_disk[1]
    async with FaultyRegistry(address) as registry, Control(engine, tmp_path) as control:
        large = registry.add("large:1", random_layer(70 * MEGABYTE))
        small = registry.add("small:1", random_layer(MEGABYTE))
        control.order(pull("large.n", registry.reference("large:1"), large))
        report = await control.done("large.n")
        assert (report.kind, registry.sent[large.layers[0].digest]) == ("no-space", 0)
        with pytest.raises(EngineError) as caught:  # who does not know its size finds out later
            await engine.pull(registry.reference("large:1"))
        assert caught.value.kind == "no-space", caught.value
        control.order(pull("small.n", registry.reference("small:1"), small))
        assert (await control.done("small.n")).state == "done"
        assert await names(engine) == [registry.reference("small:1")]
    await engine.close()


async def test_a_disk_nearly_full_is_relieved_by_what_was_unused_longest(
    small_disk: tuple[str, str], tmp_path: Path
) -> None:
    """Three images of 14 MB on a disk of 60 MB: above the upper mark, and below the lower one without the oldest."""
    engine, now = DockerApiEngine(small_disk[0], "n"), 1_000_000.0
    async with (
        FaultyRegistry(small_disk[1]) as registry,
        Control(engine, tmp_path, clock=lambda: now) as control,
    ):
        control.images.watermarks = None
        made = [registry.add(f"app:{number}", random_layer(14 * MEGABYTE)) for number in range(3)]
        for number, image in enumerate(made):
            name = registry.reference(f"app:{number}")
            await engine.pull(name)
            control.order(pull(f"{number}.n", name, image))
            assert (await control.done(f"{number}.n")).state == "done"
            now += 60
        now += 3600
        control.images.watermarks = Watermarks(0.60, 0.55)
        control.images.inventory.new_session()
        kept = [registry.reference("app:1"), registry.reference("app:2")]

        async def relieved() -> None:
            while await names(engine) != kept:
                await asyncio.sleep(0.1)

        await asyncio.wait_for(relieved(), 30)
        await until(lambda: control.inventory.warning, "it is told")
        assert "nearly full" in control.inventory.warning
        size, free = await engine.disk()
        assert size - free < 0.60 * size
    await engine.close()
