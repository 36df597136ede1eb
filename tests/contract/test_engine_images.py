"""The images of the engine contract, over the fake, Podman and Docker. Each trap of the field notes is a test."""

import asyncio
import gzip
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress

import pytest
from engine_backends import Backend, leave, refused, request, until, wipe
from faulty_registry import FaultyRegistry, random_layer

from fallow.drivers.engine.contract import Credentials, Engine, PullProgress, StoredImage
from testbed import images as local

STOP_SECONDS = 8.0  # an engine ends a pull well within this after it was left
_numbers = itertools.count()


@pytest.fixture
async def engine(backend: Backend) -> AsyncIterator[Engine]:
    """A driver with no image and no container of ours left from the test before."""
    driver = backend.connect(f"node-{next(_numbers)}")
    for image in await driver.images():
        if not image.containers:
            await wipe(driver, image)
    yield driver
    await leave(driver)


@pytest.fixture
def make_foreign(backend: Backend, engine: Engine) -> Iterator[Callable[[], str]]:
    """Makes containers of somebody else, which are gone after the test."""
    made: list[str] = []

    def make() -> str:
        made.append(backend.make_foreign(f"fallow-foreign-{next(_numbers)}"))
        return made[-1]

    yield make
    for container_id in made:
        backend.remove_foreign(container_id)


@pytest.fixture
async def registry(real: Backend) -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry(real.faulty) as made:
        yield made


async def stored(engine: Engine, image_id: str) -> StoredImage | None:
    return next((each for each in await engine.images() if each.id == image_id), None)


async def chunks(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


# what there is


async def test_all_images_are_listed_in_full(engine: Engine, backend: Backend) -> None:
    pulled = await engine.pull(backend.image)
    await engine.pull(backend.second)
    found = {each.id: each for each in await engine.images()}
    assert len(found) == 2
    image = found[pulled.id]
    assert image.references == (backend.image,)
    assert image.architecture == pulled.architecture
    assert image.containers == 0
    assert image.size_bytes > 0
    assert image.id.startswith("sha256:")
    assert all(name.startswith(backend.image.rpartition(":")[0] + "@sha256:") for name in image.digests)
    if backend.real:
        assert image.layers == tuple(layer.diff_id for layer in local.busybox().layers)
        assert len(image.digests) == 1
        assert image.layer_bytes
        assert abs(sum(image.layer_bytes) - image.size_bytes) < 100_000


async def test_containers_of_anybody_are_counted(
    engine: Engine, backend: Backend, make_foreign: Callable[[], str]
) -> None:
    pulled = await engine.pull(backend.image)
    made = await engine.create(request(f"count-{next(_numbers)}", backend.image))
    foreign = make_foreign()
    found = await stored(engine, pulled.id)
    assert found is not None
    assert found.containers == 2
    assert backend.is_there(foreign)
    await engine.remove(made.id)
    found = await stored(engine, pulled.id)
    assert found is not None
    assert found.containers == 1


async def test_what_is_used_by_anybody_is_not_deleted_and_lives_on(
    engine: Engine, backend: Backend, make_foreign: Callable[[], str]
) -> None:
    pulled = await engine.pull(backend.image)
    foreign = make_foreign()
    await refused("in-use", engine.delete_image(backend.image))
    assert backend.is_there(foreign)
    made = await engine.create(request(f"use-{next(_numbers)}", backend.image))
    await engine.start(made.id)
    await refused("in-use", engine.delete_image(backend.image))
    running = await engine.inspect(made.id)
    assert running is not None
    assert running.status == "running"
    found = await stored(engine, pulled.id)
    assert found is not None
    assert found.references == (backend.image,)


# names


async def test_a_name_is_deleted_and_the_image_with_its_last_one(engine: Engine, backend: Backend) -> None:
    pulled = await engine.pull(backend.image)
    other = "registry.example/other:2"
    await engine.tag(pulled.id, other)
    assert (await stored(engine, pulled.id) or pulled).references == tuple(sorted((backend.image, other)))
    await engine.delete_image(backend.image)
    found = await stored(engine, pulled.id)
    assert found is not None
    assert found.references == (other,)
    await engine.delete_image(other)
    for name in (await stored(engine, pulled.id) or StoredImage(id="")).digests:
        await engine.delete_image(name)
    assert await stored(engine, pulled.id) is None
    await engine.delete_image(other)  # gone is gone


async def test_by_id_only_when_there_is_no_name(engine: Engine, backend: Backend) -> None:
    pulled = await engine.pull(backend.image)
    await engine.tag(pulled.id, "registry.example/other:3")
    assert "registry.example/other:3" in await refused("bad-request", engine.delete_image(pulled.id))
    found = await stored(engine, pulled.id)
    assert found is not None
    assert len(found.references) == 2


async def test_a_short_name_deletes_nothing_of_another_registry(engine: Engine, backend: Backend) -> None:
    pulled = await engine.pull(backend.image)
    short = backend.image.rpartition("/")[2]
    await refused("bad-request", engine.delete_image(short))
    await engine.delete_image(f"docker.io/library/{short}")  # its full name, which is not there
    assert await stored(engine, pulled.id) is not None


async def test_a_name_goes_over_to_another_image_and_leaves_the_first_without(engine: Engine, backend: Backend) -> None:
    first, second = await engine.pull(backend.image), await engine.pull(backend.second)
    name = "registry.example/moving:1"
    await engine.tag(first.id, name)
    await engine.delete_image(backend.image)
    await engine.tag(second.id, name)
    assert (await engine.image(name) or first).id == second.id
    left = await stored(engine, first.id)
    assert left is not None
    assert left.references == ()
    await wipe(engine, left)
    assert await stored(engine, first.id) is None
    assert await engine.image(second.id) is not None


async def test_an_image_is_pulled_and_deleted_by_its_digest(engine: Engine, backend: Backend) -> None:
    pulled = await engine.pull(backend.image)
    digests = (await stored(engine, pulled.id) or StoredImage(id="")).digests
    name = digests[0] if digests else f"{backend.image.rpartition(':')[0]}@{_manifest_of(engine, backend)}"
    await engine.delete_image(backend.image)
    again = await engine.pull(name)
    assert again.id == pulled.id
    found = await stored(engine, pulled.id)
    assert found is not None
    assert (found.references, found.digests) == ((), (name,))  # Podman lists it among the tags
    await engine.delete_image(name)
    assert await stored(engine, pulled.id) is None


def _manifest_of(engine: Engine, backend: Backend) -> str:
    return engine.machine.registry[backend.image].platform.manifest.digest  # type: ignore[attr-defined]


async def test_a_container_is_made_from_the_very_image_whatever_its_name_stands_for(
    engine: Engine, backend: Backend
) -> None:
    first, second = await engine.pull(backend.image), await engine.pull(backend.second)
    name = "registry.example/app:1"
    await engine.tag(second.id, name)
    wish = request(f"exact-{next(_numbers)}", name)
    made = await engine.create(type(wish)(**{**_fields(wish), "image_id": first.id}))
    assert (await stored(engine, first.id) or StoredImage(id="")).containers == 1
    await engine.start(made.id)


def _fields(wish: object) -> dict[str, object]:
    return {name: getattr(wish, name) for name in type(wish).__slots__}  # type: ignore[attr-defined]


# files


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
async def test_a_file_is_loaded(engine: Engine, backend: Backend, packed: bool) -> None:
    data = backend.archive("registry.example/loaded:1")
    names = await engine.load(chunks(data if packed else gzip.decompress(data)))
    assert names == ("registry.example/loaded:1",)
    found = await engine.image(names[0])
    assert found is not None
    if backend.real:
        assert found.id == local.image_id(local.busybox())


async def test_a_file_that_is_cut_off_is_refused(engine: Engine, backend: Backend) -> None:
    data = backend.archive("registry.example/cut:1")
    await refused("bad-request", engine.load(chunks(data[: len(data) // 2])))
    plain = gzip.decompress(data)
    await refused("bad-request", engine.load(chunks(plain[: len(plain) // 2])))
    await refused("bad-request", engine.load(chunks(b"this is no tar file" * 100)))
    await refused("bad-request", engine.load(chunks(b"")))
    assert await engine.image("registry.example/cut:1") is None


# events


async def test_what_happens_to_images_is_told(engine: Engine, backend: Backend) -> None:
    heard: list[str] = []
    hear = heard.append

    async def listen() -> None:
        async with aclosing(engine.image_events()) as events:  # type: ignore[type-var]
            async for word in events:
                hear(word)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0)
    await engine.pull(backend.image)
    await until(lambda: heard, "the pull is heard of")
    count = len(heard)
    await engine.delete_image(backend.image)
    await until(lambda: len(heard) > count, "the deletion is heard of")
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening


async def test_the_disk_of_the_images_is_told(engine: Engine) -> None:
    size, free = await engine.disk()
    assert size >= free > 0


# pulls that go wrong


async def test_without_a_tag_only_the_latest_is_pulled(engine: Engine, registry: FaultyRegistry) -> None:
    layer = random_layer(1000)
    latest = registry.add("many:latest", layer)
    registry.add("many:old", layer)
    await engine.pull(registry.reference("many"))
    assert [each.id for each in await engine.images()] == [latest.image_id]


async def test_a_login_with_odd_characters_is_no_malformed_header(engine: Engine, real: Backend) -> None:
    odd = Credentials(username="us~er?>", password="p>>>???~~~\xff\u20ac/+=")
    assert (await engine.pull(real.image, odd)).id
    await refused("denied", engine.pull(real.private, odd))


async def test_a_dead_registry_is_not_a_dead_engine(engine: Engine, real: Backend) -> None:
    text = await refused("registry-unreachable", engine.pull(f"{real.nowhere}/app:1"))
    assert "refused" in text


@pytest.mark.parametrize(
    ("status", "kind"), [(429, "rate-limited"), (500, "registry-unreachable"), (401, "denied"), (403, "denied")]
)
async def test_what_a_registry_refuses_with_is_told(
    engine: Engine, registry: FaultyRegistry, status: int, kind: str
) -> None:
    registry.add("app:1", random_layer(1000))
    registry.status = status
    registry.headers = {"Retry-After": "1"}
    await refused(kind, engine.pull(registry.reference("app:1")))


async def test_a_registry_that_lies_about_a_digest_is_found_out(engine: Engine, registry: FaultyRegistry) -> None:
    image = registry.add("lie:1", random_layer(1000))
    registry.lie = True
    await refused("wrong-content", engine.pull(registry.reference(f"lie@{image.manifest.digest}")))
    assert await engine.images() == []


async def test_an_image_for_another_machine_is_refused(engine: Engine, registry: FaultyRegistry) -> None:
    registry.add("other:1", random_layer(1000), architecture="s390x")
    await refused("wrong-platform", engine.pull(registry.reference("other:1")))


async def test_a_pull_that_is_left_stops(engine: Engine, registry: FaultyRegistry) -> None:
    image = registry.add("slow:1", random_layer(30_000_000))
    registry.bytes_a_second = 1_000_000
    seen: list[PullProgress] = []
    pulling = asyncio.create_task(engine.pull(registry.reference("slow:1"), None, seen.append))
    await until(lambda: sum(registry.sent.values()) > 500_000, "bytes come")
    pulling.cancel()
    with suppress(asyncio.CancelledError):
        await pulling
    async with asyncio.timeout(STOP_SECONDS):
        while registry.sending:
            await asyncio.sleep(0.05)
    assert sum(registry.sent.values()) < image.size_bytes / 2
    assert await engine.images() == []


async def test_bytes_are_told_while_they_come(engine: Engine, registry: FaultyRegistry) -> None:
    image = registry.add("told:1", random_layer(3_000_000))
    registry.bytes_a_second = 1_000_000
    seen: list[PullProgress] = []
    await engine.pull(registry.reference("told:1"), None, seen.append)
    parts = [progress.current_bytes for progress in seen]
    assert any(0 < part < image.size_bytes for part in parts)
    assert parts == sorted(parts)


async def test_plain_http_where_the_engine_was_not_told(engine: Engine, real: Backend) -> None:
    """Docker takes it for granted at 127.0.0.1; Podman is told with the pull."""
    if real.kind == "docker":
        pytest.skip("Docker is told by its settings")
    host = real.nowhere.partition(":")[0]
    async with FaultyRegistry(f"{host}:5004") as registry:
        image = registry.add("plain:1", random_layer(1000))
        name = registry.reference(f"plain@{image.manifest.digest}")
        await refused("registry-unreachable", engine.pull(name))
        for _ in range(2):
            assert (await engine.pull(name, None, None, True)).id == image.image_id
        await refused("not-found", engine.pull(registry.reference("plain:2"), None, None, True))
