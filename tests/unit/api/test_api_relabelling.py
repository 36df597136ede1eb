"""Relabelling over the API: a dry run tells exactly what would change; each member is held to what was seen of it."""

from typing import Any

import pytest
from api_rig import Rig, node, problem

from fallow.model.labels import Variable
from fallow.model.members import Role


async def relabel(rig: Rig, **body: Any) -> dict[str, Any]:
    answer = await rig.call("POST", "/v1/relabel", role="operator", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def fleet(rig: Rig, count: int = 3) -> None:
    await rig.put(*(node(f"node-{n}", f"n-{n}", labels={"zone": "a", "old": "1"}) for n in range(count)))
    await rig.put(node("gate", "g-1", role=Role.GATEWAY, labels={"zone": "a"}))


async def test_relabel_dry_run_changes_nothing_and_says_all(rig: Rig) -> None:
    await fleet(rig)
    await rig.call("PATCH", "/v1/members/node-1", json={"labels": {"zone": "b", "old": None}})
    revision = rig.services.cache.revision
    labels = {"zone": "b", "old": None}
    found = await relabel(rig, selector="zone in (a,b)", labels=labels, dry_run=True)
    assert rig.services.cache.revision == revision
    assert [(item["name"], item["outcome"], item["before"], item["after"]) for item in found["items"]] == [
        ("gate", "would-change", {"zone": "a"}, {"zone": "b"}),
        ("node-0", "would-change", {"zone": "a", "old": "1"}, {"zone": "b"}),
        ("node-1", "unchanged", {}, {}),
        ("node-2", "would-change", {"zone": "a", "old": "1"}, {"zone": "b"}),
    ]


async def test_relabel_changes_each_with_an_event_and_an_entry_of_the_audit_record(rig: Rig) -> None:
    await fleet(rig, 70)  # more than one commit
    answer = await rig.call("POST", "/v1/relabel", json={"selector": "old", "labels": {"zone": "b"}})
    assert {item["outcome"] for item in answer.json()["items"]} == {"changed"}
    members = (await rig.call("GET", "/v1/members?role=node")).json()["items"]
    assert {each["labels"]["zone"] for each in members} == {"b"}
    events = (await rig.call("GET", "/v1/events?limit=1000")).json()["items"]
    told = [each for each in events if each["reason"] == "MemberChanged"]
    assert sorted(each["subject"] for each in told) == sorted(each["name"] for each in members)
    audit = (await rig.call("GET", "/v1/audit?limit=1000&subject=node-7")).json()["items"]
    assert audit[-1]["differences"] == [{"field": "labels", "before": "old=1,zone=a", "after": "old=1,zone=b"}]
    again = await relabel(rig, selector="old", labels={"zone": "b"})
    assert {item["outcome"] for item in again["items"]} == {"unchanged"}


async def test_relabel_holds_every_member_to_what_was_seen_of_it(rig: Rig) -> None:
    await fleet(rig)
    seen = await relabel(rig, selector="zone=a,old", labels={"zone": "b"}, dry_run=True)
    revisions = {item["id"]: item["revision"] for item in seen["items"]}
    await rig.call("PATCH", "/v1/members/node-1", json={"labels": {"new": "1"}})  # still picked
    await rig.call("DELETE", "/v1/members/node-2?force=true")
    body = {"selector": "zone=a,old", "labels": {"zone": "b"}, "revisions": revisions}
    outcomes = [(item["id"], item["outcome"]) for item in (await relabel(rig, **body))["items"]]
    assert outcomes == [("n-0", "changed"), ("n-1", "conflict"), ("n-2", "gone")]
    outcomes = [(item["id"], item["outcome"]) for item in (await relabel(rig, **body))["items"]]
    assert outcomes == [("n-0", "unchanged"), ("n-1", "conflict"), ("n-2", "gone")]  # a retried call
    assert (await rig.call("GET", "/v1/members/node-1")).json()["labels"]["zone"] == "a"


async def test_relabel_warns_of_members_that_are_picked_by_their_own_word(rig: Rig) -> None:
    said = (Variable(name="role", value="web"),)
    await rig.put(node("honest", "n-1", labels={"role": "web"}), node("liar", "n-2", variables=said))
    found = await relabel(rig, selector="role=web", labels={"trusted": "yes"}, dry_run=True)
    assert [item["by_variables"] for item in found["items"]] == [False, True]
    assert found["warnings"] == [
        "1 of 2 are picked only by what they say of themselves (liar): labels they get by it prove nothing"
    ]
    only = await relabel(rig, selector="label:role=web", labels={"trusted": "yes"})
    assert [item["name"] for item in only["items"]] == ["honest"]
    assert only["warnings"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"selector": "a=", "labels": {}}, "bad-request"),
        ({"selector": "", "labels": {"a": "b"}}, "bad-request"),
        ({"selector": "a b", "labels": {"a": "b"}}, "bad-selector"),
        ({"selector": "@gone", "labels": {"a": "b"}}, "bad-selector"),
        ({"selector": "zone", "labels": {"a b": "c"}}, "bad-request"),
        ({"selector": "zone", "labels": {"a": "b\n"}}, "bad-request"),
        ({"selector": "zone", "labels": {"var:a": "b"}}, "bad-request"),
        ({"selector": "zone", "labels": {"a": "b"}, "role": "boss"}, "bad-request"),
        ({"selector": "zone", "labels": {f"a{n}": "b" for n in range(63)}}, "bad-request"),
    ],
)
async def test_relabel_bad_wishes_change_nothing(rig: Rig, body: dict[str, Any], code: str) -> None:
    await fleet(rig)
    revision = rig.services.cache.revision
    problem(await rig.call("POST", "/v1/relabel", json=body), 400, code)
    assert rig.services.cache.revision == revision
    assert (await rig.call("POST", "/v1/relabel", role="viewer", json=body)).status_code == 403


async def test_relabel_looks_at_one_role_when_asked(rig: Rig) -> None:
    await fleet(rig, 1)
    found = await relabel_role(rig, "gateway")
    assert [item["name"] for item in found["items"]] == ["gate"]


async def relabel_role(rig: Rig, role: str) -> dict[str, Any]:
    body = {"selector": "zone=a", "labels": {"zone": "b"}, "role": role}
    found: dict[str, Any] = (await rig.call("POST", "/v1/relabel", json=body)).json()
    return found
