"""Members over the API: reading, labelling, cordoning, draining, removing."""

import asyncio

import pytest
from api_rig import NOW, Rig, deployment, node, problem, replica
from server_records import vm

from fallow.model.members import AgentRun, MemberState, Role
from fallow.model.wire import Usage


async def test_members_listed_by_name_with_live_facts(rig: Rig) -> None:
    await rig.put(node("b", "n-2"), node("a", "n-1"), node("gate", "g-1", role=Role.GATEWAY))
    rig.link("n-1")
    rig.services.hub.used("n-1", Usage(cpus=1.5, memory_bytes=7))
    body = (await rig.call("GET", "/v1/members", role="viewer")).json()
    assert [item["name"] for item in body["items"]] == ["a", "b", "gate"]
    assert body["revision"] == rig.services.cache.revision
    first, second, _ = body["items"]
    assert (first["connected"], first["last_seen_at"], first["used_cpus"]) == (True, NOW, 1.5)
    assert (second["connected"], second["last_seen_at"]) == (False, 0)
    assert "key_sha256" not in first
    only = (await rig.call("GET", "/v1/members?role=gateway")).json()
    assert [item["name"] for item in only["items"]] == ["gate"]


async def test_member_read_by_id_and_name(rig: Rig) -> None:
    await rig.put(node())
    by_id, by_name = [await rig.call("GET", f"/v1/members/{reference}") for reference in ("n-1", "web-1")]
    assert by_id.json() == by_name.json()
    assert by_id.headers["etag"] == f'"{by_id.json()["revision"]}"'
    assert by_id.headers["cache-control"] == "no-store"
    problem(await rig.call("GET", "/v1/members/nobody"), 404, "not-found")


async def test_member_labels_and_scheduling_change(rig: Rig) -> None:
    await rig.put(node(labels={"zone": "a", "old": "1"}))
    change = {"labels": {"zone": "b", "old": None, "gone": None, "new": ""}, "scheduling": "draining"}
    answer = await rig.call("PATCH", "/v1/members/web-1", role="operator", json=change)
    body = answer.json()
    assert (answer.status_code, body["labels"], body["scheduling"]) == (200, {"zone": "b", "new": ""}, "draining")
    (told,) = (await rig.call("GET", "/v1/events?subject=web-1")).json()["items"]
    assert (told["actor"], told["reason"]) == ("api:a-operator", "MemberChanged")
    assert told["message"] == "node web-1: label zone=b, label old removed, label new=, draining, was active"
    again = await rig.call("PATCH", "/v1/members/web-1", json=change)
    assert again.headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize("labels", [{"a b": "c"}, {"a": "b/c"}, {"a": "x\n"}, {"": "x"}, {"a": "x" * 64}])
async def test_member_bad_labels_change_nothing(rig: Rig, labels: dict[str, str]) -> None:
    await rig.put(node())
    problem(await rig.call("PATCH", "/v1/members/n-1", json={"labels": {"ok": "1", **labels}}), 400, "bad-request")
    assert (await rig.call("GET", "/v1/members/n-1")).json()["labels"] == {}


async def test_member_has_a_bounded_number_of_labels(rig: Rig) -> None:
    await rig.put(node(labels={f"a{number}": "" for number in range(60)}))
    more = {f"b{number}": "" for number in range(5)}
    problem(await rig.call("PATCH", "/v1/members/n-1", json={"labels": more}), 400, "bad-request")


async def test_member_change_with_if_match(rig: Rig) -> None:
    await rig.put(node())
    seen = (await rig.call("GET", "/v1/members/n-1")).headers["etag"]
    change = {"json": {"scheduling": "cordoned"}}
    first = await rig.call("PATCH", "/v1/members/n-1", headers={"If-Match": seen}, **change)
    assert first.status_code == 200
    for stale in (seen, "nonsense", '"0", "1"'):
        answer = await rig.call("PATCH", "/v1/members/n-1", headers={"If-Match": stale}, **change)
        problem(answer, 412, "changed")
        problem(await rig.call("DELETE", "/v1/members/n-1", headers={"If-Match": stale}), 412, "changed")
    for fresh in ("*", f'"0", {first.headers["etag"]}', f"W/{first.headers['etag']}"):
        answer = await rig.call("PATCH", "/v1/members/n-1", headers={"If-Match": fresh}, **change)
        assert answer.status_code == 200


async def test_member_changes_side_by_side_are_all_kept(rig: Rig) -> None:
    await rig.put(node())
    wishes = [{"labels": {f"l{number}": "x"}} for number in range(8)]
    answers = await asyncio.gather(*(rig.call("PATCH", "/v1/members/n-1", json=wish) for wish in wishes))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len((await rig.call("GET", "/v1/members/n-1")).json()["labels"]) == 8


async def test_member_removed_when_empty(rig: Rig) -> None:
    await rig.put(node())
    link = rig.link("n-1")
    answer = await rig.call("DELETE", "/v1/members/web-1", role="operator")
    assert (answer.status_code, answer.content) == (204, b"")
    ((reason, final),) = link.closed
    assert final
    assert "removed by an operator; join with a new token" in reason
    problem(await rig.call("GET", "/v1/members/web-1"), 404, "not-found")
    (told,) = (await rig.call("GET", "/v1/events?subject=n-1")).json()["items"]
    assert told["reason"] == "MemberRemoved"


async def test_member_with_replicas_is_removed_only_dead_or_by_force(rig: Rig) -> None:
    shop = deployment("default", "shop")
    await rig.put(
        node(), node("web-2", "n-2", MemberState.DEAD), shop, replica("r-1", shop), replica("r-2", shop, "n-2")
    )
    body = problem(await rig.call("DELETE", "/v1/members/web-1"), 409, "holds-replicas")
    assert "drain" in body["hint"]
    problem(await rig.call("DELETE", "/v1/members/web-1?force=maybe"), 400, "bad-request")
    assert (await rig.call("DELETE", "/v1/members/web-2")).status_code == 204
    assert (await rig.call("DELETE", "/v1/members/web-1?force=true")).status_code == 204


async def test_a_vms_node_goes_with_its_vm_and_a_server_only_when_nothing_is_on_it(rig: Rig) -> None:
    shop = deployment("default", "shop")
    srv = node("srv", "s-srv", MemberState.DEAD, role=Role.SERVER)
    await rig.put(node("web-1", "n-1", MemberState.DEAD), srv, vm(node_id="n-1"), shop, replica("r-1", shop))
    body = problem(await rig.call("DELETE", "/v1/members/web-1"), 409, "in-vm")
    assert "fallow vm delete a" in body["hint"]
    body = problem(await rig.call("DELETE", "/v1/members/srv"), 409, "holds-replicas")
    assert "fallow server drain srv" in body["hint"]
    assert (await rig.call("DELETE", "/v1/members/srv?force=true")).status_code == 204


async def test_a_removal_revokes_the_key_and_says_whether_containers_stay(rig: Rig) -> None:
    await rig.put(node(), node("web-2", "n-2", key_sha256="b" * 64))
    assert (await rig.call("DELETE", "/v1/members/web-1")).status_code == 204
    assert (await rig.call("DELETE", "/v1/members/web-2?keep_containers=true")).status_code == 204
    revoked = rig.services.cache.snapshot().revoked_members
    assert {id_: found.keep_containers for id_, found in revoked.items()} == {"n-1": False, "n-2": True}


async def test_a_fenced_member_is_let_in_again(rig: Rig) -> None:
    await rig.put(node(fence="two machines use its key", runs=(AgentRun(instance="one"),)))
    before = (await rig.call("GET", "/v1/members/web-1")).json()
    assert before["fence"] == "two machines use its key"
    answer = await rig.call("PATCH", "/v1/members/web-1", json={"unfence": True})
    assert (answer.status_code, answer.json()["fence"]) == (200, "")
    assert rig.services.cache.snapshot().members["n-1"].runs == ()
