import asyncio
from types import SimpleNamespace

import aiohttp
import pytest
from blob_nodes import Neighbourhood, Origin, made_image, until

from fallow.agent.blobs import fetches
from fallow.drivers.blobs import BlobError, peers
from fallow.model.images import BlobSource, PullGrant


@pytest.fixture
async def place(tmp_path):
    async with Neighbourhood(tmp_path) as found:
        yield found


async def test_an_engine_pulls_through_its_node_once_and_then_from_the_disk(place):
    made = made_image(300_000, 50_000)
    origin = Origin(made.blobs)
    node = await place.node("n-1", origin)
    assert await node.pull(made) == made.blobs
    assert origin.sent == made.size
    assert await node.pull(made) == made.blobs
    assert origin.sent == made.size
    await until(lambda: set(made.blobs) <= {each for frame in node.told for each in frame.whole})


async def test_the_registry_is_asked_once_for_three_nodes_and_may_be_dead_for_the_others(place):
    made = made_image(300_000, 50_000)
    origin = Origin(made.blobs)
    first = await place.node("n-1", origin)
    await first.pull(made)
    origin.dead = True
    second, third = await place.node("n-2", origin), await place.node("n-3", origin)
    assert await second.pull(made, first) == made.blobs
    assert await third.pull(made, second, first) == made.blobs
    assert origin.sent == made.size
    assert set(third.blobs.fetched_bytes) == {"n-2"}


async def test_a_chain_of_nodes_passes_on_what_has_not_arrived_yet(place):
    made = made_image(400_000)
    origin = Origin(made.blobs, bytes_per_second=1_000_000)
    nodes = [await place.node(f"n-{n}", origin) for n in range(4)]
    last = asyncio.create_task(nodes[3].pull(made, nodes[2]))
    pulls = [nodes[0].pull(made), nodes[1].pull(made, nodes[0]), nodes[2].pull(made, nodes[1])]
    layer = made.image.layers[0].digest
    others = asyncio.gather(*pulls)
    await until(lambda: any(layer in frame.fetching for frame in nodes[3].told))
    assert origin.sent < made.size
    assert await last == made.blobs
    await others
    assert origin.sent == made.size


async def test_two_layers_of_a_node_are_fetched_for_another_that_needs_them_first(place):
    made = made_image(100_000)
    origin = Origin(made.blobs)
    first, second = await place.node("n-1", origin), await place.node("n-2", origin)
    assert await first.place(made)  # granted, and not pulled by its engine, which has the layer already
    await second.pull(made, first)
    assert set(second.blobs.fetched_bytes) == {"n-1"}


@pytest.mark.parametrize("fault", ["lies", "dead", "stalls", "truncates"])
async def test_a_bad_source_costs_time_and_nothing_else(place, monkeypatch, fault):
    monkeypatch.setattr(peers, "SILENCE_SECONDS", 0.5)
    made = made_image(300_000)
    good = Origin(made.blobs)
    bad_origin = Origin(made.blobs)
    bad, node = await place.node("n-1", bad_origin), await place.node("n-2", good)
    await bad.pull(made)
    layer = bad.folder / "whole" / made.image.layers[0].digest.removeprefix("sha256:")
    if fault == "lies":  # the first 100 bytes are others, on a disk that was checked already
        with layer.open("r+b") as file:
            file.write(bytes(100))
    elif fault == "dead":
        source = bad.source
        await bad.stop()
        bad.told.append(SimpleNamespace(port=source.port))
    elif fault == "truncates":
        with layer.open("r+b") as file:
            file.truncate(150_000)
    else:
        layer.unlink()
        bad.blobs._cache.drop(made.image.layers[0].digest)
        bad_origin.stop_after, bad_origin.silence_seconds = bad_origin.sent + 150_000, 100.0
        monkeypatch.setattr(fetches, "STARVED_SECONDS", 0.5)
        monkeypatch.setattr(peers, "ALIVE_SECONDS", 0.1)
    assert await node.pull(made, bad) == made.blobs


async def test_what_was_not_granted_is_not_there(place):
    made, other = made_image(1000), made_image(1000, seed=2)
    node = await place.node("n-1", Origin({**made.blobs, **other.blobs}))
    name = await node.place(made)
    host, _, path = name.partition("/")
    repository, _, manifest = path.partition("@")
    secret, _, rest = repository.partition("/")
    layer = other.image.layers[0].digest
    paths = {
        f"{repository}/manifests/{manifest}": 200,
        f"{secret}x/{rest}/manifests/{manifest}": 404,
        f"{rest}/manifests/{manifest}": 404,
        f"{repository}x/manifests/{manifest}": 404,
        f"{repository}/blobs/{layer}": 404,
        f"{repository}/manifests/1": 404,
        f"{repository}/blobs/../../../../etc/passwd": 404,
    }
    async with aiohttp.ClientSession() as session:
        for path, status in paths.items():
            async with session.get(f"http://{host}/v2/{path}") as answer:
                assert (path, answer.status) == (path, status)
        async with session.put(f"http://{host}/v2/{repository}/manifests/{manifest}") as answer:
            assert answer.status == 405


async def test_a_part_of_a_blob_is_served_while_it_arrives(place):
    made = made_image(200_000)
    layer = made.image.layers[0]
    node = await place.node("n-1", Origin(made.blobs, bytes_per_second=2_000_000))
    name = await node.place(made)
    host, _, path = name.partition("/")
    url = f"http://{host}/v2/{path.partition('@')[0]}/blobs/{layer.digest}"
    body = made.blobs[layer.digest]
    async with aiohttp.ClientSession() as session:
        for wanted, status, expected in (
            ("bytes=150000-", 206, body[150_000:]),
            ("bytes=0-0", 206, body[:1]),
            ("bytes=10-19", 206, body[10:20]),
            ("bytes=200000-", 416, b""),
            ("lines=1-2", 200, body),
        ):
            async with session.get(url, headers={"Range": wanted}) as answer:
                assert (answer.status, await answer.read()) == (status, expected)
        async with session.head(url) as answer:
            assert answer.headers["Content-Length"] == "200000"


async def test_with_no_way_to_a_blob_the_engine_is_sent_to_the_registry(place):
    made = made_image(1000)
    node = await place.node("n-1", Origin(made.blobs, dead=True))
    assert await node.place(made) is None


@pytest.mark.parametrize(("kind", "status"), [("denied", 403), ("rate-limited", 403), ("unreachable", 502)])
async def test_why_the_registry_gave_nothing_is_known_until_it_is_asked_again(place, kind, status):
    made = made_image(50_000)
    origin = Origin(made.blobs)
    node = await place.node("n-1", origin)
    await node.place(made)
    origin.refusal = BlobError(kind, "the registry said no", retry_after_seconds=17.0)
    with pytest.raises(aiohttp.ClientResponseError) as caught:
        await node.pull(made, tries=1)
    assert caught.value.status == status
    fault = node.blobs.fault(made.image)
    assert (fault.kind, str(fault), fault.retry_after_seconds) == (kind, "the registry said no", 17.0)
    origin.refusal = None
    await node.place(made)
    assert node.blobs.fault(made.image) is None
    assert await node.pull(made) == made.blobs


async def test_a_registry_that_lies_is_told_and_a_neighbour_that_lies_is_not(place):
    made = made_image(50_000)
    origin = Origin(made.blobs)
    neighbour, node = await place.node("n-1", origin), await place.node("n-2", origin)
    await neighbour.pull(made)
    layer = neighbour.folder / "whole" / made.image.layers[0].digest.removeprefix("sha256:")
    layer.write_bytes(bytes(50_000))
    await node.pull(made, neighbour)
    assert node.blobs.fault(made.image) is None
    other = made_image(50_000, seed=2)
    origin.blobs, origin.lies = other.blobs, True
    assert await node.place(other) is None
    assert node.blobs.fault(other.image).kind == "wrong-content"


async def test_an_image_that_has_no_room_is_pulled_from_the_registry(place):
    made = made_image(300_000)
    node = await place.node("n-1", Origin(made.blobs), max_bytes=200_000)
    assert await node.place(made) is None


async def test_strangers_get_nothing_and_a_node_is_known_by_its_certificate(place, tmp_path):
    made = made_image(1000)
    first = await place.node("n-1", Origin(made.blobs))
    await first.pull(made)
    (tmp_path / "other").mkdir(mode=0o700)
    async with Neighbourhood(tmp_path / "other") as elsewhere:
        stranger = await elsewhere.node("n-2", Origin({}, dead=True))
        assert await stranger.place(made, first) is None
    second = await place.node("n-2", Origin({}, dead=True))
    source = BlobSource(member_id="n-9", address="127.0.0.1", port=first.port)
    assert await second.place(made, SimpleNamespace(source=source)) is None
    assert await second.place(made, first)


async def test_a_node_that_is_asked_before_it_was_granted_the_image_is_waited_for(place):
    made = made_image(100_000)
    origin = Origin(made.blobs)
    first, second = await place.node("n-1", origin), await place.node("n-2", Origin({}, dead=True))
    pull = asyncio.create_task(second.pull(made, first))
    await until(lambda: first.blobs._server._serving)
    first.blobs.granted(PullGrant(reference=made.reference, image=made.image))
    assert await pull == made.blobs
    assert origin.sent == made.size


async def test_what_a_stopped_agent_has_fetched_is_gone_on_with(place):
    made = made_image(400_000)
    origin = Origin(made.blobs, stop_after=300_000, silence_seconds=60)
    node = await place.node("n-1", origin)
    pull = asyncio.create_task(node.pull(made))
    await until(lambda: origin.sent >= 300_000)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    await node.stop()
    origin.stop_after = None
    await node.start()
    assert await node.pull(made) == made.blobs
    assert origin.sent < made.size + 50_000


async def test_what_rotted_on_the_disk_is_fetched_again(place):
    made = made_image(100_000)
    origin = Origin(made.blobs)
    node = await place.node("n-1", origin)
    await node.pull(made)
    await node.stop()
    path = node.folder / "whole" / made.image.layers[0].digest.removeprefix("sha256:")
    path.write_bytes(bytes(100_000))
    (node.folder / "partial" / path.name).write_bytes(bytes(50_000))
    await node.start()
    assert await node.pull(made) == made.blobs


async def test_a_full_disk_sends_the_engine_to_the_registry(place, monkeypatch):
    made = made_image(100_000)
    node = await place.node("n-1", Origin(made.blobs))
    usage = SimpleNamespace(total=10**9, used=10**9, free=10**5)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert await node.place(made) is None


async def test_a_blob_nobody_reads_any_more_is_left_as_it_is(place, monkeypatch):
    monkeypatch.setattr(fetches, "UNREAD_SECONDS", 0.2)
    made = made_image(4_000_000)
    origin = Origin(made.blobs, bytes_per_second=1_000_000)
    node = await place.node("n-1", origin)
    pull = asyncio.create_task(node.pull(made))
    await until(lambda: origin.sent > 200_000)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    await until(lambda: not node.blobs._cache.fetching)
    assert origin.sent < 3_000_000


async def test_nodes_that_were_sent_to_each_other_do_not_wait_for_each_other(place):
    made = made_image(200_000)
    origin = Origin(made.blobs, bytes_per_second=1_000_000)
    nodes = [await place.node(f"n-{n}", origin) for n in range(3)]
    pulls = (node.pull(made, nodes[(n + 1) % 3]) for n, node in enumerate(nodes))
    async with asyncio.timeout(10):
        assert all(pulled == made.blobs for pulled in await asyncio.gather(*pulls))


async def test_what_a_liar_gave_is_not_passed_for_whole_to_those_behind_it(place):
    made = made_image(300_000)
    layer = made.image.layers[0].digest
    liar = Origin(made.blobs, lies=True, id="n-9", is_last=False, bytes_per_second=1_000_000)
    good = Origin(made.blobs)
    both = SimpleNamespace(ways=lambda *_: [liar, good])
    first, second = await place.node("n-1", both), await place.node("n-2", good)
    good.sent = 0
    pulled = await asyncio.gather(first.pull(made), second.pull(made, first))
    assert pulled == [made.blobs, made.blobs]
    assert liar.asked.count(layer) == 1, "it is not asked for this blob again"


async def test_a_place_that_does_not_answer_is_not_asked_for_every_blob_unless_nobody_else_has_it(place):
    made, other = made_image(20_000, 20_000, 20_000), made_image(10_000, seed=2)
    mirror = Origin({**made.blobs, **other.blobs}, id="mirror", is_last=False, dead=True)
    registry = Origin(made.blobs)
    node = await place.node("n-1", SimpleNamespace(ways=lambda *_: [mirror, registry]))
    assert await node.pull(made) == made.blobs
    assert len(mirror.asked) == 1
    mirror.dead = False
    assert await node.pull(other) == other.blobs, "the registry has it not"


async def test_a_node_serves_no_more_than_it_may_at_a_time_and_no_faster(place, monkeypatch):
    made = made_image(800_000)
    first = await place.node("n-1", Origin(made.blobs), bytes_per_second=1_000_000)
    await first.pull(made)
    second = await place.node("n-2", Origin({}, dead=True))
    begun = asyncio.get_running_loop().time()
    await second.pull(made, first)
    assert asyncio.get_running_loop().time() - begun > 0.4
    first.blobs._server._max_connections = 0
    third = await place.node("n-3", Origin(made.blobs))
    assert await third.pull(made, first) == made.blobs
    assert "n-1" not in third.blobs.fetched_bytes
