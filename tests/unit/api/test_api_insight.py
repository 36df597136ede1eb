"""Events, explanations, routes, metrics, the description and its page."""

from importlib.resources import files

import jsonschema
import msgspec
from api_rig import NOW, Rig, deployment, node, problem, replica
from api_routes import ROUTES

from fallow.decide.events import event
from fallow.model.deployments import RouteSpec
from fallow.model.kinds import SCHEMA_VERSION
from fallow.model.members import Role
from fallow.model.routes import BackendStats, ProxyReport
from fallow.model.wire import Usage


async def test_events_newest_last_and_limited(rig: Rig) -> None:
    told = [event(f"x{number}", NOW + number, "t", "member", "n-1", "web-1", "R", "m") for number in range(5)]
    await rig.put(*reversed(told), event("y", NOW, "t", "member", "n-2", "web-2", "R", "m"))
    body = (await rig.call("GET", "/v1/events?subject=web-1&limit=3")).json()
    assert [item["created_at"] for item in body["items"]] == [NOW + 2, NOW + 3, NOW + 4]
    assert len((await rig.call("GET", "/v1/events?subject=n-2")).json()["items"]) == 1
    assert len((await rig.call("GET", "/v1/events")).json()["items"]) == 6 + 3  # and the tokens of this test


async def test_explain(rig: Rig) -> None:
    await rig.put(node())
    body = (await rig.call("GET", "/v1/explain?subject=web-1", role="viewer")).json()
    assert body["subject"]
    assert body["lines"]
    problem(await rig.call("GET", "/v1/explain?subject=nobody"), 404, "not-found")


async def test_routes_with_counters_and_conflicts(rig: Rig) -> None:
    route = RouteSpec(host="shop.example", port=80)
    web, late = deployment("p", "web"), msgspec.structs.replace(deployment("p", "late"), created_at=NOW + 1)
    web, late = (
        msgspec.structs.replace(found, spec=msgspec.structs.replace(found.spec, routes=(route,)))
        for found in (web, late)
    )
    running = replica("web-0", web, address="10.0.0.9", host_ports={"80/tcp": 20001}, healthy_since=NOW)
    await rig.put(
        node(), node("gate", "g-1", role=Role.GATEWAY), node("west", "c-1", role=Role.CLUSTER), web, late, running
    )
    stats = BackendStats(key="p/web:80", requests=9, errors_5xx=1)
    rig.services.hub.proxied("g-1", ProxyReport(applied_revision=1, backends=(stats,)))
    rig.services.hub.proxied("g-gone", ProxyReport(applied_revision=1, backends=(stats,)))
    rig.services.hub.used("c-1", Usage(errors_5xx={"p/web:80": 4}))
    late_view, web_view = (await rig.call("GET", "/v1/routes")).json()["items"]
    assert web_view["address"] == "http://shop.example/"
    assert (web_view["requests"], web_view["errors_5xx"], web_view["gateways"]) == (9, 5, ["gate"])
    assert web_view["clusters"] == ["west"]
    assert web_view["endpoints"] == 1
    assert (web_view["conflict"], late_view["endpoints"]) == ("", 0)
    assert late_view["conflict"]


async def test_metrics_count_without_names(rig: Rig) -> None:
    web = deployment("p", "secretname")
    await rig.put(node("machinename"), web, replica("r-0", web, healthy_since=NOW))
    rig.link("n-1")
    await rig.call("GET", "/v1/deployments/p/secretname")
    await rig.call("GET", "/v1/unknownname")
    text = (await rig.call("GET", "/metrics", role=None)).text
    assert 'fallow_members{role="node",state="ready"} 1.0' in text
    assert 'fallow_replicas{state="running"} 1.0' in text
    assert f"fallow_store_revision {float(rig.services.cache.snapshot().revision)}" in text
    assert "fallow_sessions 1.0" in text
    assert 'route="/v1/deployments/{project}/{name}",status="200"} 1.0' in text
    assert 'fallow_http_requests_total{method="GET",route="unknown",status="404"} 1.0' in text
    for name in ("secretname", "machinename", "unknownname"):
        assert name not in text


async def test_version_and_health(rig: Rig) -> None:
    assert (await rig.call("GET", "/healthz", role=None)).text == "ok\n"
    assert (await rig.call("GET", "/v1/version", role=None)).json() == {"version": "0.1.0", "schema": SCHEMA_VERSION}


async def test_description_is_complete_and_consistent(rig: Rig) -> None:
    answer = await rig.call("GET", "/docs/openapi.json", role=None)
    spec = answer.json()
    assert spec["openapi"].startswith("3.1")
    documented = {(method, path) for path, item in spec["paths"].items() for method in item}
    assert ("post", "/v1/deploy") in documented
    assert len(documented) == len([path for _, path, _ in ROUTES if not path.startswith("/docs")])
    for name, schema in spec["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description") or name, name
    assert spec["components"]["schemas"]["ContainerSpec"]["properties"]["ports"]["items"] == {
        "$ref": "#/components/schemas/PortSpec"
    }
    dangling = {ref for ref in _references(spec) if not _resolves(spec, ref)}
    assert not dangling
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            assert operation.get("description"), (method, path)
            for status, answer in operation["responses"].items():
                told = answer.get("content", {})
                refusal = int(status) >= 400 and path != "/readyz"
                assert not refusal or list(told) == ["application/problem+json"], (method, path, status)
            guarded = operation.get("security") != [{}]
            assert not guarded or {"400", "401", "403", "429", "503"} <= operation["responses"].keys(), (method, path)
            assert not [parameter for parameter in operation.get("parameters", []) if parameter["name"] == "services"]
    assert spec["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def _references(value: object) -> set[str]:
    if isinstance(value, dict):
        here = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return here.union(*(_references(inner) for inner in value.values()))
    return set().union(*(_references(inner) for inner in value)) if isinstance(value, list) else set()


def _resolves(spec: object, reference: str) -> bool:
    for part in reference.removeprefix("#/").split("/"):
        if not isinstance(spec, dict) or part not in spec:
            return False
        spec = spec[part]
    return True


async def test_docs_page_needs_nothing_from_elsewhere(rig: Rig) -> None:
    page = await rig.call("GET", "/docs", role=None)
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text
    assert page.headers["x-frame-options"] == "DENY"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    (folder,) = files("swagger_ui_bundle").joinpath("vendor").iterdir()
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f'"/docs/assets/{name}"' in page.text
        answer = await rig.call("GET", f"/docs/assets/{name}", role=None)
        assert answer.content == folder.joinpath(name).read_bytes()
        assert answer.headers["content-encoding"] == "gzip"
    script = await rig.call("GET", "/docs/assets/start.js", role=None)
    assert "/docs/openapi.json" in script.text
    for path in ("/docs/assets/..%2f..%2fpyproject.toml", "/docs/assets/index.html", "/docs/x.json"):
        problem(await rig.call("GET", path, role=None), 404, "not-found")
