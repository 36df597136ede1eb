"""Registries and rules on images over the API: what is told of them, and what never is."""

from pathlib import Path

import msgspec
import pytest
from api_rig import Rig, problem
from registry_images import Shelf, tiny
from signing import new_key, public_pem, put_bundles, put_signed, signed_bundle

from fallow.drivers.registry import RegistryError
from fallow.drivers.registry.fake import FakeRegistry
from fallow.model.images import RegistryLogin
from fallow.model.registries import KnownRegistry
from testbed.certificates import OwnCa

HOST = "registry.example:5000"
PASSWORD = "hunter2-never-told"
REGISTRY = {"host": HOST, "username": "ci", "password": PASSWORD}


def driver(rig: Rig) -> FakeRegistry:
    found = rig.services.registries._driver
    assert isinstance(found, FakeRegistry)
    return found


async def everything_told(rig: Rig) -> str:
    paths = ("/v1/registries", f"/v1/registries/{HOST}", "/v1/events", "/v1/audit", "/metrics", "/docs/openapi.json")
    return "\n".join([(await rig.call("GET", path)).text for path in paths])


async def test_a_registry_is_added_read_changed_and_removed(rig: Rig) -> None:
    made = await rig.call("POST", "/v1/registries", json=REGISTRY)
    assert made.status_code == 201, made.text
    body = made.json()
    assert (body["host"], body["username"], body["insecure"], body["mirror"]) == (HOST, "ci", False, "")
    one = await rig.call("GET", f"/v1/registries/{HOST}", role="viewer")
    assert (one.json(), one.headers["etag"]) == (body, f'"{body["revision"]}"')
    assert (await rig.call("GET", "/v1/registries", role="viewer")).json()["items"] == [body]
    changed = await rig.call("POST", "/v1/registries", json={"host": HOST, "scheme": "http", "mirror": "10.0.0.9:5000"})
    assert (changed.status_code, changed.json()["username"], changed.json()["insecure"]) == (201, "", True)
    assert (await rig.call("DELETE", f"/v1/registries/{HOST}")).status_code == 204
    problem(await rig.call("GET", f"/v1/registries/{HOST}"), 404, "not-found")
    problem(await rig.call("DELETE", f"/v1/registries/{HOST}"), 404, "not-found")
    items = (await rig.call("GET", f"/v1/events?subject={HOST}")).json()["items"]
    assert [item["reason"] for item in items] == ["RegistryAdded", "RegistryChanged", "RegistryRemoved"]
    audit = (await rig.call("GET", f"/v1/audit?subject={HOST}")).json()["items"]
    assert [entry["operation"] for entry in audit] == ["add_registry", "add_registry", "remove_registry"]


async def test_a_password_is_told_to_nobody(rig: Rig) -> None:
    await rig.call("POST", "/v1/registries", json=REGISTRY)
    await rig.call("POST", "/v1/registries", json=REGISTRY | {"nonsense": PASSWORD})
    assert PASSWORD not in await everything_told(rig)
    stored = rig.services.cache.get("registries", HOST)
    assert isinstance(stored, KnownRegistry)
    assert stored.sealed_password
    assert PASSWORD.encode() not in stored.sealed_password
    assert "ci" not in repr(stored)
    items, _ = await rig.store.list("")
    assert not any(PASSWORD.encode() in item.value for item in items)
    problem(await rig.call("GET", "/v1/watch?kinds=registries"), 400, "bad-request")
    assert rig.services.registries.access(HOST).login == RegistryLogin(username="ci", password=PASSWORD)


async def test_a_sealed_password_is_good_for_its_registry_alone(rig: Rig) -> None:
    """Whoever can write to the store cannot have it sent elsewhere, or in the clear."""
    await rig.call("POST", "/v1/registries", json=REGISTRY)
    stored = rig.services.cache.get("registries", HOST)
    assert isinstance(stored, KnownRegistry)
    moved = msgspec.structs.replace(stored, id="evil.example", revision=0)
    await rig.put(msgspec.structs.replace(stored, insecure=True), moved)
    for host in (HOST, "evil.example"):
        told = (await rig.call("POST", f"/v1/registries/{host}/test")).json()
        assert (told["works"], told["kind"]) == (False, "denied")
        assert "does not open" in told["text"]
    assert driver(rig).asked == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": "host/path"},
        {"host": "user@host"},
        {"host": "host\n"},
        {"host": "a" * 300},
        {"host": "host:port"},
        {"username": "ci:x"},
        {"username": "c\ni"},
        {"password": "a\r\nb"},
        {"password": "x" * 20_000},
        {"mirror": "http://m"},
        {"extra": 1},
        {"scheme": "ftp"},
        {"insecure": True},
    ],
)
async def test_what_is_no_registry(rig: Rig, wrong: dict[str, object]) -> None:
    problem(await rig.call("POST", "/v1/registries", json=REGISTRY | wrong), 400, "bad-request")
    assert (await rig.call("GET", "/v1/registries")).json()["items"] == []


async def test_half_a_login(rig: Rig) -> None:
    problem(await rig.call("POST", "/v1/registries", json={"host": HOST, "username": "ci"}), 422, "bad-login")
    problem(await rig.call("POST", "/v1/registries", json={"host": HOST, "password": "x"}), 422, "bad-login")
    problem(await rig.call("POST", "/v1/registries", json={"host": "docker.io", "scheme": "http"}), 422, "bad-request")


async def test_docker_hub_has_one_name(rig: Rig) -> None:
    made = await rig.call("POST", "/v1/registries", json=REGISTRY | {"host": "index.docker.io"})
    assert made.json()["host"] == "docker.io"
    assert (await rig.call("GET", "/v1/registries/registry-1.docker.io")).json()["host"] == "docker.io"


async def test_who_may(rig: Rig) -> None:
    for role in ("viewer", "operator"):
        problem(await rig.call("POST", "/v1/registries", role=role, json=REGISTRY), 403, "forbidden")
        problem(await rig.call("DELETE", f"/v1/registries/{HOST}", role=role), 403, "forbidden")
        problem(await rig.call("PUT", "/v1/trust/shop", role=role, json={"project": "shop"}), 403, "forbidden")
        problem(await rig.call("DELETE", "/v1/trust/shop", role=role), 403, "forbidden")
    problem(await rig.call("POST", f"/v1/registries/{HOST}/test", role="viewer"), 403, "forbidden")


async def test_trying_a_registry(rig: Rig) -> None:
    problem(await rig.call("POST", f"/v1/registries/{HOST}/test"), 404, "not-found")
    await rig.call("POST", "/v1/registries", json=REGISTRY)
    driver(rig).logins[HOST] = RegistryLogin(username="ci", password="another")
    told = (await rig.call("POST", f"/v1/registries/{HOST}/test", role="operator")).json()
    assert (told["works"], told["kind"]) == (False, "denied")
    driver(rig).logins[HOST] = RegistryLogin(username="ci", password=PASSWORD)
    assert (await rig.call("POST", f"/v1/registries/{HOST}/test")).json()["works"]


# rules on images


async def test_rules_are_set_read_and_removed(rig: Rig) -> None:
    pem = public_pem(new_key())
    rules = {"project": "shop", "allow": ["shop/*"], "require_digest": True, "keys": [pem]}
    made = await rig.call("PUT", "/v1/trust/shop", json=rules)
    assert made.status_code == 200, made.text
    assert (made.json()["keys"][0]["kind"], len(made.json()["keys"][0]["sha256"])) == ("ecdsa-p256", 64)
    assert (await rig.call("GET", "/v1/trust/shop", role="viewer")).json() == made.json()
    assert (await rig.call("GET", "/v1/trust", role="viewer")).json()["items"] == [made.json()]
    again = await rig.call("PUT", "/v1/trust/shop", json={"project": "shop", "allow": ["*"]})
    assert (again.status_code, again.json()["keys"], again.json()["require_digest"]) == (200, [], False)
    assert (await rig.call("DELETE", "/v1/trust/shop")).status_code == 204
    problem(await rig.call("GET", "/v1/trust/shop"), 404, "not-found")
    problem(await rig.call("DELETE", "/v1/trust/shop"), 404, "not-found")
    items = (await rig.call("GET", "/v1/events?subject=shop")).json()["items"]
    assert [item["reason"] for item in items] == ["TrustSet", "TrustChanged", "TrustRemoved"]


@pytest.mark.parametrize(
    ("rules", "status", "code"),
    [
        ({}, 422, "no-rules"),
        ({"allow": ["shop/**"]}, 422, "bad-pattern"),
        ({"allow": ["shop/api:1"]}, 400, "bad-request"),
        ({"allow": ["sh op"]}, 400, "bad-request"),
        ({"allow": ["a\n"]}, 400, "bad-request"),
        ({"keys": ["nonsense"]}, 422, "bad-key"),
        ({"keys": ["-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]}, 422, "bad-key"),
        ({"keys": ["x" * 9000]}, 400, "bad-request"),
        ({"project": "Shop"}, 400, "bad-request"),
        ({"project": "other", "require_digest": True}, 422, "bad-request"),
    ],
)
async def test_what_is_no_rule(rig: Rig, rules: dict[str, object], status: int, code: str) -> None:
    problem(await rig.call("PUT", "/v1/trust/shop", json={"project": "shop"} | rules), status, code)


async def deploy(rig: Rig, image: str, **more: object):
    compose = f"services: {{web: {{image: '{image}'}}}}"
    return await rig.call("POST", "/v1/deploy", json={"compose": compose, "project": "shop", **more})


async def test_a_deploy_is_held_to_the_rules(rig: Rig) -> None:
    await rig.call("PUT", "/v1/trust/shop", json={"project": "shop", "allow": [f"{HOST}/shop/*"]})
    told = problem(await deploy(rig, "nginx:1"), 403, "image-untrusted")
    assert "project shop may not use docker.io/library/nginx" in told["detail"]
    problem(await deploy(rig, "nginx:1", dry_run=True), 403, "image-untrusted")
    assert (await rig.call("GET", "/v1/deployments")).json()["items"] == []
    assert (await deploy(rig, f"{HOST}/shop/api:1")).status_code == 200
    assert driver(rig).asked == [], "only signatures need the registry"
    other = await rig.call("POST", "/v1/deploy", json={"compose": "services: {web: {image: nginx}}", "project": "else"})
    assert other.status_code == 200


async def test_a_deploy_needs_a_digest(rig: Rig) -> None:
    await rig.call("PUT", "/v1/trust/shop", json={"project": "shop", "require_digest": True})
    assert "by digest" in problem(await deploy(rig, "nginx:1"), 403, "image-untrusted")["detail"]
    assert (await deploy(rig, f"nginx@sha256:{'a' * 64}")).status_code == 200


async def test_a_deploy_needs_a_signature(rig: Rig) -> None:
    key, shelf = new_key(), Shelf(HOST, driver(rig))
    await rig.call("PUT", "/v1/trust/shop", json={"project": "shop", "keys": [public_pem(key)]})
    image = shelf.put("shop/api", "1", tiny())
    reference = f"{HOST}/shop/api:1"
    assert "it has none" in problem(await deploy(rig, reference), 403, "image-untrusted")["detail"]
    put_signed(shelf, "shop/api", image.digest, new_key())
    assert "none of the keys" in problem(await deploy(rig, reference), 403, "image-untrusted")["detail"]
    put_signed(shelf, "shop/api", image.digest, key)
    assert (await deploy(rig, reference)).status_code == 200
    bundled = shelf.put("shop/bundled", "1", tiny("bundled"))
    put_bundles(shelf, "shop/bundled", bundled.digest, signed_bundle(key, bundled.digest))
    assert (await deploy(rig, f"{HOST}/shop/bundled:1")).status_code == 200
    driver(rig).troubles = [RegistryError("unreachable", "no route")]
    problem(await deploy(rig, f"{HOST}/shop/other:1"), 502, "image-unreachable")


@pytest.mark.parametrize(
    "image", ["Shop/Api", "a b", "nginx@sha256:12", "x" * 600, "nginx:\\tab", "../x", "nginx:1\\n"]
)
async def test_malformed_references_are_not_deployed(rig: Rig, image: str) -> None:
    assert (await deploy(rig, image)).status_code in (400, 422)
    assert (await rig.call("GET", "/v1/deployments")).json()["items"] == []


async def test_certificates_and_a_proxy_are_kept_shown_and_handed_on(rig: Rig, tmp_path: Path) -> None:
    ca = OwnCa(tmp_path).file.read_text()
    terms = {"ca_pem": ca, "proxy": "http://10.0.0.9:3128"}
    made = (await rig.call("POST", "/v1/registries", json=REGISTRY | terms)).json()
    assert ([each["subject"] for each in made["trusted"]], made["proxy"]) == (["CN=own-ca"], "http://10.0.0.9:3128")
    access = rig.services.registries.access(HOST)
    assert (access.ca_pem, access.proxy) == (ca, "http://10.0.0.9:3128")
    assert access.login == RegistryLogin(username="ci", password=PASSWORD)
    (told,) = (await rig.call("GET", f"/v1/events?subject={HOST}")).json()["items"]
    assert "certificates of its own, through http://10.0.0.9:3128" in told["message"]


@pytest.mark.parametrize("pem", ["", "another"])
async def test_a_sealed_password_is_good_with_its_certificates_alone(rig: Rig, tmp_path: Path, pem: str) -> None:
    """Whoever can write to the store cannot have it sent to a registry that shows a certificate of theirs."""
    await rig.call("POST", "/v1/registries", json=REGISTRY | {"ca_pem": OwnCa(tmp_path).file.read_text()})
    stored = rig.services.cache.get("registries", HOST)
    assert isinstance(stored, KnownRegistry)
    await rig.put(msgspec.structs.replace(stored, ca_pem=pem))
    told = (await rig.call("POST", f"/v1/registries/{HOST}/test")).json()
    assert (told["works"], told["kind"]) == (False, "denied")
    assert driver(rig).asked == []
    assert (await rig.call("GET", f"/v1/registries/{HOST}")).json()["trusted"] == []


async def test_certificates_that_cannot_be_used(rig: Rig, tmp_path: Path) -> None:
    ca = OwnCa(tmp_path)
    _, key = ca.issue("10.0.0.1")
    for wrong in ("nonsense", ca.file.read_text() + key.read_text()):
        problem(await rig.call("POST", "/v1/registries", json=REGISTRY | {"ca_pem": wrong}), 422, "bad-certificate")
    plain = {"host": HOST, "scheme": "http", "ca_pem": ca.file.read_text()}
    problem(await rig.call("POST", "/v1/registries", json=plain), 422, "bad-request")
    for proxy in ("10.0.0.9:3128", "https://10.0.0.9:3128", "http://me:secret@10.0.0.9:3128", "http://p/x", "http://"):
        problem(await rig.call("POST", "/v1/registries", json=REGISTRY | {"proxy": proxy}), 400, "bad-request")
    assert (await rig.call("GET", "/v1/registries")).json()["items"] == []
