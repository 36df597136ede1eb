"""Label sets over the API: made, listed with their members now, changed, kept as long as they are used."""

import asyncio

import msgspec
import pytest
from api_rig import Rig, deployment, node, problem

from fallow.decide.selectors import parse_selector
from fallow.model.deployments import PlacementPolicy
from fallow.model.labels import Variable


async def make(rig: Rig, name: str, selector: str, status: int = 201) -> None:
    answer = await rig.call("POST", "/v1/label-sets", role="operator", json={"name": name, "selector": selector})
    assert answer.status_code == status, answer.text


async def test_label_set_life(rig: Rig) -> None:
    await rig.put(node("a", "n-1", labels={"role": "web"}), node("b", "n-2", labels={"role": "db"}))
    await make(rig, "web", "role = web")
    body = (await rig.call("GET", "/v1/label-sets/web", role="viewer")).json()
    assert (body["selector"], body["members"], body["created_by"]) == ("role=web", ["a"], "api:a-operator")
    await make(rig, "web", "role=web")  # made again it is the same
    problem(await rig.call("POST", "/v1/label-sets", json={"name": "web", "selector": "role=db"}), 409, "name-taken")
    await rig.call("PATCH", "/v1/members/b", json={"labels": {"role": "web"}})
    assert (await rig.call("GET", "/v1/label-sets/web")).json()["members"] == ["a", "b"]
    etag = (await rig.call("GET", "/v1/label-sets/web")).headers["etag"]
    change = {"selector": "role=db", "description": "shelves"}
    answer = await rig.call("PATCH", "/v1/label-sets/web", json=change, headers={"If-Match": etag})
    assert (answer.json()["members"], answer.json()["description"]) == ([], "shelves")
    stale = await rig.call("PATCH", "/v1/label-sets/web", json=change, headers={"If-Match": etag})
    problem(stale, 412, "changed")
    assert (await rig.call("DELETE", "/v1/label-sets/web")).status_code == 204
    problem(await rig.call("GET", "/v1/label-sets/web"), 404, "not-found")
    events = (await rig.call("GET", "/v1/events?subject=web")).json()["items"]
    assert [each["reason"] for each in events] == ["LabelSetCreated", "LabelSetChanged", "LabelSetDeleted"]
    audit = (await rig.call("GET", "/v1/audit?subject=web")).json()["items"]
    assert {"field": "selector", "before": "role=web", "after": "role=db"} in audit[1]["differences"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Web", "selector": "a=b"}, {"name": "web\n", "selector": "a=b"}, {"name": "web", "selector": ""},
        {"name": "web", "selector": "a=b\n"}, {"name": "web", "selector": "a" * 1025}, {"name": "web"},
        {"name": "web", "selector": "a=b", "members": ["x"]}, {"name": "../x", "selector": "a"},
    ],
)  # fmt: skip
async def test_label_set_bad_bodies_are_refused(rig: Rig, body: dict[str, object]) -> None:
    answer = await rig.call("POST", "/v1/label-sets", json=body)
    assert answer.status_code == 400, answer.text
    assert (await rig.call("GET", "/v1/label-sets")).json()["items"] == []


async def test_label_set_a_refused_selector_points_at_the_place(rig: Rig) -> None:
    answer = await rig.call("POST", "/v1/label-sets", json={"name": "web", "selector": "role=web,,"})
    assert "at character 10" in problem(answer, 400, "bad-selector")["detail"]


async def test_label_sets_never_go_round_or_point_nowhere(rig: Rig) -> None:
    problem(await rig.call("POST", "/v1/label-sets", json={"name": "a", "selector": "@b"}), 409, "label-set")
    problem(await rig.call("POST", "/v1/label-sets", json={"name": "a", "selector": "!@a"}), 409, "label-set")
    await make(rig, "a", "role=web")
    await make(rig, "b", "@a,zone=x")
    answer = await rig.call("PATCH", "/v1/label-sets/a", json={"selector": "!@b"})
    assert "@a -> @b -> @a go round" in problem(answer, 409, "label-set")["detail"]
    body = problem(await rig.call("DELETE", "/v1/label-sets/a"), 409, "in-use")
    assert "label set @b" in body["detail"]


async def test_label_sets_that_would_close_a_circle_at_once_do_not(rig: Rig) -> None:
    await make(rig, "a", "x=1")
    await make(rig, "b", "x=2")
    changes = (("a", "@b"), ("b", "@a"))
    answers = await asyncio.gather(
        *(rig.call("PATCH", f"/v1/label-sets/{name}", json={"selector": text}) for name, text in changes)
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_label_set_of_a_deployment_is_kept_and_trusted(rig: Rig) -> None:
    await make(rig, "web", "role=web")
    web = deployment("shop", "web")
    policy = PlacementPolicy(selector=parse_selector("@web"))
    await rig.put(msgspec.structs.replace(web, spec=msgspec.structs.replace(web.spec, placement=policy)))
    assert (await rig.call("GET", "/v1/label-sets/web")).json()["used_by"] == ["deployment shop/web"]
    assert "shop/web" in problem(await rig.call("DELETE", "/v1/label-sets/web"), 409, "in-use")["detail"]
    answer = await rig.call("PATCH", "/v1/label-sets/web", json={"selector": "var:role=web"})
    assert "no assigned label" in problem(answer, 409, "label-set")["detail"]
    assert (await rig.call("PATCH", "/v1/label-sets/web", json={"selector": "role=db"})).status_code == 200


async def test_deploying_by_a_label_set_there_is_not_is_refused(rig: Rig) -> None:
    def compose(selector: str) -> dict[str, str]:
        return {"compose": f"services:\n  web:\n    image: web:1\n    x-fallow:\n      selector: '{selector}'\n"}

    body = problem(await rig.call("POST", "/v1/deploy", json=compose("@gone")), 422, "label-set")
    assert body["detail"] == "web: there is no label set @gone"
    await make(rig, "told", "var:rack")
    body = problem(await rig.call("POST", "/v1/deploy", json=compose("@told")), 422, "label-set")
    assert "no assigned label" in body["detail"]
    body = problem(await rig.call("POST", "/v1/deploy", json=compose("var:rack=r7")), 422, "bad-compose")
    assert "assigned labels only" in body["errors"][0]
    await make(rig, "web", "role=web")
    assert (await rig.call("POST", "/v1/deploy", json=compose("@web"))).status_code == 200


async def test_members_are_listed_by_all_that_is_known_of_them(rig: Rig) -> None:
    said = (Variable(name="rack", value="r7"), Variable(name="role", value="web"))
    await rig.put(node("a", "n-1", labels={"role": "db"}, variables=said), node("b", "n-2", variables=said))
    await make(rig, "racked", "rack")

    async def listed(selector: str) -> list[str]:
        answer = await rig.call("GET", "/v1/members", role="viewer", params={"selector": selector})
        return [item["name"] for item in answer.json()["items"]]

    assert await listed("rack=r7") == ["a", "b"]
    assert await listed("role=web") == ["b"]  # the label wins
    assert await listed("@racked,label:role=db") == ["a"]
    assert await listed("node:name=b") == ["b"]
    for wrong in ("a=", "@gone", "a b", "env:x"):
        answer = await rig.call("GET", "/v1/members", params={"selector": wrong})
        assert answer.status_code == (200 if wrong == "a=" else 400)
