"""Tokens over the API."""

from api_rig import Rig, problem


async def test_tokens_created_listed_revoked(rig: Rig) -> None:
    made = await rig.call("POST", "/v1/tokens", json={"role": "node", "uses": 3, "labels": {"zone": "a"}})
    assert made.status_code == 201
    body = made.json()
    assert body["secret"].startswith(f"fallow-join.{body['id']}.")
    assert (body["uses_left"], body["state"], body["created_by"]) == (3, "valid", "api:a-admin")
    listed = (await rig.call("GET", "/v1/tokens")).json()["items"]
    assert {item["role"] for item in listed} == {"viewer", "operator", "admin", "node"}
    assert all(item["secret"] is None for item in listed)
    assert body["secret"].split(".")[2] not in str(listed)
    assert (await rig.call("DELETE", f"/v1/tokens/{body['id']}")).status_code == 204
    states = {item["id"]: item["state"] for item in (await rig.call("GET", "/v1/tokens")).json()["items"]}
    assert states[body["id"]] == "revoked"
    problem(await rig.call("DELETE", "/v1/tokens/nobody"), 404, "not-found")
    reasons = [item["reason"] for item in (await rig.call("GET", f"/v1/events?subject={body['id']}")).json()["items"]]
    assert reasons == ["TokenCreated", "TokenRevoked"]


async def test_last_admin_token_stays(rig: Rig) -> None:
    mine = rig.credentials["admin"].split(".")[1]
    problem(await rig.call("DELETE", f"/v1/tokens/{mine}"), 409, "last-admin")
    rig.credentials["second"] = (await rig.call("POST", "/v1/tokens", json={"role": "admin"})).json()["secret"]
    assert (await rig.call("DELETE", f"/v1/tokens/{mine}")).status_code == 204
    problem(await rig.call("GET", "/v1/tokens"), 401, "unauthorized")
    assert (await rig.call("GET", "/v1/tokens", role="second")).status_code == 200
