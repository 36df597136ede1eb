"""Plans over the API, and dry runs where there are several clusters."""

import pytest
from api_rig import NOW, Rig, deployment, node, problem
from division_cases import cluster, room

from fallow.model.meta import Record

TEXT = "services:\n  web:\n    image: app\n    deploy: {replicas: 4}\n"


def two() -> list[Record]:
    web = deployment("shop", "web")
    return [
        web,
        node("web-1"),
        cluster("a", revision=0),
        cluster("b", revision=0),
        room("a", (web, 9)),
        room("b", (web, 0)),
    ]


async def test_plans_change_nothing(rig: Rig) -> None:
    await rig.put(*two())
    before = rig.services.cache.revision
    lost = await rig.call("POST", "/v1/plans", json={"what": "cluster-loss", "cluster": "a"}, role="viewer")
    assert lost.status_code == 200
    assert lost.json()["unplaced"] == {"shop/web": deployment("shop", "web").spec.replicas}
    added = await rig.call("POST", "/v1/plans", json={"what": "add", "nodes": 2, "cpus": 4})
    assert added.json()["unplaced"] == {}
    assert rig.services.cache.revision == before


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"what": "drain", "cluster": "nobody"}, 404, "not-found"),
        ({"what": "drain", "cluster": "web-1"}, 404, "not-found"),
        ({"what": "add"}, 400, "bad-request"),
        ({"what": "add", "nodes": 1, "cpus": 1, "cluster": "Not A Name"}, 400, "bad-request"),
        ({"what": "add", "nodes": 1, "cpus": 1, "cluster": "a"}, 409, "name-taken"),
        ({"what": "explode"}, 400, "bad-request"),
        ({"what": "add", "nodes": -1, "cpus": 1}, 400, "bad-request"),
    ],
)
async def test_plans_that_cannot_be(rig: Rig, body: dict[str, object], status: int, code: str) -> None:
    await rig.put(*two())
    problem(await rig.call("POST", "/v1/plans", json=body), status, code)


async def test_without_clusters_there_is_none_to_lose(rig: Rig) -> None:
    problem(await rig.call("POST", "/v1/plans", json={"what": "drain", "cluster": "a"}), 409, "no-clusters")


async def test_a_dry_run_names_clusters(rig: Rig) -> None:
    rig.clock.now = NOW
    await rig.put(*two())
    body = (await rig.call("POST", "/v1/deploy", json={"compose": TEXT, "project": "shop", "dry_run": True})).json()
    (item,) = body["items"]
    assert (item["clusters"], item["placements"]) == ({"a": 4}, {})
