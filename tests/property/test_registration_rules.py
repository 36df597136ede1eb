"""Machines that ask in any order, over crashes at any moment: names, leases and uses of tokens stay unique."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from records import ids

from fallow.decide.leases import LeaseBook, LeaseDefaults
from fallow.decide.plan import Plan
from fallow.decide.registrations import Rules, admit
from fallow.decide.snapshot import Snapshot
from fallow.model.kinds import KIND_OF
from fallow.model.members import Facts, Member, Role
from fallow.model.meta import Record, is_name
from fallow.model.pools import PortRange
from fallow.model.registrations import MemberKey, Registration, RegistrationState
from fallow.model.tokens import Approve, JoinToken

NOW = 1_000_000.0
RULES = Rules(
    certificate_seconds=86400.0,
    max_records=126,
    max_bytes=64 * 1024,
)
LEASES = LeaseDefaults(host_ports=PortRange(first=20000, last=20399), host_ports_per_node=100)


def decided(snapshot: Snapshot, now: float, make: Callable[[], str], rules: Rules = RULES) -> Plan:
    return admit(snapshot, now, rules, LeaseBook(snapshot, now, LEASES), make)


@dataclass
class Stored:
    """What is stored, checked at every commit as the store checks it: by revision, whole or not at all."""

    records: dict[tuple[str, str], Record] = field(default_factory=dict)
    revision: int = 0

    def put(self, *records: Record) -> None:
        self.revision += 1
        for record in records:
            kind = KIND_OF[type(record)]
            self.records[kind, record.id] = msgspec.structs.replace(record, revision=self.revision)

    def snapshot(self) -> Snapshot:
        kinds = {"members": {}, "join_tokens": {}, "registrations": {}, "member_keys": {}, "revocations": {}}
        for (kind, id_), record in self.records.items():
            name = kind.replace("-", "_")
            if name in kinds:
                kinds[name][id_] = record
        return Snapshot(revision=self.revision, **kinds)

    def apply(self, plan: Plan) -> bool:
        for step in plan.steps:
            assert len(step.puts) + len(step.deletes) <= RULES.max_records
            expected = {(KIND_OF[type(one)], one.id): one.revision for one in (*step.puts, *step.deletes)}
            assert len(expected) == len(step.puts) + len(step.deletes), "nothing is written twice in one commit"
            found = {key: self.records[key].revision if key in self.records else 0 for key in expected}
            if found != expected:
                return False
            self.put(*step.puts)
            for record in step.deletes:
                del self.records[KIND_OF[type(record)], record.id]
        return bool(plan.steps)


def token(number: int, uses: int, **more: object) -> JoinToken:
    values = {"id": f"t{number}", "created_at": NOW, "updated_at": NOW, "secret_sha256": "", "role": Role.NODE}
    return JoinToken(**(values | {"uses": uses, "expires_at": NOW + 1e6} | more))


def asks(key: int, token_id: str, address: str, name: str = "", hostname: str = "box") -> Registration:
    return Registration(
        id=f"k{key:05d}", created_at=NOW + key % 7, updated_at=NOW, token_id=token_id, role=Role.NODE, name=name,
        facts=Facts(hostname=hostname), source_address=address, sent_at=NOW,
    )  # fmt: skip


def check(stored: Stored) -> None:
    """Check everything that must hold after any commit."""
    snapshot = stored.snapshot()
    members = list(snapshot.members.values())
    assert len({member.name for member in members}) == len(members)
    assert not {member.name for member in members} & snapshot.members.keys()
    assert all(is_name(member.name) for member in members)
    ports = {(m.lease.address, port) for m in members for port in (m.lease.host_ports.first, m.lease.host_ports.last)}
    assert len(ports) == 2 * len(members)
    keys = snapshot.member_keys
    assert all(keys[member.key_sha256].member_id == member.id for member in members)
    for key in keys.values():
        current = snapshot.members.get(key.member_id)
        accepted = current is not None and current.key_sha256 == key.id
        assert accepted != (key.id in snapshot.revocations), "a key is either accepted, or on record as ended"
    for one in snapshot.join_tokens.values():
        used = sum(key.token_id == one.id for key in keys.values())
        waiting = sum(
            found.token_id == one.id and (found.state is RegistrationState.PENDING or found.approved_by != "")
            for found in snapshot.registrations.values()
        )
        assert one.used == used + waiting <= one.uses, (one, used, waiting)


REQUESTS = st.tuples(
    st.integers(0, 40),  # key
    st.integers(0, 3),  # token
    st.integers(1, 3),  # address
    st.sampled_from(["", "", "web", "db"]),
    st.sampled_from(["ask", "ask", "ask", "decide", "decide stale", "approve", "later"]),
)


@given(st.lists(REQUESTS, max_size=80), st.lists(st.integers(1, 20), min_size=4, max_size=4))
def test_whatever_order_nothing_is_given_twice(requests: list[tuple[int, int, int, str, str]], uses: list[int]) -> None:
    stored, make, now = Stored(), ids(), NOW + 10
    kinds = ({}, {"approve": Approve.MANUAL}, {"name": "fixed"}, {"revoked": True})
    for number, more in enumerate(kinds):
        stored.put(token(number, 1 if "name" in more else uses[number], **more))
    stale = stored.snapshot()
    for key, number, address, name, what in requests:
        snapshot = stored.snapshot()
        if what == "ask" and f"k{key:05d}" not in {**snapshot.registrations, **snapshot.member_keys}:
            stored.put(asks(key, f"t{number}", f"10.0.0.{address}", name))
        elif what == "approve":
            for found in list(snapshot.registrations.values())[:2]:
                if found.state is RegistrationState.PENDING:
                    approved = msgspec.structs.replace(found, state=RegistrationState.WAITING, approved_by="api:a")
                    stored.put(approved)
        elif what == "later":
            now += 90_000
        elif what.startswith("decide"):
            stored.apply(decided(stale if what.endswith("stale") else snapshot, now, make))
            stale = snapshot
        check(stored)
    for _ in range(200):
        if not stored.apply(decided(stored.snapshot(), now, make)):
            break
        check(stored)
    waiting = [one for one in stored.snapshot().registrations.values() if one.state is RegistrationState.WAITING]
    assert not waiting, "everybody is told in the end"


def test_joins_over_crashes_give_nothing_twice() -> None:
    drill(joins=2000, crashes=300, records=26)


def drill(joins: int, crashes: int, records: int) -> None:
    """Let so many machines join over so many crashes of whoever decides, each step with at most `records` records.

    A crash before a commit loses it; one after it loses the answer, and the machines ask again.
    """
    chance, stored, make = Random(4), Stored(), ids()
    rules = dataclasses.replace(RULES, max_records=records)
    stored.put(token(0, 100_000))
    told: dict[str, str] = {}
    asking, crashed = list(range(joins)), 0
    while asking:
        batch, asking = asking[:60], asking[60:]
        for key in batch:
            if (found := stored.records.get(("member-keys", f"k{key:05d}"))) is not None:
                assert isinstance(found, MemberKey)
                assert told.setdefault(f"k{key:05d}", found.member_id) == found.member_id
            elif ("registrations", f"k{key:05d}") not in stored.records:
                stored.put(asks(key, "t0", f"10.{key // 800}.{key % 200}.{1 + key % 3}", hostname="box"))
        before = stored.snapshot()
        while (plan := decided(stored.snapshot(), NOW + 10, make, rules)).steps:
            crash = crashed < crashes and chance.random() < 0.7
            crashed += crash
            if crash and chance.random() < 0.5:
                continue  # killed before the commit: the next leader decides anew
            assert stored.apply(plan)
            assert not crash or not stored.apply(plan), "an outcome nobody knew: the same step again is refused"
        stored.apply(decided(before, NOW + 10, make, rules))  # somebody who led before, and does not know it
        asking += [key for key in batch if chance.random() < 0.1]  # their answers were lost
    assert crashed == crashes
    assert sum(isinstance(record, Member) for record in stored.records.values()) == joins
    check(stored)
