"""Everything that goes wrong is a problem document, and nothing a caller sends is our fault."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from api_rig import Rig, deployment, node, problem, running
from hypothesis import given, settings
from hypothesis import strategies as st

from fallow.store.contract import Conflict, OutcomeUnknown, StoreError, TooLarge


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/members/a/b/c", "/docs/nothing", "/docs/assets/x", "/%00"]
)
async def test_unknown_paths(rig: Rig, path: str) -> None:
    problem(await rig.call("GET", path), 404, "not-found")


async def test_wrong_methods(rig: Rig) -> None:
    problem(await rig.call("PUT", "/v1/members"), 405, "method-not-allowed")
    problem(await rig.call("POST", "/healthz"), 405, "method-not-allowed")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"null", ""),
        (b"[]", ""),
        (b"{", ""),
        (b"\xff\xfe", ""),
        (b"{}", "role"),
        (b'{"role": "root"}', "role"),
        (b'{"role": "node", "extra": 1}', "extra"),
        (b'{"role": "node", "uses": 0}', "uses"),
        (b'{"role": "node", "ttl_seconds": -1}', "ttl_seconds"),
        (b'{"role": "node", "ttl_seconds": 1e999}', ""),
        (b'{"role": "node", "labels": {"a b": "c"}}', "labels"),
        (b'{"role": "node", "labels": {"a": "b\\n"}}', "label"),
        (b'{"role": "viewer", "name": "a\\u001b[2J"}', "printable"),
        (b'{"role": "viewer", "labels": {"a": "b"}}', "labels"),
        (b'{"role": "node", "labels": {"a": "b"}, "networks": ["west"]}', "west"),
        (b'{"role": "node", "name": "x", "uses": 2}', "name"),
        (b'{"role": "node", "networks": ["10.0.0.1/8"]}', "host bits"),
        (b'{"role": "node", "approve": "maybe"}', "approve"),
        (b"[" * 200_000, ""),
    ],
)
async def test_bad_bodies(rig: Rig, body: bytes, words: str) -> None:
    answer = await rig.call("POST", "/v1/tokens", content=body)
    said = problem(answer, 400, "bad-request")
    assert words in json.dumps(said)


async def test_bad_parameters(rig: Rig) -> None:
    for path in (
        "/v1/events?limit=0",
        "/v1/events?limit=x",
        "/v1/members?role=king",
        "/v1/watch?after=-1",
        "/v1/explain",
    ):
        said = problem(await rig.call("GET", path), 400, "bad-request")
        assert said.get("errors") or said["detail"]


async def test_too_large_bodies(rig: Rig) -> None:
    async def chunks() -> Any:
        for _ in range(70):
            yield b" " * 1024

    problem(await rig.call("POST", "/v1/join", content=b" " * 65_537), 413, "too-large")
    problem(await rig.call("POST", "/v1/renew", content=chunks()), 413, "too-large")
    problem(await rig.call("POST", "/v1/tokens", content=b" " * (2 * 1024 * 1024 + 1)), 413, "too-large")
    problem(await rig.call("POST", "/v1/tokens", content=b" " * (2 * 1024 * 1024)), 400, "bad-request")
    # who may not call is told so before anything is read
    problem(await rig.call("POST", "/v1/tokens", role="viewer", content=b" " * 3_000_000), 403, "forbidden")


async def test_faults_are_logged_and_not_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(rig.services.tokens, "list", fail)
    with structlog.testing.capture_logs() as logs:
        answer = await rig.call("GET", "/v1/tokens", headers={"X-Request-Id": "call-me-by-this"})
    body = problem(answer, 500, "internal")
    assert "secret of the house" not in answer.text
    assert body["request_id"] == "call-me-by-this"
    (told,) = [entry for entry in logs if entry["event"] == "request failed"]
    assert told["request_id"] == "call-me-by-this"
    assert "secret of the house" in str(told["exc_info"])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreError("disk"), 503, "store"),
        (OutcomeUnknown("away"), 503, "store"),
        (TooLarge("300 records"), 413, "too-large"),
        (Conflict(["k"]), 409, "conflict"),
    ],
)
async def test_store_failures(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    async def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr(rig.services.applier, "commit", fail)
    answer = await rig.call("POST", "/v1/tokens", json={"role": "viewer"})
    assert "disk" not in problem(answer, status, code).get("detail", "")


async def test_change_that_always_collides_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (await rig.call("POST", "/v1/tokens", json={"role": "viewer"})).json()

    async def collide(_: Any) -> int:
        raise Conflict(["k"])

    monkeypatch.setattr(rig.services.applier, "commit", collide)
    monkeypatch.setattr("fallow.control.commits.FIRST_PAUSE_SECONDS", 0.0)
    problem(await rig.call("DELETE", f"/v1/tokens/{made['id']}"), 409, "conflict")


async def test_request_ids(rig: Rig) -> None:
    first, second = [(await rig.call("GET", "/healthz")).headers["x-request-id"] for _ in range(2)]
    assert first != second
    for bad in ("short", "x" * 65, "with space 1", "new\tline-12"):
        answer = await rig.call("GET", "/healthz", headers={"X-Request-Id": bad})
        assert answer.headers["x-request-id"] != bad


async def test_logs_hold_no_secrets(rig: Rig) -> None:
    with structlog.testing.capture_logs() as logs:
        made = await rig.call("POST", "/v1/tokens", json={"role": "node", "labels": {"zone": "attic"}})
        body = {"token": made.json()["secret"], "csr_pem": "my request", "role": "node"}
        await rig.call("POST", "/v1/join?token=inquery", json=body)
        await rig.call("GET", "/v1/members", role=None, headers={"Authorization": "Bearer fallow-api.abc.hidden"})
    text = str(logs)
    assert [entry["status"] for entry in logs if entry["event"] == "request"] == [201, 400, 401]
    for secret in (made.json()["secret"].split(".")[2], "my request", "inquery", "hidden", rig.credentials["admin"]):
        assert secret not in text
    assert "api:a-admin" in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["role", "uses", "labels", "name", "ttl_seconds", "token", "csr_pem", "facts", "variables", "function",
          "compose", "project", "replicas", "scheduling", "env_files", "dry_run", "member_id"]  # fmt: skip
bodies = st.dictionaries(
    st.sampled_from(FIELDS),
    json_values | st.sampled_from(["node", "viewer", "services: {a: {image: b}}", "default", 3, True, {"a": None}]),
    max_size=6,
)
TARGETS = [
    ("POST", "/v1/tokens"),
    ("POST", "/v1/join"),
    ("POST", "/v1/renew"),
    ("POST", "/v1/deploy"),
    ("PATCH", "/v1/members/n-1"),
    ("PATCH", "/v1/deployments/default/a"),
]


def test_no_body_is_our_fault(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        running_rig = running(tmp_path)
        rig = runner.run(running_rig.__aenter__())
        runner.run(rig.put(node(), deployment("default", "a")))

        @settings(max_examples=100, deadline=None)
        @given(st.sampled_from(TARGETS), bodies | json_values | st.binary(max_size=50))
        def send(target: tuple[str, str], body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = runner.run(rig.call(*target, content=content))
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"

        try:
            send()
        finally:
            runner.run(running_rig.__aexit__(None, None, None))


async def test_not_ready(make_rig: Callable[..., Any]) -> None:
    reasons = ["loading"]
    async with make_rig(ready=lambda: reasons[0] if reasons else None) as rig:
        answer = await rig.call("GET", "/readyz", role=None)
        assert (answer.status_code, answer.text) == (503, "loading\n")
        assert (await rig.call("GET", "/healthz", role=None)).status_code == 200
        reasons.clear()
        assert (await rig.call("GET", "/readyz", role=None)).status_code == 200
