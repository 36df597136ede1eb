"""Renewing, going back, pausing and the history over the API."""

from api_rig import Rig, problem

SHOP = "name: shop\nservices: {{web: {{image: 'web:{version}'}}}}"
WEB = "/v1/deployments/shop/web"


async def deploy(rig: Rig, version: int) -> None:
    rig.clock.now += 1
    answer = await rig.call("POST", "/v1/deploy", role="operator", json={"compose": SHOP.format(version=version)})
    assert answer.status_code == 200, answer.text


async def test_a_deployment_goes_forth_and_back(rig: Rig) -> None:
    await deploy(rig, 1)
    await deploy(rig, 2)
    web = (await rig.call("GET", WEB)).json()
    assert (web["state"], web["update"]["state"], web["update"]["generation"]) == ("updating", "updating", 2)
    back = await rig.call("POST", f"{WEB}/rollback", role="operator", json={})
    assert (back.status_code, back.json()["generation"], back.json()["state"]) == (200, 3, "rolling-back")
    assert back.json()["spec"]["container"]["image"] == "web:1"
    assert back.headers["etag"] == f'"{back.json()["revision"]}"'
    again = await rig.call("POST", f"{WEB}/rollback", json={})
    assert again.json()["generation"] == 3, "a repeated call changes nothing"
    forth = await rig.call("POST", f"{WEB}/rollback", json={"to": 2})
    assert forth.json()["spec"]["container"]["image"] == "web:2"
    restarted = await rig.call("POST", f"{WEB}/restart")
    assert (restarted.json()["generation"], restarted.json()["update"]["rollback"]) == (5, False)
    found = (await rig.call("GET", f"{WEB}/history", role="viewer")).json()["items"]
    assert [(item["generation"], item["cause"], item["image"]) for item in found] == [
        (5, "restart", "web:2"),
        (4, "rollback", "web:2"),
        (3, "rollback", "web:1"),
        (2, "deploy", "web:2"),
        (1, "deploy", "web:1"),
    ]
    assert {item["actor"] for item in found} >= {"api:a-operator"}
    told = [item["reason"] for item in (await rig.call("GET", "/v1/events?subject=shop/web")).json()["items"]]
    assert told.count("RollbackStarted") == 2
    assert told[-1] == "DeploymentRestarted"


async def test_a_repeated_restart_is_refused_with_if_match(rig: Rig) -> None:
    await deploy(rig, 1)
    seen = (await rig.call("GET", WEB)).headers["etag"]
    assert (await rig.call("POST", f"{WEB}/restart", headers={"If-Match": seen})).status_code == 200
    problem(await rig.call("POST", f"{WEB}/restart", headers={"If-Match": seen}), 412, "changed")


async def test_pause_and_resume(rig: Rig) -> None:
    await deploy(rig, 1)
    assert "nothing to pause" in problem(await rig.call("POST", f"{WEB}/pause"), 409, "no-update")["detail"]
    await deploy(rig, 2)
    for _ in range(2):
        assert (await rig.call("POST", f"{WEB}/pause")).json()["state"] == "paused"
    scaled = await rig.call("PATCH", WEB, json={"replicas": 4})
    assert (scaled.json()["counts"]["wanted"], scaled.json()["state"]) == (4, "paused")
    for _ in range(2):
        assert (await rig.call("POST", f"{WEB}/resume")).json()["state"] == "updating"


async def test_what_cannot_be_is_refused(rig: Rig) -> None:
    for wish in ("restart", "pause", "resume"):
        problem(await rig.call("POST", f"{WEB}/{wish}"), 404, "not-found")
    problem(await rig.call("GET", f"{WEB}/history"), 404, "not-found")
    await deploy(rig, 1)
    assert (
        "fallow deployment history"
        in problem(await rig.call("POST", f"{WEB}/rollback", json={}), 409, "no-such-generation")["hint"]
    )
    problem(await rig.call("POST", f"{WEB}/rollback", json={"to": 7}), 409, "no-such-generation")
    problem(await rig.call("POST", f"{WEB}/rollback", json={"to": 0}), 400, "bad-request")
    problem(await rig.call("POST", f"{WEB}/rollback", json={"too": 1}), 400, "bad-request")
    await rig.call("DELETE", WEB)
    for wish in ("restart", "pause", "resume"):
        problem(await rig.call("POST", f"{WEB}/{wish}"), 409, "deleting")
