"""Upgrades over the API: who is meant, what is refused, and how far they are."""

from api_rig import Rig, node, problem

from fallow.model.members import AgentRun, Role
from fallow.model.upgrades import Upgrade
from fallow.version import VERSION


def agents(*names: str):
    runs = (AgentRun(instance="i", agent_version="0.0.1"),)
    return [node(name, f"n-{name}", key_sha256=name * 64, labels={"zone": name}, runs=runs) for name in names]


async def test_members_are_chosen_by_selector_or_by_name(rig: Rig) -> None:
    gateway = node("g", "g-1", role=Role.GATEWAY, key_sha256="9" * 64)
    await rig.put(*agents("a", "b", "c"), gateway)
    some = await rig.call("POST", "/v1/upgrades", json={"selector": "zone in (a,b)", "dry_run": True})
    assert (some.status_code, some.json()["waiting"], some.json()["version"]) == (201, ["a", "b"], VERSION)
    every = await rig.call("POST", "/v1/upgrades", json={"selector": "", "dry_run": True, "max_unavailable": "50%"})
    assert (every.json()["waiting"], every.json()["max_unavailable"]) == (["a", "b", "c", "g"], 2)
    assert rig.services.cache.snapshot().upgrades == {}, "a dry run writes nothing"
    named = await rig.call(
        "POST", "/v1/upgrades", json={"names": ["a", "n-a", "c"], "max_unavailable": "1"}, role="operator"
    )
    (stored,) = rig.services.cache.snapshot().upgrades.values()
    assert isinstance(stored, Upgrade)
    assert stored.members == ("n-a", "n-c")
    listed = (await rig.call("GET", "/v1/upgrades", role="viewer")).json()["items"]
    assert [each["id"] for each in listed] == [named.json()["id"]]


async def test_what_cannot_be_is_refused_with_what_to_do(rig: Rig) -> None:
    await rig.put(*agents("a"))
    for body in (
        {},
        {"names": ["a"], "selector": ""},
        {"names": ["a"], "max_unavailable": "0%"},
    ):
        problem(await rig.call("POST", "/v1/upgrades", json=body), 400, "bad-request")
    problem(await rig.call("POST", "/v1/upgrades", json={"selector": "zone in ("}), 400, "bad-selector")
    problem(await rig.call("POST", "/v1/upgrades", json={"names": ["nobody"]}), 404, "not-found")
    problem(await rig.call("POST", "/v1/upgrades", json={"selector": "zone=z"}), 404, "not-found")
    body = problem(await rig.call("POST", "/v1/upgrades", json={"names": ["a"], "version": "7.0"}), 404, "no-package")
    assert VERSION in body["detail"]
    assert "packages" in body["hint"]
    assert (await rig.call("POST", "/v1/upgrades", json={"names": ["a"]}, role="viewer")).status_code == 403


async def test_two_at_once_over_one_member_are_refused_until_the_first_is_stopped(rig: Rig) -> None:
    await rig.put(*agents("a", "b"))
    first = (await rig.call("POST", "/v1/upgrades", json={"names": ["a"]})).json()["id"]
    body = problem(await rig.call("POST", "/v1/upgrades", json={"selector": ""}), 409, "upgrade-running")
    assert first in body["hint"]
    assert (await rig.call("POST", "/v1/upgrades", json={"names": ["b"]})).status_code == 201
    stopped = await rig.call("POST", f"/v1/upgrades/{first}/stop")
    assert (stopped.status_code, stopped.json()["state"]) == (200, "stopped")
    problem(await rig.call("POST", f"/v1/upgrades/{first}/stop"), 409, "upgrade-ended")
    problem(await rig.call("POST", "/v1/upgrades/none/stop"), 404, "not-found")
    assert (await rig.call("POST", "/v1/upgrades", json={"names": ["a"]})).status_code == 201
