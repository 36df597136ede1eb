"""Private images in member clusters: the host says which bytes a tag stands for, and how they are got."""

import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from federation_rig import Site, Undivided, cluster_of, federation, until
from registry_images import Shelf, tiny

from fallow.drivers.authority import Authority
from fallow.drivers.registry.fake import FakeRegistry
from fallow.model.deployments import Deployment, DeployRequest
from fallow.model.image_frames import PullAsked
from fallow.model.images import PullGrant, RegistryLogin
from fallow.model.registries import RegistryRequest
from fallow.model.shares import SHARED_REGISTRY
from fallow.model.tokens import ApiRole, TokenRequest

HOST = "registry.example"
IMAGE = f"{HOST}/shop/api:1"
LOGIN = RegistryLogin(username="ci", password="hunter2-of-the-host")
COMPOSE = "name: shop\nservices: {{{name}: {{image: {image}}}}}\n"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """Return the one registry that every control plane of a test reaches."""
    found = FakeRegistry(logins={HOST: LOGIN})
    monkeypatch.setattr("fallow.control.plane.ControlPlane.registry_type", staticmethod(lambda: found))

    async def stay() -> None:
        """Be there for the others."""

    found.close = stay  # type: ignore[method-assign]
    return found


@pytest.fixture
async def sites(driver: FakeRegistry, tmp_path: Path) -> AsyncIterator[tuple[Site, Site]]:
    async with federation(tmp_path, store="") as (host, member):
        terms = RegistryRequest(host=HOST, username=LOGIN.username, password=LOGIN.password)
        await host.plane.distribution.registries.add(terms, "test")
        yield host, member


async def post(site: Site, path: str, body: object) -> None:
    token = (await site.plane.tokens.create(TokenRequest(role=ApiRole.ADMIN), "test")).secret
    trusted = ssl.create_default_context(cadata=Authority.create_or_load(site.folder / "ca").ca_pem)
    async with httpx.AsyncClient(verify=trusted, base_url=site.url) as client:
        answer = await client.post(
            path, content=msgspec.json.encode(body), headers={"Authorization": f"Bearer {token}"}
        )
    assert answer.is_success, answer.text


async def deployed(site: Site, name: str = "web", image: str = IMAGE) -> Deployment:
    await post(site, "/v1/deploy", DeployRequest(compose=COMPOSE.format(name=name, image=image)))
    return site.named(name)


async def run_at(host: Site, member: Site, web: Deployment) -> None:
    """Let a member run one replica of a deployment of the host."""
    await host.tell(web, cluster_of(host).id, 1)
    await until(lambda: any(found.node_id for found in member.replicas(web.name)))


async def grant(member: Site, name: str = "web", image: str = IMAGE) -> PullGrant:
    """Return what a node of a member is told that is about to pull for its replica."""
    replica = await until(lambda: next((each for each in member.replicas(name) if each.node_id), None))
    asked = PullAsked(pull_id="p-1", reference=image, replica_id=replica.id)
    return await member.plane.distribution.pulls.grant(replica.node_id, asked)


def kept(member: Site) -> set[str]:
    return {id_ for id_ in member.plane.cache.records("secrets") if id_.startswith(SHARED_REGISTRY)}


async def test_a_member_pulls_the_bytes_and_with_the_login_of_its_host(
    driver: FakeRegistry, sites: tuple[Site, Site]
) -> None:
    host, member = sites
    shelf = Shelf(HOST, driver)
    first = shelf.put("shop/api", "1", tiny("one"))
    web = await deployed(host)
    shelf.put("shop/api", "1", tiny("two"))
    await run_at(host, member, web)
    found = await grant(member)
    assert (found.kind, found.digest, found.login) == ("", first.digest, LOGIN)
    assert found.image is not None
    assert found.image.image_id == first.image_id
    assert not member.plane.distribution.registries.views()  # what the member's own people know is not changed


async def test_a_restart_takes_what_the_tag_stands_for_by_then(driver: FakeRegistry, sites: tuple[Site, Site]) -> None:
    host, member = sites
    shelf = Shelf(HOST, driver)
    shelf.put("shop/api", "1", tiny("one"))
    web = await deployed(host)
    await run_at(host, member, web)
    second = shelf.put("shop/api", "1", tiny("two"))
    await post(host, "/v1/deployments/shop/web/restart", {})
    await until(lambda: (found := member.snapshot.templates.get(f"{web.id}.2")) and found.image is not None)
    assert member.snapshot.templates[f"{web.id}.2"].image.digest == second.digest


async def test_the_login_of_the_host_is_for_what_it_orders_and_nothing_else(
    driver: FakeRegistry, sites: tuple[Site, Site]
) -> None:
    host, member = sites
    Shelf(HOST, driver).put("shop/api", "1", tiny())
    await run_at(host, member, await deployed(host))
    assert (await grant(member)).login == LOGIN
    await member.deploy("own", 1, container=msgspec.structs.replace(host.named("web").spec.container, image=IMAGE))
    refused = await grant(member, "own")
    assert (refused.kind, refused.login) == ("denied", None)


async def test_what_the_member_knows_itself_comes_first(driver: FakeRegistry, sites: tuple[Site, Site]) -> None:
    host, member = sites
    Shelf(HOST, driver).put("shop/api", "1", tiny())
    await member.plane.distribution.registries.add(RegistryRequest(host=HOST, proxy="http://10.0.0.9:3128"), "test")
    await run_at(host, member, await deployed(host))
    found = await grant(member)
    assert found.kind == "denied"
    assert found.login is None


async def test_a_login_that_changes_reaches_members_and_goes_with_what_needed_it(
    driver: FakeRegistry, sites: tuple[Site, Site]
) -> None:
    host, member = sites
    Shelf(HOST, driver).put("shop/api", "1", tiny())
    web = await deployed(host)
    await run_at(host, member, web)
    await until(lambda: kept(member) == {f"{SHARED_REGISTRY}{HOST}"})
    driver.logins[HOST] = changed = RegistryLogin(username="ci", password="another-one")
    terms = RegistryRequest(host=HOST, username="ci", password=changed.password)
    await host.plane.distribution.registries.add(terms, "test")
    registries, _ = member.plane.distribution.pulls.for_host
    await until(lambda: registries.access(HOST).login == changed)
    await member.restart()
    registries, _ = member.plane.distribution.pulls.for_host
    assert registries.access(HOST).login == changed  # without the host
    await host.plane.distribution.registries.remove(HOST, "test")
    await until(lambda: not kept(member))
    await host.plane.distribution.registries.add(terms, "test")
    await until(lambda: kept(member))
    await member.plane.hosts.leave(False, "test")
    await until(lambda: not kept(member))


async def test_no_login_is_told_or_stored_in_clear(
    driver: FakeRegistry, sites: tuple[Site, Site], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    host, member = sites
    Shelf(HOST, driver).put("shop/api", "1", tiny())
    await run_at(host, member, await deployed(host))
    assert (await grant(member)).login == LOGIN
    await until(lambda: kept(member))
    told = capfd.readouterr()
    places = {"log": (told.out + told.err + caplog.text).encode()}
    for site in sites:
        items, _ = await site.plane.store.list("")
        places[f"store of {site.folder.name}"] = b"".join(item.value for item in items)
        places[f"files of {site.folder.name}"] = b"".join(
            file.read_bytes() for file in site.folder.rglob("*") if file.is_file()
        )
    orders = host.plane.shares._told[cluster_of(host).id]
    places["order"] = repr(orders).encode()
    assert LOGIN.username.encode() in places["order"]
    for place, content in places.items():
        assert content or place == "log", place
        assert LOGIN.password.encode() not in content, place


async def test_a_registry_that_does_not_answer_holds_up_no_deploy(
    driver: FakeRegistry, sites: tuple[Site, Site]
) -> None:
    host, member = sites
    web = await deployed(host, image="elsewhere.example/shop/api:1")  # it has no such image
    await run_at(host, member, web)
    template = member.snapshot.templates[f"{web.id}.1"]
    assert template.image is None


async def test_a_control_plane_alone_asks_no_registry_at_a_deploy(driver: FakeRegistry, tmp_path: Path) -> None:
    site = Site(tmp_path / "alone", "memory:", kind=Undivided)
    await site.start()
    try:
        Shelf(HOST, driver).put("shop/api", "1", tiny())
        driver.asked.clear()
        await deployed(site)
        assert not driver.asked
    finally:
        await site.close()
