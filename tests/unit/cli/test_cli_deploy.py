"""`fallow deploy` from the file to the routes."""

import json
from pathlib import Path

import pytest
from cli_fake_api import Asked, FakeApi, deployment, listing, problem, route
from conftest import Fallow

from fallow.client.contexts import Context, save_context
from fallow.model.deployments import DeployedItem, DeployResult, Explanation

FILE = "services:\n  web:\n    image: $IMAGE\n"


@pytest.fixture(autouse=True)
def file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "compose.yaml").write_text(FILE)
    monkeypatch.setenv("IMAGE", "web:1")


def _accept(api: FakeApi, *items: DeployedItem, **more: object) -> None:
    given = items or (DeployedItem(path="shop/web", action="create", replicas=2),)
    api.on("POST /v1/deploy", DeployResult(project="shop", items=given, **more))  # type: ignore[arg-type]


def test_it_waits_until_everything_serves_and_tells_where(api: FakeApi, fallow: Fallow) -> None:
    healthy = iter([0, 0, 2])

    def deployments(_: Asked) -> object:
        count = next(healthy)
        return listing(deployment(healthy=count, state="serving" if count == 2 else "waiting"))

    _accept(api, warnings=("`links` is ignored",))
    api.on("GET /v1/deployments", deployments)
    api.on("GET /v1/routes", listing(route(), route(deployment="other", address="http://other")))
    ran = fallow("deploy")
    assert ran.code == 0, ran
    assert ran.out.splitlines()[1].split() == ["shop/web", "create", "2"]
    assert ran.out.splitlines()[2:] == ["shop/web: http://shop.example"]
    assert "warning: `links` is ignored" in ran.err
    assert [line.split()[2] for line in ran.err.splitlines()[1:]] == ["0/2", "2/2"]
    assert api.bodies("POST /v1/deploy") == [
        {
            "compose": FILE,
            "project": "",
            "variables": {"IMAGE": "web:1"},
            "env_files": {},
            "dry_run": False,
            "prune": False,
        }
    ]


@pytest.mark.parametrize(
    "arguments",
    [("compose.yaml",), ("-f", "compose.yaml"), ("-",), ("--file", "-"), ("compose.yaml", "-f", "compose.yaml")],
)
def test_ways_to_name_the_file(api: FakeApi, fallow: Fallow, arguments: tuple[str, ...]) -> None:
    _accept(api)
    assert fallow("deploy", *arguments, "--no-wait", stdin=FILE).code == 0
    assert api.bodies("POST /v1/deploy")[0]["compose"] == FILE


@pytest.mark.parametrize(
    ("option", "environment", "named", "context", "sent"),
    [
        ("opt", "env", True, "ctx", "opt"),
        ("", "env", True, "ctx", "env"),
        ("", "", True, "ctx", ""),
        ("", "", False, "ctx", "ctx"),
        ("", "", False, "", ""),
    ],
)
def test_whose_project_counts(
    api: FakeApi,
    fallow: Fallow,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    environment: str,
    named: bool,
    context: str,
    sent: str,
) -> None:
    save_context(Context(name="test", url=api.url, project=context))
    monkeypatch.setenv("FALLOW_PROJECT", environment)
    _accept(api)
    fallow("deploy", "-", "--no-wait", "--project", option, stdin=("name: own\n" if named else "") + FILE)
    assert api.bodies("POST /v1/deploy")[0]["project"] == sent


def test_a_dry_run_tells_where_and_does_not_wait(api: FakeApi, fallow: Fallow) -> None:
    item = DeployedItem(
        path="shop/web", action="update", replicas=3, placements={"b": 1, "a": 1}, unplaced=1, reasons=("no room",)
    )
    _accept(api, item, dry_run=True)
    ran = fallow("deploy", "--dry-run", "--prune")
    assert ran.code == 0
    head, line = ran.out.splitlines()
    assert head.split() == ["DEPLOYMENT", "WOULD", "REPLICAS", "PLACED", "ON", "UNPLACED", "WHY"]
    assert line.split() == ["shop/web", "update", "3", "a:1", "b:1", "1", "no", "room"]
    body = api.bodies("POST /v1/deploy")[0]
    assert (body["dry_run"], body["prune"]) == (True, True)


def test_json_is_the_answer_alone_and_waiting_goes_to_stderr(api: FakeApi, fallow: Fallow) -> None:
    _accept(api)
    api.on("GET /v1/deployments", listing(deployment()))
    ran = fallow("deploy", "--json")
    assert json.loads(ran.out)["items"][0]["path"] == "shop/web"
    assert "2/2 healthy" in ran.err


def test_pruned_deployments_must_be_gone(api: FakeApi, fallow: Fallow) -> None:
    found = iter([(deployment(), deployment("old", state="deleting")), (deployment(),)])
    old = DeployedItem(path="shop/old", action="delete", replicas=0)
    _accept(api, DeployedItem(path="shop/web", action="unchanged", replicas=2), old)
    api.on("GET /v1/deployments", lambda _: listing(*next(found)))
    api.on("GET /v1/routes", listing())
    ran = fallow("deploy", "--prune")
    assert ran.code == 0, ran
    assert ran.err.splitlines()[-1].split()[:2] == ["shop/old", "deleted"]


def test_when_it_does_not_serve_in_time_it_explains(api: FakeApi, fallow: Fallow) -> None:
    _accept(api)
    api.on("GET /v1/deployments", listing(deployment(healthy=0, state="waiting", reason="no room")))
    api.on("GET /v1/explain", Explanation(subject="shop/web", state="waiting", lines=("2 nodes: out of memory",)))
    ran = fallow("deploy", "--timeout", "10ms")
    assert ran.code == 1
    assert "shop/web: waiting\n  2 nodes: out of memory\n" in ran.err
    assert "fallow logs shop/web" in ran.err


def test_a_deployment_of_none_is_settled_when_all_have_stopped(api: FakeApi, fallow: Fallow) -> None:
    _accept(api, DeployedItem(path="shop/web", action="scale", replicas=0))
    api.on("GET /v1/deployments", listing(deployment(wanted=0, healthy=0, state="stopped")))
    api.on("GET /v1/routes", listing())
    assert fallow("deploy").code == 0


def test_a_refused_file_tells_everything_that_is_wrong(api: FakeApi, fallow: Fallow) -> None:
    api.on("POST /v1/deploy", problem(422, "The Compose file cannot be used", errors=("line 3: a", "line 9: b")))
    ran = fallow("deploy")
    assert ran.code == 1
    assert ran.err == "error: The Compose file cannot be used\n  - line 3: a\n  - line 9: b\n"


def test_no_file(api: FakeApi, fallow: Fallow, home: Path) -> None:
    (home / "compose.yaml").unlink()
    assert "compose.yaml" in fallow("deploy").err
    for arguments in (("gone.yaml",), ("a", "-f", "b"), (".",)):
        assert fallow("deploy", *arguments).code == 2
    assert api.asked == []
