"""Mirrors of registries over the API."""

from typing import Any

import httpx
import pytest
from api_rig import Rig, node, problem, replica

from fallow.model.deployments import Deployment
from fallow.model.registries import KnownRegistry

HOST = "registry.example:5000"
PATH = "/v1/registry-mirrors"
REQUEST: dict[str, Any] = {"name": "cache", "registry": HOST, "target": {"names": ["web-1"]}}


async def create(rig: Rig, **changes: Any) -> httpx.Response:
    return await rig.call("POST", PATH, json=REQUEST | changes)


def deployed(rig: Rig) -> Deployment:
    found = rig.services.cache.snapshot().deployment_named("mirrors", "cache")
    assert found is not None
    return found


@pytest.fixture(autouse=True)
async def one_node(rig: Rig) -> None:
    await rig.put(node())


async def test_a_mirror_is_made_served_and_deleted(rig: Rig) -> None:
    login = {"host": HOST, "username": "ci", "password": "hunter2-never-told"}
    await rig.call("POST", "/v1/registries", json=login)
    made = await create(rig)
    assert (made.status_code, made.json()["address"]) == (201, "")
    container = deployed(rig).spec.container
    assert "hunter2" not in str(container)
    assert container.environment["REGISTRY_PROXY_REMOTEURL"] == f"https://{HOST}"

    serving = replica("cache-0", deployed(rig), address="10.0.0.7", host_ports={"5000/tcp": 20001}, healthy_since=1.0)
    await rig.put(serving)
    (listed,) = (await rig.call("GET", PATH, role="viewer")).json()["items"]
    assert (listed["name"], listed["registry"], listed["address"]) == ("cache", HOST, "10.0.0.7:20001")
    shown = (await rig.call("GET", f"/v1/registries/{HOST}")).json()
    assert (shown["mirror"], shown["mirrored_by"], shown["username"]) == ("10.0.0.7:20001", "cache", "ci")
    assert rig.services.registries.mirror(HOST) == "10.0.0.7:20001"

    await rig.call("POST", "/v1/registries", json=login | {"username": "cd"})
    assert rig.services.registries.mirror(HOST) == "10.0.0.7:20001", "another login is no other mirror"
    assert (await rig.call("DELETE", f"{PATH}/cache")).status_code == 204
    assert deployed(rig).deleting
    assert rig.services.registries.mirror(HOST) == ""
    assert (await rig.call("GET", PATH)).json()["items"] == []
    kept = rig.services.cache.get("registries", HOST)
    assert isinstance(kept, KnownRegistry)
    assert kept.sealed_password
    reasons = [item["reason"] for item in (await rig.call("GET", f"/v1/events?subject={HOST}")).json()["items"]]
    assert reasons == ["RegistryAdded", "RegistryMirrored", "RegistryChanged", "RegistryChanged"]


async def test_once_more_changes_the_mirror(rig: Rig) -> None:
    await create(rig)
    before = deployed(rig)
    assert (await create(rig)).status_code == 201
    assert deployed(rig).generation == before.generation
    assert (await create(rig, target={"selector": "role=mirror"}, image="hub.example/registry:3")).status_code == 201
    after = deployed(rig)
    assert (after.id, after.generation) == (before.id, 2)
    assert after.spec.container.image == "hub.example/registry:3"


async def test_a_registry_has_one_mirror(rig: Rig) -> None:
    await create(rig)
    problem(await create(rig, name="other"), 409, "has-mirror")
    problem(await create(rig, registry="docker.io"), 409, "name-taken")
    named = {"host": HOST, "mirror": "10.0.0.9:5000"}
    problem(await rig.call("POST", "/v1/registries", json=named), 409, "has-mirror")
    problem(await rig.call("DELETE", f"/v1/registries/{HOST}"), 409, "has-mirror")
    await rig.call("POST", "/v1/registries", json=named | {"host": "docker.io"})
    problem(await create(rig, name="hub", registry="index.docker.io"), 409, "has-mirror")


async def test_a_registry_with_a_proxy_has_no_mirror_since_a_mirror_knows_of_none(rig: Rig) -> None:
    through = {"host": HOST, "proxy": "http://10.0.0.9:3128"}
    await rig.call("POST", "/v1/registries", json=through)
    problem(await create(rig), 409, "no-mirror")
    await rig.call("POST", "/v1/registries", json={"host": HOST})
    assert (await create(rig)).status_code == 201
    problem(await rig.call("POST", "/v1/registries", json=through), 409, "has-mirror")


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"target": {"names": ["nobody"]}}, 404, "not-found"),
        ({"target": {"selector": "role=("}}, 400, "bad-selector"),
        ({"target": {"selector": "@nothing"}}, 400, "bad-selector"),
        ({"target": {"percent": 10}}, 400, "bad-request"),
        ({"name": "No Name"}, 400, "bad-request"),
        ({"registry": "https://hub.example"}, 400, "bad-request"),
        ({"image": "Not An Image"}, 422, "image-bad-request"),
    ],
)
async def test_what_cannot_be_is_refused(rig: Rig, changes: dict[str, Any], status: int, code: str) -> None:
    problem(await create(rig, **changes), status, code)
    assert rig.services.cache.get("registries", HOST) is None


async def test_a_name_that_a_deployment_has_is_taken(rig: Rig) -> None:
    compose = "services: {cache: {image: 'a:1'}}"
    await rig.call("POST", "/v1/deploy", json={"compose": compose, "project": "mirrors"})
    problem(await create(rig), 409, "name-taken")
    problem(await rig.call("DELETE", f"{PATH}/cache"), 404, "not-found")


async def test_images_of_mirrors_are_held_to_rules(rig: Rig) -> None:
    await rig.call("PUT", "/v1/trust/mirrors", json={"project": "mirrors", "allow": ["hub.example/*"]})
    problem(await create(rig), 403, "image-untrusted")
