"""Every method asks for the right thing and reads the answer; every failure has a type."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from client_tls_server import http, serving

from fallow.client.api import Client
from fallow.client.errors import ApiError, BadAnswer, Unreachable
from fallow.client.transport import IDLE_SECONDS, problem_of
from fallow.model.deployments import DeploymentChange, DeployRequest, RollbackRequest
from fallow.model.image_jobs import ImageTarget
from fallow.model.labels import LabelSetChange, LabelSetRequest, RelabelRequest
from fallow.model.members import MemberChange, Scheduling
from fallow.model.mirrors import MirrorRequest
from fallow.model.tokens import TokenRequest

EMPTY = '{"revision":3,"items":[]}'
DEPLOYMENT = (
    '{"id":"d","project":"shop","name":"web","revision":1,"generation":1,"created_at":1,"updated_at":1,'
    '"spec":{"container":{"image":"web:1"}},"counts":{},"state":"serving"}'
)
LABEL_SET = '{"name":"web","selector":"a","revision":1,"created_at":1}'
REGISTRY = '{"host":"a","revision":1,"created_at":1,"updated_at":1}'
TRUST = '{"project":"a","revision":1,"created_at":1,"updated_at":1}'
ROWS: list[tuple[Callable[[Client], Any], str, str, str]] = [
    (lambda c: c.health(), "GET", "/healthz", "ok"),
    (lambda c: c.ready(), "GET", "/readyz", "ok"),
    (lambda c: c.metrics(), "GET", "/metrics", "ok"),
    (lambda c: c.ca(), "GET", "/v1/ca", "ok"),
    (lambda c: c.members(), "GET", "/v1/members", EMPTY),
    (lambda c: c.members("node"), "GET", "/v1/members?role=node", EMPTY),
    (lambda c: c.remove_member("a b"), "DELETE", "/v1/members/a%20b", ""),
    (lambda c: c.remove_member("a", force=True), "DELETE", "/v1/members/a?force=true", ""),
    (lambda c: c.pools(), "GET", "/v1/pools", EMPTY),
    (lambda c: c.delete_pool("a/b"), "DELETE", "/v1/pools/a%2Fb", ""),
    (lambda c: c.registries.known(), "GET", "/v1/registries", EMPTY),
    (lambda c: c.registries.registry("[::1]:5000"), "GET", "/v1/registries/%5B%3A%3A1%5D%3A5000", REGISTRY),
    (lambda c: c.registries.remove("a/b"), "DELETE", "/v1/registries/a%2Fb", ""),
    (lambda c: c.registries.check("a"), "POST", "/v1/registries/a/test", '{"host":"a","works":true}'),
    (lambda c: c.registries.mirrors(), "GET", "/v1/registry-mirrors", EMPTY),
    (
        lambda c: c.registries.create_mirror(MirrorRequest(name="b", registry="a", target=ImageTarget())),
        "POST",
        "/v1/registry-mirrors",
        '{"name":"b","registry":"a"}',
    ),
    (lambda c: c.registries.delete_mirror("b/c"), "DELETE", "/v1/registry-mirrors/b%2Fc", ""),
    (lambda c: c.trust.policies(), "GET", "/v1/trust", EMPTY),
    (lambda c: c.trust.policy("a b"), "GET", "/v1/trust/a%20b", TRUST),
    (lambda c: c.trust.remove("a b"), "DELETE", "/v1/trust/a%20b", ""),
    (lambda c: c.leases("a b"), "GET", "/v1/pools/a%20b/leases", EMPTY),
    (lambda c: c.tokens(), "GET", "/v1/tokens", EMPTY),
    (lambda c: c.revoke_token("t/1"), "DELETE", "/v1/tokens/t%2F1", ""),
    (lambda c: c.deployments("shop"), "GET", "/v1/deployments?project=shop", EMPTY),
    (lambda c: c.delete_deployment("shop", "web"), "DELETE", "/v1/deployments/shop/web", ""),
    (lambda c: c.history("shop", "web"), "GET", "/v1/deployments/shop/web/history", EMPTY),
    (lambda c: c.restart_deployment("shop", "web"), "POST", "/v1/deployments/shop/web/restart", DEPLOYMENT),
    (
        lambda c: c.roll_back_deployment("shop", "web", RollbackRequest(to=2)),
        "POST",
        "/v1/deployments/shop/web/rollback",
        DEPLOYMENT,
    ),
    (lambda c: c.pause_deployment("shop", "web"), "POST", "/v1/deployments/shop/web/pause", DEPLOYMENT),
    (lambda c: c.resume_deployment("shop", "web"), "POST", "/v1/deployments/shop/web/resume", DEPLOYMENT),
    (lambda c: c.replicas("a", "b", "c"), "GET", "/v1/replicas?project=a&deployment=b&node=c", EMPTY),
    (lambda c: list(c.logs("r")), "GET", "/v1/replicas/r/logs?follow=false&tail=100", ""),
    (
        lambda c: list(c.deployment_logs("a", "b", follow=True, tail=5)),
        "GET",
        "/v1/deployments/a/b/logs?follow=true&tail=5",
        "",
    ),
    (
        lambda c: c.members("node", "a in (b,c)"),
        "GET",
        "/v1/members?role=node&selector=a+in+%28b%2Cc%29",
        EMPTY,
    ),
    (lambda c: c.label_sets(), "GET", "/v1/label-sets", EMPTY),
    (lambda c: c.label_set("a/b"), "GET", "/v1/label-sets/a%2Fb", LABEL_SET),
    (
        lambda c: c.create_label_set(LabelSetRequest(name="web", selector="a")),
        "POST",
        "/v1/label-sets",
        LABEL_SET,
    ),
    (
        lambda c: c.change_label_set("web", LabelSetChange(selector="a")),
        "PATCH",
        "/v1/label-sets/web",
        LABEL_SET,
    ),
    (lambda c: c.delete_label_set("web"), "DELETE", "/v1/label-sets/web", ""),
    (
        lambda c: c.relabel(RelabelRequest(selector="a", labels={"a": "b"})),
        "POST",
        "/v1/relabel",
        '{"items":[],"dry_run":true}',
    ),
    (lambda c: c.explain("a/b"), "GET", "/v1/explain?subject=a%2Fb", '{"subject":"x","state":"y","lines":[]}'),
    (lambda c: c.routes(), "GET", "/v1/routes", EMPTY),
    (lambda c: c.events("a", 5), "GET", "/v1/events?subject=a&limit=5", EMPTY),
    (
        lambda c: c.deploy(DeployRequest(compose="x")),
        "POST",
        "/v1/deploy",
        '{"project":"default","items":[]}',
    ),
    (
        lambda c: c.create_token(TokenRequest(role="node")),
        "POST",
        "/v1/tokens",
        '{"id":"t","role":"node","created_at":1}',
    ),
]


@pytest.mark.parametrize(("call", "method", "path", "answer"), ROWS, ids=[f"{row[1]} {row[2]}" for row in ROWS])
def test_rows(call: Callable[[Client], Any], method: str, path: str, answer: str) -> None:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text=answer)

    with Client("https://x:1/base/", "fallow-api.a.b", inner=httpx.MockTransport(handle)) as client:
        call(client)
    assert asked[0].method == method
    assert asked[0].url.raw_path.decode() == f"/base{path}"
    assert asked[0].headers["authorization"] == "Bearer fallow-api.a.b"


@pytest.mark.parametrize("if_match", [None, 7])
def test_changes_can_be_conditional(if_match: int | None) -> None:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(412, json={"type": "urn:x", "title": "It changed", "status": 412})

    with Client("https://x:1", inner=httpx.MockTransport(handle)) as client:
        with pytest.raises(ApiError, match="It changed"):
            client.change_member("n", MemberChange(scheduling=Scheduling.CORDONED), if_match)
        with pytest.raises(ApiError):
            client.change_deployment("a", "b", DeploymentChange(replicas=2), if_match)
    assert [request.headers.get("if-match") for request in asked] == [f'"{if_match}"' if if_match else None] * 2
    assert [json.loads(request.content) for request in asked] == [
        {"labels": {}, "scheduling": "cordoned"},
        {"replicas": 2},
    ]


def test_problems_are_read_whole() -> None:
    body = {"type": "urn:fallow:x", "title": "No", "status": 409, "detail": "d", "hint": "h", "errors": ["e"]}
    with (
        serving(None, http(json.dumps(body).encode(), "409 Conflict", "application/problem+json"), []) as port,
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(ApiError) as caught,
    ):
        client.member("x")
    problem = caught.value.problem
    assert (problem.status, problem.title, problem.detail, problem.hint, problem.errors) == (
        409,
        "No",
        "d",
        "h",
        ("e",),
    )


@pytest.mark.parametrize(
    ("kind", "body", "detail"),
    [("text/html", "<h1>Bad Gateway</h1>", ""), ("text/plain", "not yet\n", "not yet"), ("application/json", "[]", "")],
)
def test_refusals_of_something_else(kind: str, body: str, detail: str) -> None:
    problem = problem_of(httpx.Response(502, text=body, headers={"content-type": kind}))
    assert (problem.status, problem.title, problem.detail) == (502, "the server answered 502 Bad Gateway", detail)
    assert "599" in problem_of(httpx.Response(599)).title


@pytest.mark.parametrize("body", ["", "hello", "[]", '{"revision":1,"items":[{}]}', b"\xff\xfe"])
def test_answers_that_cannot_be_read(body: str | bytes) -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body)

    with Client("https://x:1", inner=httpx.MockTransport(handle)) as client, pytest.raises(BadAnswer):
        client.members()


def test_redirects_are_not_followed() -> None:
    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(307, headers={"location": "https://elsewhere"})

    with Client("https://x:1", "t", inner=httpx.MockTransport(handle)) as client, pytest.raises(ApiError, match="307"):
        client.members()


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(Unreachable, match="refused"):
            client.members()
        with pytest.raises(Unreachable, match="refused"):
            next(client.logs("r"))


def test_no_answer_in_time() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    with (
        Client("https://x:1", inner=httpx.MockTransport(handle)) as client,
        pytest.raises(Unreachable, match="in time"),
    ):
        client.members()


def test_a_stream_that_breaks_is_unreachable() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one\ntwo"
        raise httpx.ReadError("reset")

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=pieces())

    with Client("https://x:1", inner=httpx.MockTransport(handle)) as client:
        lines = client.logs("r", follow=True)
        assert next(lines) == "one"
        with pytest.raises(Unreachable, match="reset"):
            next(lines)


def test_a_connection_is_let_go_before_the_control_plane_lets_go_of_it() -> None:
    with Client("http://127.0.0.1:1") as client:
        pool = client._transport._http._transport._inner._pool  # type: ignore[attr-defined]
    assert pool._keepalive_expiry == IDLE_SECONDS < uvicorn.Config("x").timeout_keep_alive / 2
