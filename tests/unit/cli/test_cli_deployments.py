"""`fallow deployment`, `replica`, `route`, `logs` and `explain`."""

import json

import pytest
from cli_fake_api import Asked, FakeApi, deployment, listing, problem, replica, route
from conftest import Fallow

from fallow.client.contexts import Context, save_context
from fallow.model.deployments import Explanation, ReplicaState


def test_list(api: FakeApi, fallow: Fallow) -> None:
    api.on(
        "GET /v1/deployments", listing(deployment("web"), deployment("api", healthy=1, state="degraded", reason="x"))
    )
    ran = fallow("deployment", "list", "--project", "shop")
    assert [line.split()[:3] for line in ran.out.splitlines()] == [
        ["NAME", "STATE", "HEALTHY"],
        ["shop/api", "degraded", "1/2"],
        ["shop/web", "serving", "2/2"],
    ]
    assert api.asked[0].query == {"project": "shop"}
    assert json.loads(fallow("deployment", "list", "--json").out)["items"][0]["name"] == "web"


@pytest.mark.parametrize(
    ("arguments", "environment", "context", "path"),
    [
        (("shop/web",), "", "", "shop/web"),
        (("web",), "", "", "default/web"),
        (("web",), "", "mine", "mine/web"),
        (("web",), "env", "mine", "env/web"),
        (("web", "--project", "shop"), "env", "mine", "shop/web"),
    ],
)
def test_show_finds_the_project(
    api: FakeApi,
    fallow: Fallow,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environment: str,
    context: str,
    path: str,
) -> None:
    monkeypatch.setenv("FALLOW_PROJECT", environment)
    save_context(Context(name="test", url=api.url, project=context))
    api.on(f"GET /v1/deployments/{path}", deployment())
    api.on("GET /v1/replicas", listing(replica()))
    ran = fallow("deployment", "show", *arguments)
    assert ran.code == 0, ran
    assert "http" not in ran.err
    assert "10.0.0.1:20001" in ran.out


@pytest.mark.parametrize("name", ["a/b/c", "/web", "shop/", ""])
def test_names_that_name_nothing(api: FakeApi, fallow: Fallow, name: str) -> None:
    assert fallow("deployment", "show", name).code == 2
    assert fallow("deployment", "show", "shop/web", "--project", "other").code == 2
    assert api.asked == []


def test_a_name_in_another_project_is_suggested(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/deployments", listing(deployment()))
    ran = fallow("deployment", "show", "web")
    assert ran.code == 3
    assert "Did you mean shop/web?" in ran.err
    assert "Did you mean shop/web?" in fallow("logs", "shop/wep").err


@pytest.mark.parametrize("arguments", [("shop/web=6",), ("shop/web", "6"), ("web=6", "--project", "shop")])
def test_scale(api: FakeApi, fallow: Fallow, arguments: tuple[str, ...]) -> None:
    api.on("PATCH /v1/deployments/shop/web", deployment(wanted=6))
    ran = fallow("deployment", "scale", *arguments)
    assert ran.out == "shop/web: 6 replicas wanted, 2 healthy\n"
    assert api.bodies("PATCH /v1/deployments/shop/web") == [{"replicas": 6}]


def test_scale_of_several_waits_for_all(api: FakeApi, fallow: Fallow) -> None:
    healthy = iter([1, 3, 3, 3])
    for name in ("web", "api"):
        api.on(f"PATCH /v1/deployments/shop/{name}", deployment(name, wanted=3))

    def deployments(_: Asked) -> object:
        count = next(healthy)
        state = "serving" if count == 3 else "waiting"
        return listing(*(deployment(name, wanted=3, healthy=count, state=state) for name in ("web", "api")))

    api.on("GET /v1/deployments", deployments)
    ran = fallow("deployment", "scale", "shop/web=3", "shop/api=3", "--wait")
    assert ran.code == 0, ran
    assert "1/3 healthy" in ran.err
    assert "3/3 healthy" in ran.err


@pytest.mark.parametrize("arguments", [("web",), ("web", "many"), ("web=-1",), ("web=1e3",), ("=3",), ("web=100001",)])
def test_scale_refuses_nonsense(api: FakeApi, fallow: Fallow, arguments: tuple[str, ...]) -> None:
    assert fallow("deployment", "scale", "--", *arguments).code == 2
    assert api.asked == []


def test_delete_waits_until_it_is_gone(api: FakeApi, fallow: Fallow) -> None:
    left = iter([(deployment(state="deleting"),), ()])
    api.on("DELETE /v1/deployments/shop/web", "")
    api.on("GET /v1/deployments", lambda _: listing(*next(left)))
    ran = fallow("deployment", "delete", "shop/web", "--wait")
    assert ran.code == 0, ran
    assert ran.err.splitlines()[-1].split() == ["shop/web", "deleted"]


def test_replicas_that_have_ended_are_hidden(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/replicas", listing(replica("r-1"), replica("r-2", state=ReplicaState.LOST)))
    arguments = ("replica", "list", "--deployment", "shop/web", "--node", "n1")
    assert "r-2" not in fallow(*arguments).out
    assert api.asked[0].query == {"project": "shop", "deployment": "web", "node": "n1"}
    assert [each["id"] for each in json.loads(fallow(*arguments, "--json").out)["items"]] == ["r-1"]
    assert "lost" in fallow(*arguments, "--all").out


def test_routes(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/routes", listing(route(requests=12), route(project="other", address="tcp port 5432", kind="tcp")))
    assert fallow("route", "list").out.count("\n") == 3
    shown = fallow("route", "list", "--project", "shop").out.splitlines()
    assert shown[1].split()[:5] == ["http://shop.example", "shop/web", "80", "2", "12"]
    assert len(shown) == 2


def test_logs_of_a_deployment_are_printed_as_they_are(api: FakeApi, fallow: Fallow) -> None:
    lines = "r-1 | [bold]one[/bold] " + "x" * 300 + "\nr-2 | zwei \u2028 drei\r\n"
    api.on("GET /v1/deployments/shop/web/logs", lambda _: iter([lines.encode()[:9], lines.encode()[9:]]))
    ran = fallow("logs", "shop/web", "-f", "--tail", "5")
    assert ran.out == lines.replace("\r", "")
    assert api.asked[-1].query == {"follow": "true", "tail": "5"}


def test_logs_of_a_replica(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/replicas/r-1/logs", "one\n")
    assert fallow("logs", "r-1").out == "one\n"


def test_logs_of_nothing(api: FakeApi, fallow: Fallow) -> None:
    ran = fallow("logs", "x")
    assert ran.code == 3
    assert ran.out == ""


@pytest.mark.parametrize(
    ("arguments", "subjects"),
    [
        (("shop/web",), ["shop/web"]),
        (("web", "--project", "shop"), ["shop/web"]),
        (("node-1",), ["default/node-1", "node-1"]),
    ],
)
def test_explain(api: FakeApi, fallow: Fallow, arguments: tuple[str, ...], subjects: list[str]) -> None:
    def explain(asked: Asked) -> object:
        if asked.query["subject"].startswith("default/"):
            return problem(404, "no such thing")
        return Explanation(subject=asked.query["subject"], state="waiting", lines=("no room", "3 nodes: cordoned"))

    api.on("GET /v1/explain", explain)
    ran = fallow("explain", *arguments)
    assert ran.out == f"{subjects[-1]}: waiting\n  no room\n  3 nodes: cordoned\n"
    assert [asked.query["subject"] for asked in api.asked] == subjects
    assert json.loads(fallow("explain", *arguments, "--json").out)["lines"] == ["no room", "3 nodes: cordoned"]
