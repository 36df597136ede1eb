"""The audit record: every change and every refusal is in it, with who, what, when and from where, and no secret."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from api_rig import NOW, SOURCE, Rig, node, problem
from bundles import bundle_body

from fallow.api.limits import Limits, RateLimit
from fallow.control import audit as audit_module
from fallow.decide.plan import Step
from fallow.model.tokens import TokenRequest
from fallow.store.contract import StoreError

COMPOSE = """
services:
  web:
    image: shop:1
    environment: {PASSWORD: hunter2-hunter2}
    deploy: {replicas: 2}
"""


async def audit(rig: Rig, **query: Any) -> list[dict[str, Any]]:
    answer = await rig.call("GET", "/v1/audit", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_audit_of_a_change_says_who_what_when_from_where(rig: Rig) -> None:
    await rig.put(node())
    answer = await rig.call(
        "PATCH", "/v1/members/web-1", "operator", json={"labels": {"zone": "west"}, "scheduling": "cordoned"}
    )
    assert answer.status_code == 200, answer.text
    (entry,) = await audit(rig)
    token_id = rig.credentials["operator"].split(".")[1]
    assert entry == {
        "id": entry["id"], "created_at": NOW, "updated_at": NOW, "revision": rig.services.cache.revision,
        "who": "api:a-operator", "token_id": token_id, "operation": "change_member", "outcome": "done",
        "subject_kind": "member", "subject_id": "n-1", "subject": "web-1",
        "summary": "node web-1: label zone=west, cordoned, was active",
        "differences": [
            {"field": "scheduling", "before": "active", "after": "cordoned"},
            {"field": "labels", "before": "", "after": "zone=west"},
        ],
        "source": SOURCE, "request_id": answer.headers["x-request-id"], "times": 1,
    }  # fmt: skip
    found = rig.services.cache.get("audit", entry["id"])
    member = rig.services.cache.get("members", "n-1")
    assert found is not None and member is not None
    assert found.revision == member.revision, "the very commit that made the change"


async def test_audit_of_every_way_to_change_something(rig: Rig) -> None:
    await rig.put(node())
    made = await rig.call("POST", "/v1/tokens", json={"role": "node"})
    key = {"json": bundle_body(made.json()["secret"], sent_at=NOW)}
    calls = (
        ("POST", "/v1/deploy", {"json": {"project": "shop", "compose": COMPOSE}}),
        ("PATCH", "/v1/deployments/shop/web", {"json": {"replicas": 5}}),
        ("DELETE", "/v1/deployments/shop/web", {}),
        ("POST", "/v1/join", key),
        ("DELETE", "/v1/members/web-1", {}),
        ("POST", "/v1/tokens", {"json": {"role": "viewer", "name": "screen"}}),
        ("DELETE", f"/v1/tokens/{made.json()['id']}", {}),
        ("PUT", "/v1/control/log-level", {"json": {"level": "info"}}),
    )
    for method, path, more in calls:
        answer = await rig.call(method, path, **more)
        assert answer.is_success, (path, answer.text)
    told = [(entry["operation"], entry["who"].partition(":")[0]) for entry in await audit(rig)]
    assert told == [
        ("create_token", "api"), ("deploy", "api"), ("change_deployment", "api"), ("delete_deployment", "api"),
        ("join", "token"), ("remove_member", "api"), ("create_token", "api"), ("revoke_token", "api"),
        ("set_log_level", "api"),
    ]  # fmt: skip
    scaled = (await audit(rig, subject="shop/web"))[1]
    assert scaled["differences"] == [{"field": "replicas", "before": "2", "after": "5"}]
    text = (await rig.call("GET", "/v1/audit")).text
    for secret in ("hunter2", made.json()["secret"].split(".")[2], "BEGIN CERT"):
        assert secret not in text


async def test_audit_of_a_change_without_an_event_of_its_own(rig: Rig) -> None:
    token = audit_module.CALLING.set(audit_module.Call(request_id="r", who="api:x", operation="some_day"))
    try:
        await rig.services.applier.commit(Step(puts=(node(),)))
    finally:
        audit_module.CALLING.reset(token)
    (entry,) = await audit(rig)
    assert (entry["operation"], entry["summary"]) == ("some_day", "members: members/n-1")


async def test_audit_is_not_of_what_loops_do_or_what_only_reads(rig: Rig) -> None:
    await rig.put(node())
    await rig.call("GET", "/v1/members")
    await rig.call("POST", "/v1/deploy", json={"project": "shop", "compose": COMPOSE, "dry_run": True})
    await rig.call("PATCH", "/v1/members/web-1", json={})
    assert await audit(rig) == []


async def test_audit_and_change_are_stored_together_or_not_at_all(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.put(node())

    async def broken(*_: object) -> int:
        raise StoreError("no space left")

    monkeypatch.setattr(rig.store, "commit", broken)
    problem(await rig.call("PATCH", "/v1/members/web-1", json={"labels": {"zone": "west"}}), 503, "store")
    assert await audit(rig) == []
    monkeypatch.undo()
    assert (await rig.call("GET", "/v1/members/web-1")).json()["labels"] == {}


async def test_audit_of_a_refusal_whose_entry_cannot_be_stored(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> int:
        raise StoreError("no space left")

    monkeypatch.setattr(rig.store, "commit", broken)
    problem(await rig.call("POST", "/v1/tokens", "viewer", json={}), 403, "forbidden")


async def test_audit_of_refused_attempts_is_coalesced(rig: Rig) -> None:
    for _ in range(5):
        problem(await rig.call("POST", "/v1/tokens", "viewer", json={"role": "admin"}), 403, "forbidden")
    problem(await rig.call("DELETE", "/v1/members/web-1", "viewer"), 403, "forbidden")
    first, other = await audit(rig)
    assert (first["who"], first["operation"], first["times"]) == ("api:a-viewer", "create_token", 1)
    assert first["summary"] == "needs the role admin, has the role viewer"
    assert (other["operation"], other["outcome"]) == ("remove_member", "forbidden")
    await rig.services.attempts.flush()
    told = await audit(rig, who="a-viewer", outcome="forbidden")
    assert [(entry["operation"], entry["times"]) for entry in told] == [
        ("create_token", 1), ("remove_member", 1), ("create_token", 4),
    ]  # fmt: skip


async def test_audit_window_ends_by_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "WINDOW_SECONDS", 0.02)
    for _ in range(3):
        await rig.call("POST", "/v1/tokens", "viewer", json={})
    subscription = rig.services.cache.subscribe()
    while sum(entry["times"] for entry in await audit(rig)) < 3:
        await anext(subscription)
    subscription.close()


async def test_audit_of_failed_logins_tells_nothing_of_what_was_sent(make_rig: Callable[..., Any]) -> None:
    async with make_rig(limits=Limits(failures=RateLimit(2, 0.01))) as rig:
        bad = {"Authorization": "Bearer fallow-api.mistyped.secret-of-somebody"}
        answers = [await rig.call("GET", "/v1/members", role=None, headers=bad) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 429, 429]
        async with rig.client(None, source="10.0.0.6") as other:
            problem(await other.get("/v1/tokens", headers=bad), 401, "unauthorized")
        await rig.services.attempts.flush()
        told = await audit(rig)
        assert [(entry["source"], entry["times"], entry["who"]) for entry in told] == [
            (SOURCE, 1, ""), ("10.0.0.6", 1, ""), (SOURCE, 3, ""),
        ]  # fmt: skip
        assert {entry["outcome"] for entry in told} == {"unauthorized"}
        assert "mistyped" not in str(told) and "secret-of" not in str(told)


async def test_audit_of_guessers_from_everywhere_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MAX_WINDOWS", 3)
    for number in range(20):
        async with rig.client(None, source=f"10.0.1.{number}") as client:
            await client.get("/v1/members", headers={"Authorization": "Bearer x"})
    assert len(await audit(rig)) == 4
    await rig.services.attempts.flush()
    assert sum(entry["times"] for entry in await audit(rig)) == 20


async def test_audit_of_a_refused_join(rig: Rig) -> None:
    made = await rig.services.tokens.create(TokenRequest(role="node"), "test")
    text = (made.secret or "").replace(made.id, "nonesuch")
    body = bundle_body(text, sent_at=NOW)
    problem(await rig.call("POST", "/v1/join", role=None, json=body), 403, "token-unknown")
    (entry,) = await audit(rig)
    assert (entry["operation"], entry["summary"], entry["source"]) == ("join", "Unknown token (token-unknown)", SOURCE)


async def test_audit_filters(rig: Rig) -> None:
    await rig.put(node())
    token_id = rig.credentials["operator"].split(".")[1]
    for role, zone in (("operator", "a"), ("admin", "b")):
        await rig.call("PATCH", "/v1/members/web-1", role, json={"labels": {"zone": zone}})
        rig.clock.now += 60
    for query, count in (
        ({"who": "a-operator"}, 1), ({"who": "api:a-operator"}, 1), ({"who": token_id}, 1), ({"who": "operator"}, 0),
        ({"subject": "web-1"}, 2), ({"subject": "n-1"}, 2), ({"subject": "web"}, 0),
        ({"since": NOW + 30}, 1), ({"since": NOW}, 2), ({"limit": 1}, 1), ({"outcome": "forbidden"}, 0),
    ):  # fmt: skip
        assert len(await audit(rig, **query)) == count, query
    assert (await audit(rig, limit=1))[0]["who"] == "api:a-admin", "the newest"
    for query in ({"limit": 0}, {"outcome": "x"}, {"since": "yesterday"}):
        problem(await rig.call("GET", "/v1/audit", params=query), 400, "bad-request")
    events = (await rig.call("GET", "/v1/events", params={"who": "a-admin", "since": NOW + 30})).json()["items"]
    assert [event["reason"] for event in events] == ["MemberChanged"]


@pytest.mark.parametrize(("role", "status"), [("viewer", 400), ("operator", 400), ("admin", 410)])
async def test_audit_is_watched_by_admins_only(rig: Rig, role: str, status: int) -> None:
    # 410: it is let in, and then asks for a revision that is not there yet.
    answer: httpx.Response = await rig.call("GET", "/v1/watch?kinds=audit&after=100000", role)
    assert answer.status_code == status, answer.text
