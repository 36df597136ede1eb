"""`fallow events --audit` and the filters of events."""

import json
import time
from typing import Any

import msgspec
import pytest
from cli_fake_api import FakeApi, event, listing, problem
from conftest import Fallow

from fallow.model.audit import AuditEntry, Difference


def entry(id_: str = "a-1", **more: Any) -> AuditEntry:
    given: dict[str, Any] = {
        "id": id_, "created_at": 1000.0, "updated_at": 1000.0, "who": "api:ci", "token_id": "t-9",
        "operation": "change_deployment", "subject_kind": "deployment", "subject_id": "d-web", "subject": "shop/web",
        "summary": "shop/web is scaled", "differences": (Difference(field="replicas", before="2", after="5"),),
        "source": "10.0.0.5", "request_id": "req-1234",
    }  # fmt: skip
    return AuditEntry(**(given | more))


def test_audit_says_who_what_and_from_where(fallow: Fallow, api: FakeApi) -> None:
    refused = entry(
        "a-2", who="", outcome="unauthorized", operation="list_members", times=7, differences=(), subject=""
    )
    api.on("GET /v1/audit", listing(entry(), refused))
    ran = fallow("events", "--audit")
    first, second = ran.out.splitlines()
    for told in ("api:ci", "done", "change_deployment", "shop/web", "replicas: 2 -> 5", "10.0.0.5 req-1234"):
        assert told in first
    for told in ("somebody", "unauthorized", "(7 times)"):
        assert told in second


def test_audit_filters_go_to_the_control_plane(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/audit", listing())
    api.on("GET /v1/events", listing())
    assert fallow("events", "--audit", "--who", "ci", "--subject", "shop/web", "--since", "2h", "-n", "7").code == 0
    query = dict(api.asked[-1].query)
    assert abs(time.time() - 7200 - float(query.pop("since"))) < 60
    assert query == {"who": "ci", "subject": "shop/web", "limit": "7"}
    assert fallow("events", "--since", "2026-01-31T08:00:00+00:00").code == 0
    assert float(api.asked[-1].query["since"]) == 1769846400.0
    assert fallow("events", "--since", "7d").code == 0


@pytest.mark.parametrize("bad", ["yesterday", "2h ago", "99999-01-01"])
def test_since_must_be_a_time(fallow: Fallow, bad: str) -> None:
    ran = fallow("events", "--since", bad)
    assert ran.code == 2
    assert "is not a time" in ran.err


def test_audit_as_json_and_followed(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/audit", listing(entry()))
    assert json.loads(fallow("events", "--audit", "--json").out)["items"][0]["differences"][0]["after"] == "5"
    changes = [
        ("audit", entry("a-2", revision=8), 8), ("audit", entry("a-3", who="api:other", token_id="x", revision=9), 9),
    ]  # fmt: skip

    def stream(_: object) -> object:
        if len([asked for asked in api.asked if asked.path == "/v1/watch"]) > 1:
            return problem(403, "enough")
        pieces = [
            b"event: change\nid: %d\ndata: %s\n\n"
            % (at, json.dumps({"kind": kind, "id": one.id, "revision": at, "record": _plain(one)}).encode())
            for kind, one, at in changes
        ]
        return iter(pieces)

    api.on("GET /v1/watch", stream)
    ran = fallow("events", "--audit", "--follow", "--json", "--who", "t-9")
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == ["a-1", "a-2"]


def _plain(one: AuditEntry) -> Any:
    return msgspec.to_builtins(one)


def test_events_of_a_hostile_name_do_not_drive_the_terminal(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/audit", listing(entry(summary="\x1b[2J", source="\x07")))
    api.on("GET /v1/events", listing(event(message="\x1b[2J")))
    assert "\x1b" not in fallow("events", "--audit").out + fallow("events").out
