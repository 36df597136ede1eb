"""`fallow cluster token|join|host|leave`, and deployments that are a host's."""

import json
from typing import Any

import msgspec
from cli_fake_api import FakeApi, deployment, listing, token
from conftest import Fallow

from fallow.model.hosts import HostView

SECRET = f"fallow-join.t1.hunter2.{'a' * 64}"


def host(**more: Any) -> HostView:
    given: dict[str, Any] = {
        "url": "https://host.example:7443", "name": "west", "connected": True, "since": 1000.0, "joined_at": 1000.0,
        "labels": {"region": "west"}, "shares": 3,
    }  # fmt: skip
    return HostView(**given | more)


def test_a_token_for_a_cluster_tells_how_it_joins(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/tokens", token(role="cluster", secret=SECRET, created_at=1000.0, expires_at=2800.0))
    ran = fallow("cluster", "token", "create", "--label", "region=west", "--ttl", "2h", "--name", "west")
    assert ran.out == SECRET + "\n"
    assert f"\n  fallow cluster join {api.url} {SECRET}\n" in ran.err
    (body,) = api.bodies("POST /v1/tokens")
    assert (body["role"], body["labels"], body["ttl_seconds"], body["name"]) == (
        "cluster", {"region": "west"}, 7200.0, "west",
    )  # fmt: skip
    assert fallow("token", "create", "--role", "cluster", "-q").out == SECRET + "\n"


def test_join_reads_the_token_from_standard_input_too(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/host", host())
    ran = fallow("cluster", "join", "https://host.example:7443", SECRET, "--name", "west")
    assert (ran.code, "west: a member of https://host.example:7443" in ran.out) == (0, True)
    assert fallow("cluster", "join", "host.example:7443", "-", stdin=SECRET + "\n").code == 0
    bodies = api.bodies("POST /v1/host")
    assert bodies[0] == {"url": "https://host.example:7443", "token": SECRET, "name": "west"}
    assert bodies[1]["token"] == SECRET
    assert "hunter2" not in ran.out + ran.err
    assert fallow("cluster", "join", "host.example:7443", "-", stdin="\n").code == 2
    api.refuse("POST /v1/host", 409, "It has a host already", hint="fallow cluster leave")
    ran = fallow("cluster", "join", "https://other.example:7443", SECRET)
    assert ran.code != 0
    assert "fallow cluster leave" in ran.err


def test_host_shows_how_it_is(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/host", host())
    told = fallow("cluster", "host").out
    assert "https://host.example:7443" in told
    assert "open since" in told
    assert json.loads(fallow("cluster", "host", "--json").out)["shares"] == 3
    api.on("GET /v1/host", host(connected=False, problem="nothing listens there"))
    assert "nothing listens there" in fallow("cluster", "host").out
    api.on("GET /v1/host", host(connected=False, refused="it was removed"))
    assert "refused for good: it was removed" in fallow("cluster", "host").out


def test_leave_says_what_becomes_of_what_runs(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/host", host())
    api.on("DELETE /v1/host", "")
    ran = fallow("cluster", "leave")
    assert "3 deployments of it are this cluster's own now" in ran.out
    assert "fallow cluster remove west" in ran.err
    assert "what ran for it is deleted" in fallow("cluster", "leave", "--remove").out
    assert [each.query["remove"] for each in api.asked if each.method == "DELETE"] == ["false", "true"]


def test_lists_say_whose_a_deployment_is(api: FakeApi, fallow: Fallow) -> None:
    web = msgspec.structs.replace(deployment("web", wanted=5, healthy=2), share=2, host="https://host.example:7443")
    api.on("GET /v1/deployments", listing(web, deployment("own")))
    lines = fallow("deployment", "list").out.splitlines()
    assert "OF HOST" in lines[0]
    assert "2/2" in next(line for line in lines if "shop/web" in line or "/web" in line)
    assert sum("https://host.example:7443" in line for line in lines) == 1
    api.on("GET /v1/deployments", listing(deployment("own")))
    assert "OF HOST" not in fallow("deployment", "list").out
