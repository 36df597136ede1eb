"""`fallow plan`."""

import json

import pytest
from cli_fake_api import FakeApi
from conftest import Fallow

from fallow.model.shares import PlanResult, ShareChange

MOVES = PlanResult(
    changes=(
        ShareChange(deployment="shop/api", cluster="old", before=2, after=0, why="old is drained"),
        ShareChange(deployment="shop/web", cluster="east", before=1, after=3, why="weight 1 of 2"),
        ShareChange(deployment="shop/web", cluster="old", before=5, after=0, why="old is drained"),
        ShareChange(deployment="shop/web", cluster="west", before=0, after=3, why="weight 1 of 2"),
    ),
    moved=5,
    unplaced={"shop/api": 2},
    reasons=("shop/api: east, west: no room for more",),
)


def test_drain(fallow: Fallow, api: FakeApi) -> None:
    api.on("POST /v1/plans", MOVES)
    ran = fallow("plan", "drain", "old")
    assert ran.code == 0
    table = [line.split() for line in ran.out.splitlines()[1:4]]
    assert [row[:4] for row in table] == [
        ["shop/api", "old", "nowhere", "2"],
        ["shop/web", "old", "east", "2"],
        ["shop/web", "old", "west", "3"],
    ]
    assert " ".join(table[1][4:]) == "old is drained; weight 1 of 2"
    assert "5 replicas of 2 deployments would come to 2 clusters; nothing has been done" in ran.out
    assert "2 replicas of 1 deployments would have NO PLACE" in ran.out
    assert "shop/api: east, west: no room for more" in ran.out
    assert api.bodies("POST /v1/plans") == [
        {"what": "drain", "cluster": "old", "nodes": 0, "cpus": 0.0, "memory_bytes": 0, "labels": {}}
    ]


def test_cluster_loss_as_json(fallow: Fallow, api: FakeApi) -> None:
    api.on("POST /v1/plans", MOVES)
    ran = fallow("plan", "cluster-loss", "old", "--json")
    assert json.loads(ran.out)["unplaced"] == {"shop/api": 2}
    assert api.bodies("POST /v1/plans")[0]["what"] == "cluster-loss"


def test_add(fallow: Fallow, api: FakeApi) -> None:
    placed = ShareChange(deployment="shop/web", cluster="new", before=0, after=4, why="by capacity")
    api.on("POST /v1/plans", PlanResult(changes=(placed,), moved=4))
    ran = fallow("plan", "add", "--nodes", "40x8cpu,32GiB", "--label", "region=west", "--name", "west-2")
    assert ran.out.splitlines()[1].split() == ["shop/web", "-", "new", "4", "by", "capacity"]
    assert api.bodies("POST /v1/plans") == [
        {
            "what": "add", "cluster": "west-2", "nodes": 40, "cpus": 8.0, "memory_bytes": 32 * 2**30,
            "labels": {"region": "west"},
        }
    ]  # fmt: skip
    api.on("POST /v1/plans", PlanResult())
    assert fallow("plan", "add", "--nodes", "3x0.5cpus").out == "nothing would move\n"


@pytest.mark.parametrize("nodes", ["40", "0x8cpu", "40x8", "40x8cpu,much", "40x8cpu,3d", "-1x8cpu"])
def test_nodes_that_cannot_be(fallow: Fallow, api: FakeApi, nodes: str) -> None:
    ran = fallow("plan", "add", f"--nodes={nodes}")
    assert ran.code == 2
    assert "GiB" in ran.err
    assert api.bodies("POST /v1/plans") == []
