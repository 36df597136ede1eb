"""History, restart, rollback, pause, resume, and what `deploy` says of an update that fails."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_fake_api import FakeApi, deployment, listing
from conftest import Fallow

from fallow.model.deployments import DeployedItem, DeployResult, GenerationView
from fallow.model.updates import PulledAhead, UpdateState, UpdateStatus

WEB = "/v1/deployments/shop/web"


def status(state: UpdateState = UpdateState.UPDATING, generation: int = 2, **more: Any) -> UpdateStatus:
    return UpdateStatus(state=state, generation=generation, started_at=1000.0, changed_at=1010.0, **more)


def test_history(api: FakeApi, fallow: Fallow) -> None:
    made = {"created_at": 1000.0, "actor": "api:ann"}
    api.on(
        f"GET {WEB}/history",
        listing(
            GenerationView(generation=3, image="web:1", cause="rollback", alike=(1,), current=True, replicas=2, **made),
            GenerationView(generation=2, image="web:2", changed=("image", "command"), **made),
            GenerationView(generation=1, image="web:1", good=True, **made),
        ),
    )
    lines = fallow("deployment", "history", "shop/web").out.splitlines()
    assert "rollback to 1" in lines[1]
    assert "current" in lines[1]
    assert "image command" in lines[2]
    assert "api:ann" in lines[2]
    assert "good" in lines[3]
    shown = json.loads(fallow("deployment", "history", "shop/web", "--json").out)
    assert [item["generation"] for item in shown["items"]] == [3, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (("restart", "shop/web"), "restart", None),
        (("rollback", "shop/web"), "rollback", {"to": None}),
        (("rollback", "web", "--project", "shop", "--to", "3"), "rollback", {"to": 3}),
        (("pause", "shop/web"), "pause", None),
        (("resume", "shop/web"), "resume", None),
    ],
)
def test_changes(api: FakeApi, fallow: Fallow, arguments: tuple[str, ...], path: str, body: object) -> None:
    api.on(f"POST {WEB}/{path}", deployment(update=status()))
    ran = fallow("deployment", *arguments)
    assert ran.code == 0, ran
    assert ran.out.startswith("shop/web: ")
    assert api.bodies(f"POST {WEB}/{path}") == [body]
    assert json.loads(fallow("deployment", *arguments, "--json").out)["name"] == "web"


def test_restart_waits_until_the_update_has_ended(api: FakeApi, fallow: Fallow) -> None:
    states = iter(["updating", "updating", "serving"])
    api.on(f"POST {WEB}/restart", deployment(state="updating", update=status()))
    api.on("GET /v1/deployments", lambda _: listing(deployment(state=next(states), update=status())))
    ran = fallow("deployment", "restart", "shop/web", "--wait")
    assert ran.code == 0, ran
    assert "serving" in ran.err


def test_show_tells_how_far_an_update_has_come(api: FakeApi, fallow: Fallow) -> None:
    api.on(f"GET {WEB}", deployment(state="updating", updated=1, update=status(from_generation=1)))
    api.on("GET /v1/replicas", listing())
    shown = fallow("deployment", "show", "shop/web").out
    assert "updating from generation 1 since" in shown
    assert "1 of 2 renewed and healthy" in shown
    back = status(UpdateState.ROLLED_BACK, 3, from_generation=1, rollback=True, reason="2 of 2 failed")
    api.on(f"GET {WEB}", deployment(update=back))
    shown = fallow("deployment", "show", "shop/web").out
    assert "rolled-back to generation 1" in shown
    assert "2 of 2 failed" in shown


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            PulledAhead(nodes=2, seconds=5.0, longest_seconds=4.0, saved_seconds=2.0, fetched_bytes=2 << 20),
            "2 nodes in 5.0 s, 2 MiB; replicas began up to 4.0 s sooner, the update ended about 2.0 s sooner",
        ),
        (PulledAhead(nodes=1, pending=2, seconds=1.0, longest_seconds=1.0), "1 node in 1.0 s, 2 not yet; replicas"),
        (PulledAhead(failed=1), "0 nodes in 0.0 s, 1 failed"),
    ],
)
def test_show_tells_what_was_pulled_ahead(api: FakeApi, fallow: Fallow, found: PulledAhead, told: str) -> None:
    api.on(f"GET {WEB}", deployment(pulled_ahead=found))
    api.on("GET /v1/replicas", listing())
    assert told in fallow("deployment", "show", "shop/web").out
    for nothing in (None, PulledAhead()):
        api.on(f"GET {WEB}", deployment(pulled_ahead=nothing))
        assert "pulled ahead" not in fallow("deployment", "show", "shop/web").out


@pytest.mark.parametrize(
    ("update", "told"),
    [
        (
            status(UpdateState.ROLLED_BACK, 3, from_generation=1, rollback=True, reason="it exits"),
            "shop/web went back to generation 1: it exits",
        ),
        (status(UpdateState.PAUSED, paused_because="it exits"), "shop/web is paused: it exits"),
    ],
)
def test_deploy_fails_when_the_update_does(
    api: FakeApi, fallow: Fallow, tmp_path: Path, update: UpdateStatus, told: str
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services: {web: {image: 'web:2'}}")
    item = DeployedItem(path="shop/web", action="update", replicas=2, generation=2)
    api.on("POST /v1/deploy", DeployResult(project="shop", items=(item,)))
    paused = update.state is UpdateState.PAUSED
    api.on("GET /v1/deployments", listing(deployment(state="paused" if paused else "serving", update=update)))
    ran = fallow("deploy", str(file))
    assert ran.code != 0
    assert told in ran.err


def test_an_earlier_rollback_is_no_failure_of_a_deploy_that_changes_nothing(
    api: FakeApi, fallow: Fallow, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services: {web: {image: 'web:1'}}")
    item = DeployedItem(path="shop/web", action="unchanged", replicas=2, generation=3)
    api.on("POST /v1/deploy", DeployResult(project="shop", items=(item,)))
    api.on("GET /v1/deployments", listing(deployment(update=status(UpdateState.ROLLED_BACK, 3, rollback=True))))
    api.on("GET /v1/routes", listing())
    assert fallow("deploy", str(file)).code == 0


def test_scaling_does_not_wait_for_a_paused_update(api: FakeApi, fallow: Fallow) -> None:
    view = deployment(state="paused", update=status(UpdateState.PAUSED, paused_because="it exits"))
    api.on(f"PATCH {WEB}", view)
    api.on("GET /v1/deployments", listing(view))
    assert fallow("deployment", "scale", "shop/web=2", "--wait").code == 0
