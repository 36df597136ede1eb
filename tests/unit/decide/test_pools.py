"""Which networks may be a pool, and what may change of one."""

import ipaddress
from typing import Any

import pytest
from records import NOW, member, snapshot

from fallow.decide.pools import MAX_POOLS, PoolRefused, changed_pool, check_unused, new_pool
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Lease
from fallow.model.pools import NetworkMode, Pool, PoolChange, PoolRequest

OWN = (ipaddress.ip_address("10.0.0.1"),)


def made(cidr: str = "10.86.0.0/16", mode: str = "wireguard", found: Snapshot | None = None, **more: Any) -> Pool:
    request = PoolRequest(**{"name": "default", "cidr": cidr, "mode": NetworkMode(mode), **more})
    return new_pool(found or snapshot(), request, OWN, NOW, "api:test")


def refused(code: str, *given: Any, **named: Any) -> str:
    with pytest.raises(PoolRefused) as caught:
        made(*given, **named)
    assert caught.value.code == code
    return f"{caught.value.title}: {caught.value.detail}; {caught.value.hint}"


def test_a_pool_is_as_asked_for() -> None:
    pool = made(" 10.86.0.0/16 ", quarantine_seconds=60.0)
    assert (pool.id, pool.cidr, pool.mode, pool.created_by) == (
        "default", "10.86.0.0/16", NetworkMode.WIREGUARD, "api:test",
    )  # fmt: skip
    assert made("FD00:86:0::/64").cidr == "fd00:86::/64"
    assert made("192.0.2.7/32", "direct").cidr == "192.0.2.7/32"


@pytest.mark.parametrize(
    ("cidr", "words"),
    [
        ("0.0.0.0/0", "every address"),
        ("::/0", "every address"),
        ("127.0.0.0/8", "is loopback"),
        ("127.1.2.0/24", "is loopback"),
        ("::1/128", "is loopback"),
        ("169.254.0.0/16", "is link-local"),
        ("169.254.169.254/32", "is link-local"),
        ("fe80::/64", "is link-local"),
        ("224.0.0.0/24", "is multicast"),
        ("ff00::/16", "is multicast"),
        ("240.0.0.0/8", "is reserved"),
        ("0.0.0.0/8", "is reserved"),
        ("::ffff:10.0.0.0/112", "is reserved"),
        ("126.0.0.0/7", "contains 127.0.0.0/8"),
        ("fd00:ec2::/64", "metadata"),
        ("100.64.0.0/10", "metadata"),
        ("11.0.0.0/7", "bits set"),
        ("10.86.0.1/16", "did you mean 10.86.0.0/16"),
        ("8.0.0.0/7", "wider than /8"),
        ("10.86.0.0/31", "no address to give"),
        ("10.86.0.0/32", "no address to give"),
        ("fd00::/127", "no address to give"),
        ("fd00::%1/64", "zone"),
        ("10.86.0.0/33", "10.86.0.0/33"),
        ("10.86/16", "10.86"),
        ("", "''"),
        ("x" * 64, "x"),
        ("10.86.0.0/16\0", "10.86"),
    ],
)
def test_networks_that_cannot_be_one(cidr: str, words: str) -> None:
    said = refused("bad-request", cidr)
    assert words in said
    assert len(said) < 400


def test_places_that_others_have() -> None:
    mine = made()
    assert "default" in refused("pool-overlaps", "10.86.4.0/24", found=snapshot(mine), name="other")
    assert "default" in refused("pool-overlaps", "10.0.0.0/8", "direct", found=snapshot(mine), name="other")
    assert "10.0.0.1" in refused("pool-has-control-plane", "10.0.0.0/24")
    assert made("10.0.0.0/24", "direct").cidr == "10.0.0.0/24", "machines beside the control plane"
    web = member("web", lease=Lease(address="10.1.0.9"))
    assert "web" in refused("pool-has-members", "10.1.0.0/24", found=snapshot(web))
    assert made("10.1.0.0/24", "direct", snapshot(web)).cidr == "10.1.0.0/24"
    many = [made(f"10.{number}.0.0/16", "direct", name=f"p{number}") for number in range(MAX_POOLS)]
    refused("too-many-pools", "172.16.0.0/16", found=snapshot(*many), name="more")


def test_ports_that_contradict_each_other() -> None:
    assert "8455" in refused("bad-request", first_host_port=8000, last_host_port=9000)
    refused("bad-request", first_host_port=30000, last_host_port=20000)
    refused("bad-request", host_ports_per_node=10001)


def test_the_same_once_more_is_the_one_there_is() -> None:
    pool = made()
    assert made(found=snapshot(pool)) is pool
    assert "fallow pool resize default" in refused("name-taken", "10.87.0.0/16", found=snapshot(pool))


def change(pool: Pool, *others: Any, **wish: Any) -> Pool:
    return changed_pool(snapshot(pool, *others), pool, PoolChange(**wish), OWN, NOW + 1)


def test_a_pool_grows_and_never_shrinks() -> None:
    pool = made("10.86.4.0/24")
    grown = change(pool, cidr="10.86.0.0/16", quarantine_seconds=5.0, agent_port=9455)
    assert (grown.cidr, grown.quarantine_seconds, grown.agent_port, grown.updated_at) == (
        "10.86.0.0/16", 5.0, 9455, NOW + 1,
    )  # fmt: skip
    assert change(pool, cidr="10.86.4.0/24") is pool
    for cidr in ("10.86.4.0/25", "10.86.5.0/24", "fd00::/64"):
        with pytest.raises(PoolRefused) as caught:
            change(pool, cidr=cidr)
        assert caught.value.code == "pool-shrinks"
        assert "10.86.4.0/23" in caught.value.hint
    for others, cidr, code in (
        ([made("10.86.5.0/24", name="other")], "10.86.0.0/16", "pool-overlaps"),
        ([member("web", lease=Lease(address="10.86.5.5"))], "10.86.0.0/16", "pool-has-members"),
        ([], "10.0.0.0/8", "pool-has-control-plane"),
    ):
        with pytest.raises(PoolRefused) as caught:
            change(pool, *others, cidr=cidr)
        assert caught.value.code == code
    with pytest.raises(PoolRefused):
        change(pool, agent_port=20000)


def test_a_pool_in_use_stays() -> None:
    pool = made()
    members = [member(f"m{number}", lease=Lease(address=f"10.86.0.{number}", pool="default")) for number in range(2, 9)]
    with pytest.raises(PoolRefused) as caught:
        check_unused(snapshot(pool, *members), pool)
    assert caught.value.detail == "m2, m3, m4, m5, m6 and 2 more have addresses of pool default"
    check_unused(snapshot(pool, member("other")), pool)
