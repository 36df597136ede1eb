"""Leases by hand: which pool is meant, what is refused and in which words, and what is released."""

import ipaddress
from typing import Any

import pytest
from records import NOW, member, snapshot

from fallow.decide.garbage import sweep
from fallow.decide.leases import LeaseBook, LeaseRefused, LeaseWish, follow_pools, leases_of, release
from fallow.decide.leases.index import LeaseIndex
from fallow.decide.pools import changed_pool, usages
from fallow.model.members import Lease, Role
from fallow.model.pools import NetworkMode, Pool, PoolChange, PortRange

OUT = "198.51.100.7"


def pool(name: str = "default", cidr: str = "10.86.0.0/24", mode: str = "wireguard", **more: Any) -> Pool:
    return Pool(
        id=name, created_at=NOW, updated_at=NOW, revision=3, cidr=cidr, mode=NetworkMode(mode), **more
    )  # fmt: skip


def ask(book: LeaseBook, source: str = OUT, address: str = "", name: str = "", role: Role = Role.NODE) -> Lease:
    return book.allocate(LeaseWish(role=role, source_address=source, address=address, pool=name))


def refused(code: str, *given: Any, **named: Any) -> LeaseRefused:
    with pytest.raises(LeaseRefused) as caught:
        ask(*given, **named)
    assert caught.value.code == code, caught.value.detail
    assert caught.value.hint
    return caught.value


def test_without_pools_the_address_is_where_the_request_came_from() -> None:
    book = LeaseBook(snapshot(member("gate", role=Role.GATEWAY, lease=Lease(address=OUT, agent_port=8455))), NOW)
    first = ask(book)
    assert (first.address, first.pool, first.prefix_length) == (OUT, "", 0)
    assert first.host_ports == PortRange(first=20000, last=20999), "a gateway's ports are not a node's"
    assert first.agent_port == 8456, "another member at this address has the first"
    assert ask(book).host_ports.first == 21000
    assert ask(book, "192.0.2.9").agent_port == 8455
    assert book.guards == ()


def test_an_overlay_gives_the_lowest_free_address_and_all_ports() -> None:
    taken = [member(f"m{number}", lease=Lease(address=f"10.86.0.{number}", pool="default")) for number in (2, 3, 5)]
    one = pool()
    book = LeaseBook(snapshot(one, *taken), NOW)
    lease = ask(book)
    assert lease == Lease(
        address="10.86.0.4", host_ports=PortRange(), agent_port=8455, pool="default", mode=NetworkMode.WIREGUARD,
        prefix_length=24,
    )  # fmt: skip
    assert [ask(book).address, ask(book, role=Role.GATEWAY).address] == ["10.86.0.6", "10.86.0.7"]
    assert book.guards == (one,)


def test_an_address_that_an_outsider_has_is_not_given() -> None:
    book = LeaseBook(snapshot(pool(), member("a", lease=Lease(address="10.86.0.2"))), NOW)
    assert ask(book).address == "10.86.0.3"


def test_an_ipv6_network_is_not_walked_through() -> None:
    book = LeaseBook(snapshot(pool(cidr="fd00:86::/64")), NOW)
    assert [ask(book).address for _ in range(3)] == ["fd00:86::2", "fd00:86::3", "fd00:86::4"]
    assert ask(book, address="fd00:86::ffff:ffff:ffff:ffff").address == "fd00:86::ffff:ffff:ffff:ffff"
    assert ask(book, address="FD00:86::00a").address == "fd00:86::a", "as everybody writes it"


def test_a_carried_book_does_not_look_at_every_address_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start = ipaddress.ip_address("10.86.0.0")
    members = [member(f"m{number}", lease=Lease(address=str(start + number))) for number in range(2, 3000)]
    found = snapshot(pool(cidr="10.86.0.0/16"), *members)
    looks = 0
    is_free = LeaseIndex.is_free

    def counted(index: LeaseIndex, address: str) -> bool:
        nonlocal looks
        looks += 1
        return is_free(index, address)

    monkeypatch.setattr(LeaseIndex, "is_free", counted)
    book = LeaseBook(found, NOW)
    first = ask(book).address
    assert looks > 2900
    looks = 0
    assert [ask(book).address for _ in range(2)] == [str(start + 3001), str(start + 3002)]
    assert ask(LeaseBook(found, NOW, before=book)).address == first == str(start + 3000)
    assert looks < 10


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.86.0.0", "address-reserved"),
        ("10.86.0.1", "address-reserved"),  # the control plane's own
        ("10.86.0.255", "address-reserved"),
        ("10.86.0.5", "address-taken"),
        ("10.86.0.6", "address-quarantined"),
        ("10.87.0.5", "address-outside-pool"),
        ("127.0.0.1", "address-outside-pool"),
        ("169.254.169.254", "address-outside-pool"),
        ("0.0.0.0", "address-outside-pool"),
        ("224.0.0.1", "address-outside-pool"),
        ("::1", "address-outside-pool"),
        ("fe80::1", "address-outside-pool"),
        ("fe80::1%eth0", "bad-address"),
        ("::ffff:10.86.0.5", "address-taken"),
        ("10.86.0.007", "bad-address"),
        ("10.86.0.9\n", "bad-address"),
        ("10.86.0.9/24", "bad-address"),
        ("localhost", "bad-address"),
        ("9" * 4000, "bad-address"),
    ],
)
def test_a_claimed_address_that_is_not_to_be_had(address: str, code: str) -> None:
    gone = member("gone", lease=Lease(address="10.86.0.6", pool="default", mode=NetworkMode.WIREGUARD))
    before = snapshot(pool(), gone)
    found = snapshot(
        pool(), member("web", lease=Lease(address="10.86.0.5", pool="default")), *release(before, gone, NOW)
    )
    said = refused(code, LeaseBook(found, NOW), address=address)
    assert len(said.detail) < 200
    if code == "address-taken":
        assert "web" in said.detail
    if code == "address-quarantined":
        assert "given up by gone" in said.detail
        assert "1970-01-12 14:46:40 UTC" in said.detail


@pytest.mark.parametrize("address", ["10.0.0.9", "127.0.0.1", "169.254.169.254", "192.0.2.1"])
def test_in_direct_mode_nobody_has_another_address_than_its_own(address: str) -> None:
    book = LeaseBook(snapshot(pool(cidr="192.0.2.0/24", mode="direct")), NOW)
    said = refused("address-not-its-own", book, "192.0.2.7", address=address)
    assert address in said.detail
    assert "192.0.2.7" in said.detail
    assert refused("address-not-its-own", LeaseBook(snapshot(), NOW), "192.0.2.7", address=address)
    assert ask(book, "192.0.2.7", address="192.0.2.7").address == "192.0.2.7"


def test_a_direct_pool_takes_addresses_of_its_network_only() -> None:
    book = LeaseBook(snapshot(pool("rack", "192.0.2.0/24", "direct")), NOW)
    lease = ask(book, "192.0.2.7")
    assert (lease.address, lease.pool, lease.prefix_length) == ("192.0.2.7", "rack", 24)
    assert lease.host_ports == PortRange(first=20000, last=20999)
    said = refused("address-outside-pool", book, OUT)
    assert OUT in said.detail
    assert "192.0.2.0/24" in said.detail
    assert ask(book, OUT, role=Role.GATEWAY).pool == "", "a gateway may stand outside"


def test_calling_from_inside_an_overlay_is_refused() -> None:
    """A container on a node would have the node's overlay address taken for its own."""
    found = snapshot(pool(), pool("rack", "192.0.2.0/24", "direct"))
    for role in (Role.NODE, Role.GATEWAY):
        assert "10.86.0.9" in refused("source-in-overlay", LeaseBook(found, NOW), "10.86.0.9", role=role).detail


def test_which_pool_is_meant() -> None:
    rack, hall = pool("rack", "192.0.2.0/24", "direct"), pool("hall", "203.0.113.0/24", "direct")
    other = pool("other", "10.87.0.0/24")
    book = LeaseBook(snapshot(rack, hall), NOW)
    assert [ask(book, source).pool for source in ("192.0.2.4", "203.0.113.4")] == ["rack", "hall"]
    assert "hall, rack" in refused("pool-none-fits", book).detail
    assert ask(LeaseBook(snapshot(rack, other), NOW)).pool == "other"
    assert ask(LeaseBook(snapshot(rack, other), NOW), "192.0.2.4").pool == "rack"
    assert ask(LeaseBook(snapshot(rack, other, pool()), NOW), "192.0.2.4").pool == "default"
    unclear = LeaseBook(snapshot(other, pool("third", "10.88.0.0/24")), NOW)
    assert "other, third" in refused("pool-unclear", unclear).detail
    assert ask(unclear, name="third").address == "10.88.0.2"
    assert "other, third" in refused("pool-unknown", unclear, name="fourth").detail
    assert "none" in refused("pool-unknown", LeaseBook(snapshot(), NOW), name="x").detail


def test_exhaustion_says_who_has_them_until_when_and_what_to_do() -> None:
    small = pool(cidr="10.86.0.0/29", quarantine_seconds=60.0)
    gone = member("gone", lease=Lease(address="10.86.0.4", pool="default", mode=NetworkMode.WIREGUARD))
    held = [member(f"m{number}", lease=Lease(address=f"10.86.0.{number}", pool="default")) for number in (2, 3)]
    found = snapshot(
        small, *held, member("odd", lease=Lease(address="10.86.0.5")), *release(snapshot(small), gone, NOW)
    )
    book = LeaseBook(found, NOW)
    assert ask(book).address == "10.86.0.6"
    said = refused("pool-exhausted", book)
    assert said.detail == (
        "pool default (10.86.0.0/29) has 5 addresses: 3 are leased; 1 in quarantine, the first until "
        "1970-01-12 13:47:40 UTC; 1 in use elsewhere"
    )
    assert "fallow pool create NAME --cidr CIDR --mode wireguard" in said.hint
    assert "fallow pool resize default --cidr 10.86.0.0/28" in said.hint
    later = LeaseBook(found, NOW + 60, before=book)
    assert [ask(later).address, ask(later).address] == ["10.86.0.4", "10.86.0.6"]


def test_what_is_given_back_is_given_again_and_nothing_else() -> None:
    book = LeaseBook(snapshot(pool(cidr="10.86.0.0/29")), NOW)
    first, second, _third = ask(book), ask(book), ask(book)
    book.give_back(first)
    assert ask(book) == first
    book.give_back(second)
    assert [ask(book), ask(book).address, ask(book).address] == [second, "10.86.0.5", "10.86.0.6"]
    refused("pool-exhausted", book)


def test_quarantine_of_direct_mode_is_of_ports_and_not_of_the_machine() -> None:
    rack = pool("rack", "192.0.2.0/24", "direct")
    book = LeaseBook(snapshot(rack), NOW)
    gone = member("gone", lease=ask(book, "192.0.2.7"))
    (kept,) = release(snapshot(rack, gone), gone, NOW)
    found = snapshot(rack, kept)
    again = ask(LeaseBook(found, NOW), "192.0.2.7")
    assert (again.host_ports.first, again.agent_port) == (21000, 8456)
    assert ask(LeaseBook(found, NOW + 3600), "192.0.2.7").host_ports.first == 20000
    gate = member("gate", role=Role.GATEWAY, lease=ask(book, "192.0.2.8", role=Role.GATEWAY))
    assert release(snapshot(rack, gate), gate, NOW) == (), "nothing was given to it"
    outsider = member("outsider")
    assert release(snapshot(rack, outsider), outsider, NOW) == ()


def test_release_without_quarantine_and_once_more_after_one() -> None:
    at_once = pool(quarantine_seconds=0.0)
    one = member("one", lease=Lease(address="10.86.0.2", pool="default", mode=NetworkMode.WIREGUARD))
    assert release(snapshot(at_once, one), one, NOW) == ()
    (kept,) = release(snapshot(pool(), one), one, NOW)
    assert (kept.until, kept.member, kept.revision) == (NOW + 3600, "one", 0)
    stored = kept.__class__(**{field: getattr(kept, field) for field in kept.__struct_fields__} | {"revision": 7})
    (again,) = release(snapshot(pool(), one, stored), one, NOW + 7200)
    assert (again.id, again.revision, again.until) == (kept.id, 7, NOW + 10800)
    assert not sweep(snapshot(pool(), stored), NOW + 3599).steps
    assert [step.deletes for step in sweep(snapshot(pool(), stored), NOW + 3600).steps] == [(stored,)]


def test_leases_follow_a_pool_that_grows() -> None:
    one = member("one", lease=Lease(address="10.86.0.2", pool="default", mode=NetworkMode.WIREGUARD, prefix_length=24))
    loner = member("loner")
    assert not follow_pools(snapshot(pool(), one, loner), NOW).steps
    grown = changed_pool(snapshot(pool(), one), pool(), PoolChange(cidr="10.86.0.0/16"), (), NOW)
    (step,) = follow_pools(snapshot(grown, one, loner), NOW).steps
    (after,) = step.puts
    assert (after.lease.address, after.lease.prefix_length, step.guards) == ("10.86.0.2", 16, (grown,))  # type: ignore[attr-defined]
    carried = LeaseBook(snapshot(grown, one), NOW, before=LeaseBook(snapshot(pool(), one), NOW))
    assert ask(carried, address="10.86.200.1").prefix_length == 16


def test_what_a_pool_holds_is_listed_by_address() -> None:
    def leased(name: str, address: str) -> Any:
        return member(name, lease=Lease(address=address, pool="default", mode=NetworkMode.WIREGUARD))

    gone = leased("gone", "10.86.0.9")
    found = snapshot(pool(), leased("b", "10.86.0.10"), leased("a", "10.86.0.2"), *release(snapshot(pool()), gone, NOW))
    assert [(one.address, one.member, one.state) for one in leases_of(found, "default", NOW)] == [
        ("10.86.0.2", "a", "leased"),
        ("10.86.0.9", "gone", "quarantined"),
        ("10.86.0.10", "b", "leased"),
    ]
    use = usages(found, NOW)["default"]
    assert (use.size, use.used, use.quarantined, use.free) == (253, 2, 1, 250)
    assert usages(found, NOW + 3600)["default"].quarantined == 0
    wide = usages(snapshot(pool(cidr="fd00:86::/48")), NOW)["default"]
    assert wide.size == wide.free == 2**53 - 1


def test_members_of_an_overlay_behind_one_address_have_ports_of_their_own() -> None:
    near = member("near", lease=Lease(address="10.86.0.3", agent_port=8455, pool="default", mode=NetworkMode.WIREGUARD),
                  observed_address=OUT)  # fmt: skip
    taken = pool(host_ports=PortRange(first=8456, last=9000), host_ports_per_node=10)
    book = LeaseBook(snapshot(taken, near), NOW)
    first, second = ask(book, OUT), ask(book, OUT)
    assert (first.agent_port, second.agent_port) == (9001, 9002), "and none that a container could be published at"
    assert ask(book, "192.0.2.77").agent_port == 8455, "elsewhere the same port is somebody else's"
    book.give_back(first)
    assert ask(book, OUT).agent_port == 9001


def test_who_calls_from_elsewhere_by_now_has_its_port_there() -> None:
    near = member("near", lease=Lease(address="10.86.0.3", agent_port=8455, pool="default", mode=NetworkMode.WIREGUARD),
                  observed_address=OUT)  # fmt: skip
    before = LeaseBook(snapshot(pool(), near), NOW)
    far = member("near", lease=near.lease, observed_address="192.0.2.77")
    book = LeaseBook(snapshot(pool(), far), NOW, before=before)
    assert (ask(book, OUT).agent_port, ask(book, "192.0.2.77").agent_port) == (8455, 8456)
    gone = LeaseBook(snapshot(pool()), NOW, before=book)
    assert ask(gone, "192.0.2.77").agent_port == 8455
