"""`fallow pool` and how leases show."""

import json
from typing import Any

import msgspec
from cli_fake_api import FakeApi, listing, member
from conftest import Fallow

from fallow.model.members import Lease
from fallow.model.pools import LeaseView, NetworkMode, PoolUsage, PoolView, PortRange


def pool(name: str = "default", **more: Any) -> PoolView:
    given: dict[str, Any] = {
        "name": name,
        "revision": 4,
        "created_at": 1000.0,
        "created_by": "api:admin",
        "cidr": "10.86.0.0/16",
        "mode": NetworkMode.WIREGUARD,
        "agent_port": 8455,
        "host_ports": PortRange(),
        "host_ports_per_node": 1000,
        "quarantine_seconds": 3600.0,
        "usage": PoolUsage(size=65533, used=7, quarantined=2, free=65524),
    }
    return PoolView(**{**given, **more})


def test_create(fallow: Fallow, api: FakeApi) -> None:
    api.on("POST /v1/pools", pool())
    ran = fallow(
        "pool", "create", "default", "--cidr", "10.86.0.0/16", "--mode", "wireguard", "--quarantine", "10m",
        "--host-ports", "30000-30999", "--ports-per-node", "100", "--agent-port", "9000",
    )  # fmt: skip
    assert (ran.code, ran.out) == (0, "default: 10.86.0.0/16, wireguard, 65524 of 65533 free\n")
    assert api.bodies("POST /v1/pools") == [
        {
            "name": "default", "cidr": "10.86.0.0/16", "mode": "wireguard", "agent_port": 9000,
            "first_host_port": 30000, "last_host_port": 30999, "host_ports_per_node": 100, "quarantine_seconds": 600.0,
        }
    ]  # fmt: skip
    for wrong in (
        ("UPPER", "--cidr", "10.0.0.0/8"),
        ("a", "--cidr", "10.0.0.0/8", "--mode", "pigeon"),
        ("a", "--cidr", "10.0.0.0/8", "--host-ports", "9-1"),
        ("a", "--cidr", "10.0.0.0/8", "--host-ports", "all"),
        ("a", "--cidr", "10.0.0.0/8", "--quarantine", "soon"),
        ("a",),
    ):
        assert fallow("pool", "create", *wrong).code == 2, wrong
    assert len(api.bodies("POST /v1/pools")) == 1


def test_a_pool_without_a_name_is_the_one_that_is_meant(fallow: Fallow, api: FakeApi) -> None:
    api.on("POST /v1/pools", pool())
    assert fallow("pool", "create", "--cidr", "10.86.0.0/16").code == 0
    (sent,) = api.bodies("POST /v1/pools")
    assert (sent["name"], sent["mode"]) == ("default", "direct")


def test_list_and_show(fallow: Fallow, api: FakeApi) -> None:
    api.on("GET /v1/pools", listing(pool(), pool("rack", mode=NetworkMode.DIRECT)))
    api.on("GET /v1/pools/rack", pool("rack", mode=NetworkMode.DIRECT))
    lines = fallow("pool", "list").out.splitlines()
    assert lines[0].split() == ["NAME", "NETWORK", "MODE", "SIZE", "USED", "QUARANTINED", "FREE", "AGE"]
    assert lines[1].split()[:7] == ["default", "10.86.0.0/16", "wireguard", "65533", "7", "2", "65524"]
    told = json.loads(fallow("pool", "list", "--json").out)
    assert [one["name"] for one in told["items"]] == ["default", "rack"]
    shown = fallow("pool", "show", "rack").out
    assert "ports a node   1000" in shown
    assert "20000-29999" in shown
    assert json.loads(fallow("pool", "show", "rack", "--json").out)["usage"]["quarantined"] == 2


def test_leases(fallow: Fallow, api: FakeApi) -> None:
    held = LeaseView(address="10.86.0.2", host_ports=PortRange(), agent_port=8455, member="web-1", state="leased")
    kept = msgspec.structs.replace(held, address="10.86.0.3", member="gone", state="quarantined", until=2000.0)
    api.on("GET /v1/pools/default/leases", listing(held, kept))
    lines = fallow("pool", "leases", "default").out.splitlines()
    assert lines[1].split() == ["10.86.0.2", "web-1", "leased", "8455", "20000-29999", "-"]
    assert lines[2].split()[:3] == ["10.86.0.3", "gone", "quarantined"]
    assert "1970" in lines[2]
    assert json.loads(fallow("pool", "leases", "default", "--json").out)["items"][1]["until"] == 2000.0


def test_change_and_delete(fallow: Fallow, api: FakeApi) -> None:
    api.on("PATCH /v1/pools/default", pool(cidr="10.80.0.0/12"))
    api.on("DELETE /v1/pools/default", "")
    assert "10.80.0.0/12" in fallow("pool", "resize", "default", "--cidr", "10.80.0.0/12").out
    assert fallow("pool", "change", "default", "--quarantine", "1m", "--agent-port", "9000").code == 0
    assert api.bodies("PATCH /v1/pools/default") == [
        {"cidr": "10.80.0.0/12", "agent_port": None, "quarantine_seconds": None},
        {"cidr": None, "agent_port": 9000, "quarantine_seconds": 60.0},
    ]
    assert fallow("pool", "change", "default").code == 2
    assert fallow("pool", "delete", "default").out == "default: deleted\n"
    api.refuse("DELETE /v1/pools/used", 409, "Pool in use", detail="web-1 has one", hint="remove it")
    ran = fallow("pool", "delete", "used")
    assert ran.code != 0
    assert "web-1 has one" in ran.err


def test_nodes_show_their_lease(fallow: Fallow, api: FakeApi) -> None:
    lease = Lease(address="10.86.0.2", pool="default", mode=NetworkMode.WIREGUARD, agent_port=8455)
    one = member("node-1", address="10.86.0.2", lease=lease)
    api.on("GET /v1/members", listing(one, member("old")))
    api.on("GET /v1/members/node-1", one)
    api.on("GET /v1/replicas", listing())
    header, first, second = fallow("node", "list").out.splitlines()
    assert "POOL" in header
    assert "default" in first
    assert "default" not in second
    shown = fallow("node", "show", "node-1").out
    assert "default (wireguard)" in shown
    assert "8455" in shown
