"""Who may call what: every route against every role, and what wrong credentials meet."""

from collections.abc import Callable
from typing import Any

import pytest
from api_rig import Clock, Rig, problem
from api_routes import ROUTES

from fallow.api.limits import MAX_SOURCES, Limits, RateLimit
from fallow.control.door import source_key

RANK = {None: -1, "viewer": 0, "operator": 1, "admin": 2}


@pytest.mark.parametrize("caller", ["viewer", "operator", "admin", None])
async def test_access_matrix(rig: Rig, caller: str | None) -> None:
    for method, path, needed in ROUTES:
        answer = await rig.call(method, path, role=caller)
        if needed is not None and caller is None:
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        elif RANK[caller] < RANK[needed]:
            body = problem(answer, 403, "forbidden")
            assert needed in body["detail"]
        else:
            assert answer.status_code not in (401, 403, 500), (method, path, answer.text)


def test_access_matrix_misses_no_route(rig: Rig) -> None:
    there = {
        (method, route.path_format)
        for route in rig.app.routes
        for method in route.methods  # type: ignore[union-attr]
        if method != "OPTIONS" and not route.path_format.startswith("/docs")
    }
    assert len(there) == len([path for _, path, _ in ROUTES if not path.startswith("/docs")])


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer x",
        "Basic YTpi",
        "Bearer fallow-api.x.y",
        "Bearer fallow-join.a.b." + "0" * 64,
        "Bearer ü",
        "x" * 4000,
    ],
)
async def test_access_bad_credentials(rig: Rig, header: str) -> None:
    answer = await rig.call("GET", "/v1/members", role=None, headers={"Authorization": header.encode()})
    problem(answer, 401, "unauthorized")
    assert "x" * 100 not in answer.text


async def test_access_secret_of_another_token(rig: Rig) -> None:
    kind, _, secret = rig.credentials["viewer"].split(".")
    admin_id = rig.credentials["admin"].split(".")[1]
    headers = {"Authorization": f"Bearer {kind}.{admin_id}.{secret}"}
    problem(await rig.call("GET", "/v1/members", role=None, headers=headers), 401, "unauthorized")


async def test_access_scheme_in_any_case(rig: Rig) -> None:
    headers = {"Authorization": f"bEARER {rig.credentials['viewer']}"}
    assert (await rig.call("GET", "/v1/members", role=None, headers=headers)).status_code == 200


async def test_access_ends_at_once_with_revocation_and_expiry(rig: Rig) -> None:
    made = await rig.call("POST", "/v1/tokens", json={"role": "viewer", "ttl_seconds": 60})
    rig.credentials["short"] = made.json()["secret"]
    made = await rig.call("POST", "/v1/tokens", json={"role": "viewer"})
    rig.credentials["doomed"] = made.json()["secret"]
    for role in ("short", "doomed"):
        assert (await rig.call("GET", "/v1/members", role=role)).status_code == 200
    assert (await rig.call("DELETE", f"/v1/tokens/{made.json()['id']}")).status_code == 204
    problem(await rig.call("GET", "/v1/members", role="doomed"), 401, "unauthorized")
    rig.clock.now += 60
    problem(await rig.call("GET", "/v1/members", role="short"), 401, "unauthorized")


async def test_access_guessing_is_slowed_down_but_locks_nobody_out(make_rig: Callable[..., Any]) -> None:
    async with make_rig(limits=Limits(failures=RateLimit(3, 0.01))) as rig:
        bad = {"Authorization": "Bearer fallow-api.x.y"}
        for _ in range(3):
            problem(await rig.call("GET", "/v1/members", role=None, headers=bad), 401, "unauthorized")
        answer = await rig.call("GET", "/v1/members", role=None, headers=bad)
        problem(answer, 429, "too-many-requests")
        assert 90 <= int(answer.headers["retry-after"]) <= 100
        assert (await rig.call("GET", "/v1/members", role="viewer")).status_code == 200
        async with rig.client(None, source="10.0.0.6") as other:
            problem(await other.get("/v1/members", headers=bad), 401, "unauthorized")


def test_rate_limit_refills_and_stays_bounded() -> None:
    clock = Clock(0.0)
    limit = RateLimit(2, 0.5, clock)
    assert [limit.take("a"), limit.take("a"), limit.take("a")] == [0, 0, 2.0]
    assert limit.take("b") == 0
    clock.now = 2.0
    assert [limit.take("a"), limit.take("a")] == [0, 2.0]
    clock.now = 1000.0
    assert [limit.take("a"), limit.take("a"), limit.take("a")] == [0, 0, 2.0]
    for number in range(MAX_SOURCES + 50):
        limit.take(str(number))
    assert len(limit._buckets) == MAX_SOURCES


def test_rate_limit_sources() -> None:
    assert source_key("2001:db8:1:2:3:4:5:6") == source_key("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert source_key("::ffff:10.0.0.1") == source_key("10.0.0.1") == "10.0.0.1"
    assert len(source_key("x" * 1000)) == 64


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/healthz", "anybody"), ("/readyz", "anybody"), ("/v1/version", "anybody"), ("/v1/ca", "anybody"),
        ("/metrics", "scrapes"),
    ],
)  # fmt: skip
async def test_what_needs_no_credential_is_limited_by_source(
    make_rig: Callable[..., Any], path: str, limit: str
) -> None:
    async with make_rig(limits=Limits(**{limit: RateLimit(burst=2, per_second=0.5)})) as rig:
        codes = [(await rig.call("GET", path, role=None)).status_code for _ in range(2)]
        assert codes == [200, 200]
        answer = await rig.call("GET", path, role=None)
        assert 1 <= int(answer.headers["Retry-After"]) <= 2
        problem(answer, 429, "too-many-requests")
        async with rig.client(None, source="10.0.0.6") as other:
            assert (await other.get(path)).status_code == 200
        assert (await rig.call("GET", "/v1/members")).status_code == 200
