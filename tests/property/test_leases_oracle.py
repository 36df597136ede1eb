"""Leases against a slow oracle that looks at everything: unique, never from quarantine, exact, always the same."""

import ipaddress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from records import NOW, member, snapshot

from fallow.decide.leases import LeaseBook, LeaseRefused, LeaseWish, release
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Lease, Member, Role
from fallow.model.pools import NetworkMode, Pool, PortRange, ReleasedLease

OVERLAYS = {"v4": "10.86.0.0/29", "v6": "fd00:86::/125"}
PORTS = PortRange(first=20000, last=20003)
QUARANTINE = 100.0
BEHIND = {Role.NODE: "198.51.100.1", Role.GATEWAY: "198.51.100.2"}  # where members of overlays call from


def pool(name: str, cidr: str, mode: NetworkMode, **more: Any) -> Pool:
    return Pool(
        id=name, created_at=NOW, updated_at=NOW, revision=1, cidr=cidr, mode=mode, agent_port=8455, host_ports=PORTS,
        host_ports_per_node=2, quarantine_seconds=QUARANTINE, **more,
    )  # fmt: skip


POOLS = [
    pool("v4", OVERLAYS["v4"], NetworkMode.WIREGUARD),
    pool("v6", OVERLAYS["v6"], NetworkMode.WIREGUARD),
    pool("flat", "192.0.2.0/24", NetworkMode.DIRECT),
]

POOLS_BY_NAME = {one.id: one for one in POOLS}


@dataclass
class World:
    """What is stored; changed by replacing mappings, as a cache does."""

    members: dict[str, Member] = field(default_factory=dict)
    released: dict[str, ReleasedLease] = field(default_factory=dict)
    now: float = NOW
    count: int = 0

    def snapshot(self) -> Snapshot:
        return Snapshot(
            revision=1, pools=POOLS_BY_NAME, members=dict(self.members), released_leases=dict(self.released)
        )  # fmt: skip

    def join(self, lease: Lease, role: Role) -> None:
        self.count += 1
        source = lease.address if lease.pool == "flat" else BEHIND[role]
        one = member(f"m{self.count}", lease=lease, role=role, observed_address=source)
        self.members[one.id] = one

    def remove(self, position: int) -> None:
        if self.members:
            gone = list(self.members)[position % len(self.members)]
            for lease in release(self.snapshot(), self.members[gone], self.now):
                self.released[lease.id] = msgspec.structs.replace(lease, revision=1)
            del self.members[gone]


def naive_overlay(world: World, given: list[Lease], name: str, wished: str) -> str | None:
    """Return the address that is right, by asking each in turn; None: a refusal is."""
    network = ipaddress.ip_network(OVERLAYS[name])
    hosts = list(network)[2:-1] if network.version == 4 else list(network)[2:]
    taken = {one.lease.address for one in world.members.values()} | {lease.address for lease in given}
    taken |= {lease.address for lease in world.released.values() if lease.until > world.now}
    free = [str(host) for host in hosts if str(host) not in taken]
    if wished:
        return wished if wished in free else None
    return free[0] if free else None


def naive_agent_port(world: World, given: list[tuple[Role, Lease]], name: str, role: Role) -> int:
    """Return the lowest port that no member of the overlay has behind the same address."""
    held = [(one.role, one.lease) for one in world.members.values()] + given
    taken = {lease.agent_port for other, lease in held if lease.pool == name and other is role}
    return next(port for port in range(8455, 9000) if port not in taken)


def naive_ports(world: World, given: list[tuple[Role, Lease]], source: str) -> PortRange | None:
    held = [(one.role, one.lease) for one in world.members.values()] + given
    taken = {
        port
        for role, lease in held
        if role is Role.NODE and lease.address == source
        for port in range(lease.host_ports.first, lease.host_ports.last + 1)
    }
    for lease in world.released.values():
        if lease.address == source and lease.until > world.now:
            taken |= set(range(lease.host_ports.first, lease.host_ports.last + 1))
    for first in range(PORTS.first, PORTS.last, 2):
        if not taken & {first, first + 1}:
            return PortRange(first=first, last=first + 1)
    return None


def check(world: World) -> None:
    """Never two members with one address of an overlay, one port of a node, or one agent's port where it is dialled."""
    overlay = [one.lease.address for one in world.members.values() if one.lease.mode is NetworkMode.WIREGUARD]
    assert len(set(overlay)) == len(overlay)
    agents = [(one.lease.address, one.lease.agent_port) for one in world.members.values()]
    assert len(set(agents)) == len(agents)
    dialled = [(one.lease.pool, one.observed_address, one.lease.agent_port) for one in world.members.values()]
    assert len(set(dialled)) == len(dialled), "behind one address each port leads to one member"
    ports = [
        (one.lease.address, port)
        for one in world.members.values()
        if one.role is Role.NODE
        for port in range(one.lease.host_ports.first, one.lease.host_ports.last + 1)
    ]
    assert len(set(ports)) == len(ports)


NUMBERS = st.integers(0, 9)
NO_WISH = st.just("")
ROLES = st.sampled_from([Role.NODE, Role.NODE, Role.GATEWAY])
WISHED = {
    "v4": NUMBERS.map(lambda number: f"10.86.0.{number}"),
    "v6": NUMBERS.map(lambda number: str(ipaddress.ip_address("fd00:86::") + number)),
}
JOINS = st.one_of(
    *(st.tuples(st.just(name), st.one_of(NO_WISH, NO_WISH, WISHED[name]), ROLES) for name in OVERLAYS),
    st.tuples(st.just("flat"), st.sampled_from(["192.0.2.1", "192.0.2.1", "192.0.2.2"]), ROLES),
)
MOSTLY = st.sampled_from([True, True, True, False])
BATCH = st.tuples(st.just("batch"), st.lists(st.tuples(JOINS, MOSTLY), min_size=1, max_size=4), MOSTLY)
REMOVE = st.tuples(st.just("remove"), st.integers(0, 3), st.none())
WAIT = st.tuples(st.just("wait"), st.sampled_from([1.0, 60.0, QUARANTINE, QUARANTINE, -30.0]), st.none())
SWEEP = st.tuples(st.just("sweep"), st.none(), st.none())
STEPS = st.one_of(BATCH, BATCH, BATCH, REMOVE, REMOVE, WAIT, SWEEP)


def join(world: World, book: LeaseBook, given: list[tuple[Role, Lease]], wish: Any) -> Lease | None:
    """Ask for one lease, and hold the answer against the oracle's."""
    name, text, role = wish
    leases = [lease for _, lease in given]
    if name == "flat":
        expected = naive_ports(world, given, text) if role is Role.NODE else PORTS
        asked = LeaseWish(role=role, source_address=text, pool=name)
    else:
        expected = naive_overlay(world, leases, name, text)
        asked = LeaseWish(role=role, source_address=BEHIND[role], address=text, pool=name)
    try:
        lease = book.allocate(asked)
    except LeaseRefused as refused:
        assert expected is None, refused.detail
        assert refused.hint
        return None
    assert (lease.host_ports if name == "flat" else lease.address) == expected
    assert name == "flat" or lease.agent_port == naive_agent_port(world, given, name, role)
    return lease


def of(name: str, text: str = "") -> Any:
    """Return a batch of one node that joins and is stored."""
    return ("batch", [((name, text, Role.NODE), True)], True)


GONE, LATER = ("remove", 0, None), ("wait", QUARANTINE, None)
HERE = of("flat", "192.0.2.1")


@settings(max_examples=150, deadline=None)
@example([of("v4"), GONE, of("v4"), LATER, of("v4")])
@example([of("v6"), of("v6"), GONE, of("v6"), LATER, ("sweep", None, None), of("v6")])
@example([("batch", [*of("v4")[1], *of("v4")[1]], False), of("v4")])
@example([HERE, GONE, HERE, HERE, LATER, HERE])
@given(st.lists(STEPS, min_size=6, max_size=25))
def test_leases_are_those_of_a_slow_oracle_whatever_happens(steps: list[Any]) -> None:
    world, carried = World(), None
    for kind, what, stored in steps:
        if kind == "remove":
            world.remove(what)
        elif kind == "wait":
            world.now += what
        elif kind == "sweep":
            world.released = {id_: lease for id_, lease in world.released.items() if lease.until > world.now}
        else:
            seen = world.snapshot()
            carried = LeaseBook(seen, world.now, before=carried)
            fresh = LeaseBook(seen, world.now)
            given: list[tuple[Role, Lease]] = []
            for wish, kept in what:
                lease = join(world, carried, given, wish)
                assert join(world, fresh, given, wish) == lease, "a carried book and a fresh one agree"
                if lease is not None and kept:
                    given.append((wish[2], lease))
                elif lease is not None:
                    carried.give_back(lease)
                    fresh.give_back(lease)
            if stored:  # otherwise the commit has failed, and nothing of it counts
                for role, lease in given:
                    world.join(lease, role)
            check(world)


@settings(max_examples=60, deadline=None)
@given(st.integers(24, 30), st.data())
def test_every_address_is_given_once_and_not_one_more(prefix: int, data: st.DataObject) -> None:
    overlay = pool("default", f"10.7.0.0/{prefix}", NetworkMode.WIREGUARD)
    book = LeaseBook(snapshot(overlay), NOW)
    size = 2 ** (32 - prefix) - 3
    wished = data.draw(st.sets(st.integers(2, size + 1), max_size=5))
    given = [
        book.allocate(
            LeaseWish(role=Role.NODE, source_address="192.0.2.1", address=f"10.7.0.{number}")
        ).address
        for number in wished
    ]  # fmt: skip
    assert given == [f"10.7.0.{number}" for number in wished]
    given += [
        book.allocate(LeaseWish(role=Role.NODE, source_address="192.0.2.1")).address for _ in range(size - len(wished))
    ]
    assert sorted(map(ipaddress.ip_address, given)) == list(ipaddress.ip_network(overlay.cidr))[2:-1]
    try:
        book.allocate(LeaseWish(role=Role.NODE, source_address="192.0.2.1"))
    except LeaseRefused as refused:
        assert refused.code == "pool-exhausted"
        assert f"{size} are leased" not in refused.detail or f"has {size} addresses" in refused.detail
    else:
        raise AssertionError("one more than there are")
