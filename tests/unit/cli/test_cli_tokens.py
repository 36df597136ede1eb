"""`fallow token`, `events` and `version`."""

import json

import pytest
from cli_fake_api import FakeApi, change, event, listing, token
from conftest import Fallow

from fallow.client.contexts import Context, save_context
from fallow.model.problems import Problem
from fallow.version import VERSION

SECRET = f"fallow-join.t1.hunter2.{'a' * 64}"


def test_create_prints_the_token_alone_and_the_way_to_use_it_beside(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/tokens", token(secret=SECRET, created_at=1000.0, expires_at=2800.0))
    ran = fallow("token", "create", "--role", "node", "--ttl", "30m", "--uses", "3", "-l", "a=b", "--label", "c=")
    assert ran.out == SECRET + "\n"
    assert f"\n  fallow join {api.url} {SECRET}\n" in ran.err
    assert "valid for 30m" in ran.err
    assert "loopback" in ran.err
    assert api.bodies("POST /v1/tokens") == [
        {
            "role": "node",
            "ttl_seconds": 1800.0,
            "uses": 3,
            "labels": {"a": "b", "c": ""},
            "name": "",
            "networks": [],
            "pool": "",
            "approve": "auto",
            "replaces": "",
        }
    ]  # fmt: skip


def test_create_quietly(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/tokens", token(secret=SECRET))
    ran = fallow("token", "create", "--quiet")
    assert (ran.out, ran.err) == (SECRET + "\n", "")


def test_create_for_the_api(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/tokens", token(role="operator", secret="fallow-api.x.y"))
    ran = fallow("token", "create", "--role", "operator", "--name", "ci")
    assert ran.out == "fallow-api.x.y\n"
    assert "fallow context add" in ran.err
    assert "fallow join" not in ran.err


@pytest.mark.parametrize(
    "arguments", [("--role", "king"), ("--label", "x"), ("--ttl", "soon"), ("--uses", "0"), ("--uses", "x")]
)
def test_create_refuses_nonsense(api: FakeApi, fallow: Fallow, arguments: tuple[str, ...]) -> None:
    assert fallow("token", "create", *arguments).code == 2
    assert api.asked == []


def test_list_and_revoke(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/tokens", listing(token(), token(id="t-2", state="used", uses_left=0)))
    api.on("DELETE /v1/tokens/t-1", "")
    assert [line.split()[:3] for line in fallow("token", "list").out.splitlines()[1:]] == [
        ["t-1", "node", "valid"],
        ["t-2", "node", "used"],
    ]
    assert fallow("token", "revoke", "t-1").code == 0


def test_events(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/events", listing(event(message="one [x]"), event("e-2", level="warning")))
    ran = fallow("events", "--subject", "shop/web", "-n", "5")
    assert len(ran.out.splitlines()) == 2
    assert "ReplicaPlaced  deployment shop/web  one [x]  (loop:placement)" in ran.out
    assert api.asked[0].query == {"subject": "shop/web", "limit": "5"}
    assert len(json.loads(fallow("events", "--json").out)["items"]) == 2


def test_events_as_they_happen(api: FakeApi, fallow: Fallow) -> None:
    watches = iter(
        [
            iter([change(event("e-2", subject="other"), 9), change(event("e-3"), 10)]),
            Problem(type="urn:x", title="enough", status=403),
        ]
    )
    api.on("GET /v1/events", listing(event()))
    api.on("GET /v1/watch", lambda _: next(watches))
    ran = fallow("events", "-f", "--subject", "shop/web", "--json")
    assert ran.code == 6
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == ["e-1", "e-3"]
    afters = [asked.query["after"] for asked in api.asked if asked.path == "/v1/watch"]
    assert afters == ["7", "9"]  # of revision 10 not all may have been sent


def test_version(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/version", {"version": "9.9", "schema": 1})
    assert json.loads(fallow("version", "--json").out) == {
        "client": VERSION,
        "server": "9.9",
        "schema": "1",
        "unknown": "",
    }


def test_version_without_a_control_plane(alone: Fallow) -> None:
    assert alone("version").code == 0
    save_context(Context(name="gone", url="http://127.0.0.1:1"))
    ran = alone("version")
    assert ran.code == 0
    assert VERSION in ran.out
    assert "connection refused" in ran.out
