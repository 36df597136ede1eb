"""Clusters over the API: reading, labelling, tainting, draining, removing; and how deployments are divided."""

from collections.abc import AsyncGenerator, Sequence

import msgspec
import pytest
from api_rig import NOW, Rig, deployment, node, problem, replica

from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.clusters import HERE_ID
from fallow.model.divisions import Division, PastDivision
from fallow.model.members import Role
from fallow.model.rooms import Room, RoomSummary
from fallow.model.shares import RemoteEndpoint, Share, ShareReport, share_id
from fallow.model.wire import OpenLog

EAST = node("east", "c-east", role=Role.CLUSTER, key_sha256="e" * 64)
HERE = node("here", HERE_ID, role=Role.CLUSTER, key_sha256="")
WEB = deployment("shop", "web", replicas=5)


def share(cluster_id: str, replicas: int, ready: int, remaining: int = 0) -> Share:
    said = ShareReport(
        deployment_id=WEB.id, replicas=replicas, placed=ready, running=ready, ready=ready, updated=ready, generation=1,
        remaining=remaining or ready, state="serving",
    )  # fmt: skip
    return Share(
        id=share_id(WEB.id, cluster_id), created_at=NOW, updated_at=NOW, deployment_id=WEB.id, cluster_id=cluster_id,
        replicas=replicas, reported=said, reported_at=NOW,
    )  # fmt: skip


async def federated(rig: Rig) -> None:
    history = (PastDivision(at=NOW, total=5, shares={"east": 3, "here": 2}, cause="it is new"),)
    division = Division(
        id=WEB.id, created_at=NOW, updated_at=NOW, deployment_id=WEB.id, policy="p", total=5,
        shares={"c-east": 3, HERE_ID: 2}, rules={"c-east": "by capacity"}, history=history,
    )  # fmt: skip
    room = Room(id="c-east", created_at=NOW, updated_at=NOW, summary=RoomSummary(nodes=2, cpus=8.0))
    web = msgspec.structs.replace(WEB, share=2)
    await rig.put(EAST, HERE, web, division, room, share("c-east", 3, 3), share(HERE_ID, 2, 1))


async def has_endpoint(rig: Rig, replica_id: str) -> None:
    """Let the cluster east have said that this replica of its share is ready."""
    reported = share("c-east", 3, 3)
    assert reported.reported is not None
    said = msgspec.structs.replace(reported.reported, endpoints=(RemoteEndpoint(id=replica_id, address="10.0.0.7"),))
    stored = rig.services.cache.snapshot().shares[reported.id]
    await rig.put(msgspec.structs.replace(stored, reported=said))


async def test_there_are_no_clusters_without_members(rig: Rig) -> None:
    await rig.put(node())
    assert (await rig.call("GET", "/v1/clusters")).json()["items"] == []


async def test_clusters_are_listed_with_what_they_run(rig: Rig) -> None:
    await federated(rig)
    await rig.put(node("a", "n-1"))
    east, here = (await rig.call("GET", "/v1/clusters", role="viewer")).json()["items"]
    assert (east["member"]["name"], east["wanted"], east["ready"], east["nodes"]) == ("east", 3, 3, 2)
    assert (here["here"], here["member"]["connected"], here["moving_in"]) == (True, True, 1)
    one = await rig.call("GET", "/v1/clusters/east")
    assert one.json() == east
    assert one.headers["etag"]


async def test_logs_of_what_other_clusters_run_are_asked_there(rig: Rig) -> None:
    await federated(rig)
    told = problem(await rig.call("GET", "/v1/deployments/shop/web/logs"), 409, "runs-elsewhere")
    assert told["detail"].startswith("shop/web runs in other clusters (east 3)")
    assert told["hint"].startswith("fallow --context east logs shop/web ")
    problem(await rig.call("GET", "/v1/replicas/r-x/logs"), 404, "not-found")
    await has_endpoint(rig, "r-x")
    told = problem(await rig.call("GET", "/v1/replicas/r-x/logs"), 409, "runs-elsewhere")
    assert told["hint"].startswith("fallow --context east logs r-x ")


def relaying(rig: Rig, lines: Sequence[str], error: str = "") -> list[OpenLog]:
    """Let the cluster east be connected and answer lines; return what it is asked."""
    asked = []

    async def answer(wanted: OpenLog) -> AsyncGenerator[str, None]:
        asked.append(wanted)
        for line in lines:
            yield line
        if error:
            raise LogsRefused(error)

    rig.link("c-east")
    rig.services.__dict__["cluster_logs"] = lambda _, wanted: answer(wanted)
    return asked


async def test_logs_of_what_other_clusters_run_are_mixed_with_those_of_what_runs_here(rig: Rig) -> None:
    await federated(rig)
    asked = relaying(rig, ["r-1 | one", "r-2 | two"], "its session ended")
    await rig.put(node(), replica("r-0", WEB))
    rig.link("n-1", lines=("zero",))
    lines = (await rig.call("GET", "/v1/deployments/shop/web/logs?tail=7&follow=true", role="operator")).text
    assert sorted(lines.splitlines()) == [
        "east | (the log breaks off here: its session ended)",
        "east/r-1 | one",
        "east/r-2 | two",
        "r-0 | zero of r-0",
    ]
    (wanted,) = asked
    assert (wanted.deployment_id, wanted.replica_id, wanted.follow, wanted.tail) == (WEB.id, "", True, 7)
    assert (await rig.call("GET", "/v1/deployments/shop/web/logs", role="viewer")).status_code == 403
    assert len(asked) == 1
    only = await rig.call("GET", "/v1/deployments/shop/web/logs", headers={"fallow-cluster": "east"})
    assert "r-0 | zero" not in only.text
    assert "east/r-1 | one" in only.text
    other = await rig.call("GET", "/v1/deployments/shop/web/logs", headers={"fallow-cluster": "other"})
    problem(other, 409, "not-connected")


async def test_the_log_of_one_replica_in_another_cluster_is_as_it_is(rig: Rig) -> None:
    await federated(rig)
    await has_endpoint(rig, "r-x")
    asked = relaying(rig, ["one", "two"])
    assert (await rig.call("GET", "/v1/replicas/r-x/logs?tail=3")).text == "one\ntwo\n"
    assert [(each.deployment_id, each.replica_id, each.tail) for each in asked] == [(WEB.id, "r-x", 3)]
    relaying(rig, [], "no container")
    problem(await rig.call("GET", "/v1/replicas/r-x/logs"), 409, "not-connected")


async def test_a_cluster_of_a_release_before_is_named_beside_what_runs_here(rig: Rig) -> None:
    await federated(rig)
    rig.link("c-east")
    problem(await rig.call("GET", "/v1/deployments/shop/web/logs"), 409, "runs-elsewhere")
    await rig.put(node(), replica("r-0", WEB))
    rig.link("n-1", lines=("zero",))
    lines = (await rig.call("GET", "/v1/deployments/shop/web/logs")).text.splitlines()
    assert "r-0 | zero of r-0" in lines
    (other,) = [line for line in lines if line.startswith("east | ")]
    assert "fallow --context east logs shop/web" in other


async def test_a_node_is_no_cluster(rig: Rig) -> None:
    await rig.put(node())
    told = problem(await rig.call("GET", "/v1/clusters/web-1"), 404, "not-found")
    assert "web-1 is a node: fallow node show" in told["hint"]


async def test_who_names_no_cluster_is_sent_to_the_list_of_clusters(rig: Rig) -> None:
    await federated(rig)
    asked = {"what": "drain", "cluster": "nope"}
    for answer in (await rig.call("GET", "/v1/clusters/nope"), await rig.call("POST", "/v1/plans", json=asked)):
        assert problem(answer, 404, "not-found")["hint"] == "fallow cluster list shows all"


async def test_a_division_is_read_with_its_history(rig: Rig) -> None:
    await federated(rig)
    body = (await rig.call("GET", "/v1/deployments/shop/web/division", role="viewer")).json()
    assert (body["total"], body["ready"], [found["cluster"] for found in body["shares"]]) == (5, 4, ["east", "here"])
    assert (body["shares"][0]["rule"], body["history"][0]["cause"]) == ("by capacity", "it is new")
    problem(await rig.call("GET", "/v1/deployments/shop/none/division"), 404, "not-found")


async def test_a_deployment_counts_over_all_clusters(rig: Rig) -> None:
    await federated(rig)
    for body in (
        (await rig.call("GET", "/v1/deployments/shop/web")).json(),
        (await rig.call("GET", "/v1/deployments")).json()["items"][0],
    ):
        assert (body["counts"]["wanted"], body["counts"]["healthy"], body["state"]) == (5, 4, "waiting")


async def test_taints_are_set_on_clusters_only(rig: Rig) -> None:
    await federated(rig)
    await rig.put(node("a", "n-1"))
    taints = [{"key": "old", "effect": "move"}, {"key": "gpu", "value": "only"}]
    body = (await rig.call("PATCH", "/v1/members/east", json={"taints": taints})).json()
    assert [(found["key"], found["effect"]) for found in body["taints"]] == [("old", "move"), ("gpu", "no-new")]
    problem(await rig.call("PATCH", "/v1/members/a", json={"taints": taints}), 400, "bad-request")
    twice = [{"key": "a"}, {"key": "a", "effect": "move"}]
    problem(await rig.call("PATCH", "/v1/members/east", json={"taints": twice}), 400, "bad-request")
    problem(await rig.call("PATCH", "/v1/members/east", json={"taints": [{"key": "a b"}]}), 400, "bad-request")
    assert (await rig.call("PATCH", "/v1/members/here", json={"scheduling": "draining"})).status_code == 200


async def test_a_cluster_may_have_thresholds_of_its_own(rig: Rig) -> None:
    await federated(rig)
    own = {"suspect_after_seconds": 8.0, "dead_after_seconds": 30.0}
    usual = {"suspect_after_seconds": 5.0, "dead_after_seconds": 10.0}

    async def counted() -> tuple[object, object]:
        found = (await rig.call("GET", "/v1/clusters/east")).json()
        return found["thresholds"], found["member"]["thresholds"]

    assert await counted() == (usual, None)
    assert (await rig.call("PATCH", "/v1/members/east", json={"thresholds": own})).json()["thresholds"] == own
    assert await counted() == (own, own)
    assert "suspect after 8s, dead after 30s" in (await rig.call("GET", "/v1/events")).text
    assert (await rig.call("PATCH", "/v1/members/east", json={"labels": {"a": "b"}})).status_code == 200
    assert await counted() == (own, own), "what is not named stays"
    assert (await rig.call("PATCH", "/v1/members/east", json={"thresholds": None})).status_code == 200
    assert await counted() == (usual, None)
    assert (await rig.call("GET", "/v1/clusters/here")).json()["thresholds"] is None


@pytest.mark.parametrize(
    ("suspect", "dead"), [(8, 8), (9, 8), (1, 8), (0, 8), (-1, 8), (8, 86401), ("8s", 30), (8, None)]
)
async def test_thresholds_that_contradict_each_other_are_refused(rig: Rig, suspect: object, dead: object) -> None:
    await federated(rig)
    wanted = {"suspect_after_seconds": suspect, "dead_after_seconds": dead}
    problem(await rig.call("PATCH", "/v1/members/east", json={"thresholds": wanted}), 400, "bad-request")
    assert (await rig.call("GET", "/v1/members/east")).json()["thresholds"] is None


async def test_only_member_clusters_have_thresholds_of_their_own(rig: Rig) -> None:
    await federated(rig)
    await rig.put(node("a", "n-1"))
    wanted = {"suspect_after_seconds": 8.0, "dead_after_seconds": 30.0}
    for name in ("a", "here"):
        problem(await rig.call("PATCH", f"/v1/members/{name}", json={"thresholds": wanted}), 400, "bad-request")


async def test_a_cluster_that_runs_something_is_removed_only_by_force(rig: Rig) -> None:
    await federated(rig)
    body = problem(await rig.call("DELETE", "/v1/members/east"), 409, "holds-replicas")
    assert "fallow cluster drain east" in body["hint"]
    assert (await rig.call("DELETE", "/v1/members/east?force=true")).status_code == 204


async def test_what_still_stops_keeps_a_cluster(rig: Rig) -> None:
    await rig.put(EAST, HERE, WEB, share("c-east", 0, 0, remaining=1))
    problem(await rig.call("DELETE", "/v1/members/east"), 409, "holds-replicas")


async def test_our_own_nodes_are_not_removed_as_a_cluster(rig: Rig) -> None:
    await federated(rig)
    problem(await rig.call("DELETE", "/v1/members/here?force=true"), 409, "is-here")
    problem(await rig.call("POST", "/v1/tokens", json={"role": "node", "replaces": "here"}), 400, "bad-request")


async def test_a_cluster_has_no_agent_to_upgrade(rig: Rig) -> None:
    await federated(rig)
    problem(await rig.call("POST", "/v1/upgrades", json={"names": ["east"]}), 400, "bad-request")


async def test_a_deployment_made_at_a_host_runs_nowhere_until_it_is_divided(rig: Rig) -> None:
    await federated(rig)
    compose = "services:\n  api:\n    image: shop@sha256:" + "a" * 64 + "\n"
    answer = await rig.call("POST", "/v1/deploy", json={"compose": compose, "project": "shop"})
    assert answer.status_code == 200, answer.text
    found = rig.services.cache.snapshot().deployment_named("shop", "api")
    assert found is not None
    assert found.share == 0
