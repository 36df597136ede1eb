"""Gateways prefer their own region: what is decided for them, done by every proxy, asked with real requests."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from proxy_rigs import HOST, HAProxyRig, Rig, reported, rig_of, until, web
from records import cluster, deployment, member, share, snapshot
from test_proxy_haproxy import Load

from fallow.decide.routes import Place, render
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import RouteSpec
from fallow.model.members import MemberState
from fallow.model.routes import Endpoint, ProxyState
from fallow.model.shares import RemoteEndpoint

WEST, EAST = Place("west", alone=True), Place("east", alone=True)


@pytest.fixture(params=["fake", pytest.param("haproxy", marks=pytest.mark.real)])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_of(request.param, tmp_path / "proxy") as found:
        yield found


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[HAProxyRig]:
    async with rig_of("haproxy", tmp_path / "proxy") as found:
        yield found


def backup(endpoint: Endpoint) -> Endpoint:
    return msgspec.structs.replace(endpoint, backup=True)


async def bodies(rig: Rig, count: int = 12) -> set[str]:
    """Return who answers requests of which each begins before the others end."""
    answers = [await found.finish() for found in [await rig.hold(HOST) for _ in range(count)]]
    assert {answer.status for answer in answers} == {200}
    return {answer.body for answer in answers}


async def test_a_backup_is_asked_only_while_no_other_is_well(rig: Rig) -> None:
    one, two, spare = [await rig.endpoint(name) for name in ("one", "two", "spare")]
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one, two, backup(spare)))
    assert await bodies(rig) == {"one", "two"}
    for endpoint in (one, two):
        await rig.kill(endpoint)

    async def spared() -> bool:
        return (await rig.get(HOST)).body == "spare"

    await until(spared)
    assert await bodies(rig) == {"spare"}
    await rig.revive(one)

    async def back() -> bool:
        return (await rig.get(HOST)).body == "one"

    await until(back)


async def test_all_backups_share_what_there_is(rig: Rig) -> None:
    spares = [await rig.endpoint(name) for name in ("one", "two", "three")]
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, *map(backup, spares)))
    assert await bodies(rig) == {"one", "two", "three"}


async def test_a_backup_becomes_a_server_like_others_and_a_backup_again(rig: Rig) -> None:
    one, spare = await rig.endpoint("one"), await rig.endpoint("spare")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one, backup(spare)))
    await rig.proxy.apply(web(2, one, spare))
    assert await bodies(rig) == {"one", "spare"}
    await rig.proxy.apply(web(3, one, backup(spare)))
    assert await bodies(rig) == {"one"}
    await reported(rig.proxy, lambda found: (found.applied_revision, found.draining) == (3, ()))


async def test_a_successor_finds_backups_to_be_backups(rig: Rig) -> None:
    one, spare = await rig.endpoint("one"), await rig.endpoint("spare")
    await rig.proxy.start(None)
    state = web(1, one, backup(spare))
    await rig.proxy.apply(state)
    await rig.successor()
    await rig.proxy.start(None)
    await rig.proxy.apply(msgspec.structs.replace(state, revision=2))
    assert (await rig.proxy.report()).draining == ()
    assert await bodies(rig) == {"one"}


WEB = msgspec.structs.replace(
    deployment(replicas=10, share=0),
    spec=msgspec.structs.replace(deployment(replicas=10).spec, routes=(RouteSpec(host=HOST, port=80),)),
)


class World:
    """Two clusters, each with servers, and what gateways are told of them."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.servers: dict[str, list[Endpoint]] = {}
        self.revision = 0

    async def cluster(self, name: str, servers: int) -> None:
        self.servers[name] = [await self.rig.endpoint(f"c-{name}.{name}-{number}") for number in range(servers)]

    def state(
        self, place: Place, told: dict[str, int], ready: dict[str, int] | None = None, **states: MemberState
    ) -> ProxyState:
        """Return what a gateway should do while so many servers of each cluster are ready, of those it is told."""
        records: list[Any] = [WEB, cluster("here", "west", id=HERE_ID), member("a")]
        for name, servers in self.servers.items():
            up = servers[: (ready or {}).get(name, len(servers))]
            found = [
                RemoteEndpoint(id=one.id.split(".")[1], address=one.address, ports={"80/tcp": one.port}) for one in up
            ]
            records += [
                cluster(name, name, state=states.get(name, MemberState.READY)),
                share(WEB, f"c-{name}", *found, replicas=told[name]),
            ]
        self.revision += 1
        return render(snapshot(*records, revision=self.revision), place)


async def two_regions(rig: HAProxyRig, count: int) -> tuple[World, dict[str, int]]:
    """Start a proxy and so many servers in each of west and east; return them, and what clusters are told to run."""
    world = World(rig)
    for name in ("west", "east"):
        await world.cluster(name, count)
    await rig.proxy.start(None)
    return world, {"west": count, "east": count}


async def shares(rig: HAProxyRig, load_requests: int = 1500) -> Counter[str]:
    """Return how many of many requests at once each cluster got."""
    before = {name: len(server.requests) for name, server in rig.servers.items()}
    load = Load(rig, clients=24)
    await load.more(load_requests)
    assert set(await load.end()) == {200}
    found: Counter[str] = Counter()
    for name, server in rig.servers.items():
        found[name.split(".")[0]] += len(server.requests) - before[name]
    return found


async def weights(rig: HAProxyRig) -> dict[str, int]:
    """Return the weights that HAProxy has, but for servers that drain."""
    rows = await rig.proxy._runtime.servers()
    return {row.name.rpartition(":")[0]: row.weight for row in rows if ":" in row.name and row.ready}


@pytest.mark.real
async def test_requests_stay_in_the_gateways_region_while_that_has_enough(real: HAProxyRig) -> None:
    world, told = await two_regions(real, 3)
    for place, name in [(WEST, "c-west"), (EAST, "c-east")]:
        await real.proxy.apply(world.state(place, told))
        await reported(real.proxy, lambda found: found.draining == ())
        got = await shares(real)
        assert got == Counter({name: got.total()})


@pytest.mark.real
async def test_another_region_takes_over_as_much_as_is_missing(real: HAProxyRig) -> None:
    world, told = await two_regions(real, 8)
    await real.proxy.apply(world.state(WEST, told, ready={"west": 4}))
    assert (await shares(real))["c-east"] == 0, "half of it is enough"
    await real.proxy.apply(world.state(WEST, told, ready={"west": 2}))
    found = await weights(real)
    assert {found[one.id] for one in world.servers["west"][:2]} == {100}
    assert {found[one.id] for one in world.servers["east"]} == {75}, "six are missing, and eight take their part"
    got = await shares(real)
    assert 0.5 < got["c-east"] / got.total() < 0.95
    await real.proxy.apply(world.state(WEST, told))
    await reported(real.proxy, lambda found: found.draining == ())
    assert (await shares(real))["c-east"] == 0, "its own region has enough again"


@pytest.mark.real
async def test_no_request_fails_while_regions_go_and_come_back(real: HAProxyRig) -> None:
    world, told = await two_regions(real, 2)
    await real.proxy.apply(world.state(WEST, told))
    load = Load(real)
    for state in (
        world.state(WEST, told, west=MemberState.SUSPECT),
        world.state(WEST, told, west=MemberState.DEAD),
        world.state(WEST, told),
        world.state(WEST, told, ready={"west": 0}),
        world.state(WEST, told, west=MemberState.SUSPECT, east=MemberState.SUSPECT),
        world.state(WEST, told),
    ):
        await real.proxy.apply(state)
        await load.more(150)
        report = await reported(real.proxy, lambda found: found.draining == ())
        assert report.applied_revision == state.revision
    assert set(await load.end()) == {200}


@pytest.mark.real
async def test_another_region_takes_over_at_once_when_all_of_the_own_is_killed(real: HAProxyRig) -> None:
    world, told = await two_regions(real, 4)
    await real.proxy.apply(world.state(WEST, told))
    load = Load(real)
    await load.more(300)
    for endpoint in world.servers["west"]:
        await real.kill(endpoint)
    await load.more(2000)
    statuses = await load.end()
    assert set(statuses) <= {200, 502, 503, 0}
    assert load.sent - statuses[200] <= 30, (
        "what was under way, and what found nobody before they were known to be dead"
    )
