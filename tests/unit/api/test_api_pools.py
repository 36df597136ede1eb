"""Pools over the API."""

import asyncio

import msgspec
from api_rig import NOW, Rig, node, problem
from bundles import bundle_body

from fallow.model.members import Lease
from fallow.model.pools import NetworkMode

OVERLAY = {"name": "default", "cidr": "10.86.0.0/24", "mode": "wireguard"}


async def reasons(rig: Rig) -> list[str]:
    items = (await rig.call("GET", "/v1/events?subject=default")).json()["items"]
    return [item["reason"] for item in items]


async def test_a_pool_is_created_read_changed_and_deleted(rig: Rig) -> None:
    made = await rig.call("POST", "/v1/pools", json=OVERLAY)
    assert made.status_code == 201
    body = made.json()
    assert body["usage"] == {"size": 253, "used": 0, "quarantined": 0, "free": 253}
    assert (body["agent_port"], body["quarantine_seconds"], body["created_by"]) == (8455, 3600.0, "api:a-admin")
    again = await rig.call("POST", "/v1/pools", json=OVERLAY)
    assert again.json() == body, "a lost answer may be asked for again"
    problem(await rig.call("POST", "/v1/pools", json=OVERLAY | {"cidr": "10.87.0.0/24"}), 409, "name-taken")
    one = await rig.call("GET", "/v1/pools/default", role="viewer")
    assert (one.json(), one.headers["etag"]) == (body, f'"{body["revision"]}"')
    assert (await rig.call("GET", "/v1/pools", role="viewer")).json()["items"] == [body]

    stale = {"If-Match": '"1"'}
    problem(await rig.call("PATCH", "/v1/pools/default", json={"cidr": "10.86.0.0/16"}, headers=stale), 412, "changed")
    grown = await rig.call("PATCH", "/v1/pools/default", json={"cidr": "10.86.0.0/16"}, headers={
        "If-Match": one.headers["etag"]})  # fmt: skip
    assert (grown.status_code, grown.json()["usage"]["size"]) == (200, 65533)
    problem(await rig.call("PATCH", "/v1/pools/default", json={"cidr": "10.86.0.0/24"}), 409, "pool-shrinks")
    problem(await rig.call("PATCH", "/v1/pools/nowhere", json={}), 404, "not-found")

    problem(await rig.call("DELETE", "/v1/pools/default", headers=stale), 412, "changed")
    assert (await rig.call("DELETE", "/v1/pools/default")).status_code == 204
    for path in ("/v1/pools/default", "/v1/pools/default/leases"):
        problem(await rig.call("GET", path), 404, "not-found")
    problem(await rig.call("DELETE", "/v1/pools/default"), 404, "not-found")
    assert await reasons(rig) == ["PoolCreated", "PoolChanged", "PoolDeleted"]
    audit = (await rig.call("GET", "/v1/audit?subject=default")).json()["items"]
    (entry,) = [entry for entry in audit if entry["operation"] == "change_pool" and entry["differences"]]
    assert entry["differences"] == [{"field": "cidr", "before": "10.86.0.0/24", "after": "10.86.0.0/16"}]


async def test_what_is_not_a_pool(rig: Rig) -> None:
    for wrong in (
        {"cidr": "127.0.0.0/8"},
        {"cidr": "10.86.0.1/24"},
        {"cidr": "x" * 65},
        {"cidr": "10.86.0.0/24\n"} | {"name": "a\n"},
        {"name": "UPPER"},
        {"mode": "carrier-pigeon"},
        {"agent_port": 0},
        {"agent_port": 25000},
        {"first_host_port": 30000},
        {"host_ports_per_node": 0},
        {"quarantine_seconds": -1},
        {"quarantine_seconds": 1e300},
        {"surprise": 1},
    ):
        problem(await rig.call("POST", "/v1/pools", json=OVERLAY | wrong), 400, "bad-request")
    assert (await rig.call("GET", "/v1/pools")).json()["items"] == []


async def test_two_pools_of_one_network_at_once(rig: Rig) -> None:
    wishes = [OVERLAY | {"name": name} for name in ("one", "two", "three")]
    answers = await asyncio.gather(*(rig.call("POST", "/v1/pools", json=wish) for wish in wishes))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409]


async def test_a_removed_member_leaves_its_lease_in_quarantine(rig: Rig) -> None:
    await rig.call("POST", "/v1/pools", json=OVERLAY)
    lease = Lease(address="10.86.0.9", pool="default", mode=NetworkMode.WIREGUARD, agent_port=8455, prefix_length=24)
    await rig.put(msgspec.structs.replace(node("web-1", "n-1"), lease=lease))
    shown = (await rig.call("GET", "/v1/members/web-1")).json()
    assert (shown["address"], shown["lease"]["pool"], shown["lease"]["agent_port"]) == ("10.86.0.9", "default", 8455)
    said = problem(await rig.call("DELETE", "/v1/pools/default"), 409, "pool-in-use")
    assert "web-1" in said["detail"]
    (held,) = (await rig.call("GET", "/v1/pools/default/leases", role="viewer")).json()["items"]
    assert (held["member"], held["member_id"], held["state"], held["until"]) == ("web-1", "n-1", "leased", 0.0)

    assert (await rig.call("DELETE", "/v1/members/web-1")).status_code == 204
    (kept,) = (await rig.call("GET", "/v1/pools/default/leases")).json()["items"]
    assert (kept["member"], kept["state"], kept["until"]) == ("web-1", "quarantined", rig.clock.now + 3600)
    use = (await rig.call("GET", "/v1/pools/default")).json()["usage"]
    assert (use["used"], use["quarantined"], use["free"]) == (0, 1, 252)
    rig.clock.now += 3600
    assert (await rig.call("GET", "/v1/pools/default/leases")).json()["items"] == []
    assert (await rig.call("DELETE", "/v1/pools/default")).status_code == 204


async def test_joining_when_all_is_given_says_how_to_add_a_pool(rig: Rig) -> None:
    await rig.call("POST", "/v1/pools", json=OVERLAY | {"cidr": "10.86.0.0/30"})
    token = (await rig.call("POST", "/v1/tokens", json={"role": "node", "uses": 5})).json()["secret"]

    async def join() -> object:
        return await rig.call("POST", "/v1/join", role=None, json=bundle_body(token, sent_at=NOW))

    first = await join()
    assert first.json()["lease"]["address"] == "10.86.0.2"  # type: ignore[attr-defined]
    said = problem(await join(), 409, "pool-exhausted")  # type: ignore[arg-type]
    assert "fallow pool create" in said["hint"]
