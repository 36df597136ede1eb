"""Deploying, scaling and deleting over the API."""

import asyncio

import msgspec
import pytest
from api_rig import NOW, Rig, deployment, node, problem, replica

from fallow.api.routes.watch import change_events
from fallow.model.deployments import Origin, ReplicaState, Template
from fallow.model.hosts import Host
from fallow.model.kinds import key_of
from fallow.model.members import Facts
from fallow.model.meta import Record
from fallow.store.contract import Batch, Change, Item

SHOP = """
name: shop
services:
  web:
    image: web:{version}
    deploy: {{replicas: {replicas}}}
  db:
    image: db:1
"""


def shop(version: int = 1, replicas: int = 2) -> str:
    return SHOP.format(version=version, replicas=replicas)


async def actions(rig: Rig, text: str, **more: object) -> dict[str, str]:
    rig.clock.now += 1
    answer = await rig.call("POST", "/v1/deploy", role="operator", json={"compose": text, **more})
    assert answer.status_code == 200, answer.text
    return {item["path"]: item["action"] for item in answer.json()["items"]}


async def test_deploy_creates_updates_scales_prunes(rig: Rig) -> None:
    assert await actions(rig, shop()) == {"shop/web": "create", "shop/db": "create"}
    assert await actions(rig, shop()) == {"shop/web": "unchanged", "shop/db": "unchanged"}
    assert await actions(rig, shop(replicas=5)) == {"shop/web": "scale", "shop/db": "unchanged"}
    assert await actions(rig, shop(version=2, replicas=5)) == {"shop/web": "update", "shop/db": "unchanged"}
    web = (await rig.call("GET", "/v1/deployments/shop/web", role="viewer")).json()
    assert (web["generation"], web["spec"]["replicas"], web["counts"]["wanted"], web["state"]) == (2, 5, 5, "updating")
    templates = rig.services.cache.snapshot().templates
    assert {f"{web['id']}.1", f"{web['id']}.2"} <= templates.keys()
    assert templates[f"{web['id']}.2"].container.image == "web:2"
    only_web = shop(version=2, replicas=5).partition("  db:")[0]
    assert await actions(rig, only_web) == {"shop/web": "unchanged"}
    assert await actions(rig, only_web, prune=True) == {"shop/web": "unchanged", "shop/db": "delete"}
    assert (await rig.call("GET", "/v1/deployments/shop/db")).json()["state"] == "deleting"
    answer = await rig.call("POST", "/v1/deploy", json={"compose": shop()})
    assert "shop/db" in problem(answer, 409, "deleting")["detail"]
    told = (await rig.call("GET", "/v1/events?subject=shop/web")).json()["items"]
    assert [item["reason"] for item in told] == ["DeploymentCreated", "DeploymentScaled", "DeploymentUpdated"]
    assert {item["actor"] for item in told} == {"api:a-operator"}


async def test_deploy_of_a_bad_file_names_every_fault(rig: Rig) -> None:
    answer = await rig.call("POST", "/v1/deploy", json={"compose": "services: {a: {ports: [x]}, b: 3}"})
    body = problem(answer, 422, "bad-compose")
    assert len(body["errors"]) >= 2
    assert not rig.services.cache.snapshot().deployments


async def test_deploy_dry_run_changes_nothing_and_foretells(rig: Rig) -> None:
    await rig.put(node(facts=Facts(cpus=4, memory_bytes=2**30, architecture="amd64")))
    before = rig.services.cache.revision
    answer = await rig.call("POST", "/v1/deploy", json={"compose": shop(replicas=3), "dry_run": True})
    body = answer.json()
    assert body["dry_run"] is True
    assert {item["path"]: item["placements"] for item in body["items"]} == {
        "shop/web": {"web-1": 3},
        "shop/db": {"web-1": 1},
    }
    assert rig.services.cache.revision == before
    await rig.put(deployment("shop", "old"))
    body = (await rig.call("POST", "/v1/deploy", json={"compose": shop(), "dry_run": True, "prune": True})).json()
    assert {item["path"]: item["action"] for item in body["items"]}["shop/old"] == "delete"


async def test_deploys_side_by_side_make_one_deployment(rig: Rig) -> None:
    done = await asyncio.gather(*(actions(rig, shop(replicas=number)) for number in range(1, 9)))
    assert sorted(one["shop/web"] for one in done) == ["create"] + ["scale"] * 7
    snapshot = rig.services.cache.snapshot()
    assert sorted(found.path for found in snapshot.deployments.values()) == ["shop/db", "shop/web"]


async def test_deployments_listed_by_project(rig: Rig) -> None:
    await rig.put(deployment("b", "x"), deployment("a", "y"), deployment("a", "w"))
    listed = (await rig.call("GET", "/v1/deployments")).json()
    assert [item["project"] + "/" + item["name"] for item in listed["items"]] == ["a/w", "a/y", "b/x"]
    assert len((await rig.call("GET", "/v1/deployments?project=a")).json()["items"]) == 2


async def test_scaling(rig: Rig) -> None:
    await rig.put(deployment("p", "web"))
    path = "/v1/deployments/p/web"
    seen = (await rig.call("GET", path)).headers["etag"]
    answer = await rig.call("PATCH", path, json={"replicas": 7}, headers={"If-Match": seen})
    assert (answer.json()["spec"]["replicas"], answer.json()["generation"]) == (7, 1)
    problem(await rig.call("PATCH", path, json={"replicas": 8}, headers={"If-Match": seen}), 412, "changed")
    same = await rig.call("PATCH", path, json={})
    assert same.headers["etag"] == answer.headers["etag"]
    problem(await rig.call("PATCH", path, json={"replicas": -1}), 400, "bad-request")
    problem(await rig.call("PATCH", path, json={"image": "x"}), 400, "bad-request")
    problem(await rig.call("PATCH", "/v1/deployments/p/other", json={"replicas": 1}), 404, "not-found")


async def test_deleting(rig: Rig) -> None:
    await rig.put(deployment("p", "web"))
    path = "/v1/deployments/p/web"
    problem(await rig.call("DELETE", path, headers={"If-Match": '"0"'}), 412, "changed")
    answer = await rig.call("DELETE", path)
    assert (answer.status_code, answer.json()["state"]) == (202, "deleting")
    assert (await rig.call("DELETE", path)).status_code == 202
    problem(await rig.call("PATCH", path, json={"replicas": 1}), 409, "deleting")
    assert len((await rig.call("GET", "/v1/events?subject=p/web")).json()["items"]) == 1
    for odd in ("/v1/deployments/P/web", "/v1/deployments/p/we%20b", "/v1/deployments/p/%2e%2e"):
        problem(await rig.call("DELETE", odd), 404, "not-found")


async def test_replicas_listed(rig: Rig) -> None:
    web, db = deployment("p", "web"), deployment("p", "db")
    await rig.put(
        node(), web, db, replica("web-1", web, slot=1), replica("web-0", web, "", state=ReplicaState.PENDING),
        replica("db-0", db),
    )  # fmt: skip

    async def ids(query: str) -> list[str]:
        return [item["id"] for item in (await rig.call("GET", f"/v1/replicas{query}")).json()["items"]]

    assert await ids("") == ["db-0", "web-0", "web-1"]
    assert await ids("?project=p&deployment=web") == ["web-0", "web-1"]
    assert await ids("?node=web-1") == await ids("?node=n-1") == ["db-0", "web-1"]
    assert await ids("?node=nobody") == await ids("?project=q") == []


def item_of(record: Record) -> Item:
    return Item(key_of(record), msgspec.msgpack.encode(record), 1, 1)


@pytest.mark.parametrize(("role", "shown"), [("viewer", "(hidden)"), ("operator", "hunter2"), ("admin", "hunter2")])
async def test_viewers_see_no_values_of_environments(rig: Rig, role: str, shown: str) -> None:
    web = deployment("p", "web")
    container = msgspec.structs.replace(web.spec.container, environment={"PASSWORD": "hunter2"})
    web = msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, container=container))
    await rig.put(web)
    one = (await rig.call("GET", "/v1/deployments/p/web", role)).json()
    (listed,) = (await rig.call("GET", "/v1/deployments", role)).json()["items"]
    assert one["spec"]["container"]["environment"] == {"PASSWORD": shown}
    assert listed == one
    made = Template(id="t", created_at=NOW, updated_at=NOW, deployment_id=web.id, generation=1, container=container)
    batch = Batch(1, tuple(Change(key_of(record), item_of(record)) for record in (web, made)))
    told = change_events(batch, frozenset({"deployments", "templates"}), values=role != "viewer").decode()
    assert told.count(f'"PASSWORD":"{shown}"') == 2


async def test_what_is_run_for_a_host_is_changed_there_and_not_here(rig: Rig) -> None:
    hosted = msgspec.structs.replace(
        deployment("shop", "web", replicas=4), share=1, origin=Origin(revision=3, generation=1)
    )
    host = Host(
        id="host", created_at=NOW, updated_at=NOW, url="https://host.example:7443", member_id="c-1", name="west"
    )
    await rig.put(hosted, host)
    one = f"/v1/deployments/{hosted.project}/web"
    wanted = {"compose": "services: {web: {image: 'web:2'}}", "project": hosted.project}
    calls = (
        ("PATCH", one, {"replicas": 9}), ("DELETE", one, None), ("POST", f"{one}/restart", None),
        ("POST", f"{one}/rollback", {}), ("POST", f"{one}/pause", None), ("POST", f"{one}/resume", None),
        ("POST", "/v1/deploy", wanted), ("POST", "/v1/deploy", {**wanted, "dry_run": True}),
    )  # fmt: skip
    for method, path, body in calls:
        answer = await rig.call(method, path, **({"json": body} if body is not None else {}))
        told = problem(answer, 409, "of-host")
        assert "https://host.example:7443" in told["detail"], (method, path)
        assert "deployment show" in told["hint"]
    # A project's own deployments are deployed beside it, and pruning leaves it alone.
    body = {"compose": "services: {db: {image: 'db:1'}}", "project": hosted.project, "prune": True}
    answer = await rig.call("POST", "/v1/deploy", json=body)
    assert {item["path"]: item["action"] for item in answer.json()["items"]} == {f"{hosted.project}/db": "create"}
    view = (await rig.call("GET", one, role="viewer")).json()
    assert (view["host"], view["share"], view["spec"]["replicas"]) == ("https://host.example:7443", 1, 4)
