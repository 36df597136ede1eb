"""Admission: one-shot tokens bound to keys, names, leases, renewal, and every refusal by its name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from admission_rig import NOW, Parts, admitting, csr_of, new_key
from cryptography import x509
from refusing import refused

from fallow.control.admission import Refused
from fallow.decide.plan import Step
from fallow.model.credentials import parse_join_credential
from fallow.model.labels import Variable
from fallow.model.members import Identity, JoinRequest, MemberState, RenewRequest, Role
from fallow.model.pools import PortRange
from fallow.store.contract import Conflict, StoreError


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with admitting(tmp_path / "ca", session_host="c.example") as found:
        yield found


def expiry(identity: Identity) -> float:
    return x509.load_pem_x509_certificate(identity.certificate_pem.encode()).not_valid_after_utc.timestamp()


async def test_join_makes_a_member(parts: Parts) -> None:
    key = new_key()
    token = await parts.token(labels={"zone": "a"})
    identity = await parts.join(token, key, function="web", hostname="Web_01.lan")
    member = parts.cache.snapshot().members[identity.member_id]
    assert (member.name, member.role, member.state, member.labels) == (
        "web-01",
        Role.NODE,
        MemberState.JOINING,
        {"zone": "a"},
    )
    assert (member.function, member.facts.hostname, member.lease.address) == ("web", "Web_01.lan", "10.0.0.5")
    assert member.certificate_expires_at == NOW + 86400
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"fallow://member/node/{member.id}"]
    assert (identity.ca_pem, identity.session_host, identity.lease) == (
        parts.authority.ca_pem,
        "c.example",
        member.lease,
    )
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert (stored.used, stored.used_at, stored.used_by) == (1, NOW, {})
    (kept,) = parts.joined_keys()
    assert (kept.id, kept.member_id, kept.token_id) == (member.key_sha256, member.id, stored.id)
    assert (member.requested_at, member.reported_at, member.observed_address) == (NOW, NOW, "10.0.0.5")
    assert not parts.cache.snapshot().registrations, "what is decided is forgotten"
    assert parts.reasons() == ["TokenCreated", "MemberJoined"]


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "x\r\nserver evil 10.0.0.1:80"])
async def test_join_with_hostile_variables_is_refused_and_uses_up_no_token(parts: Parts, value: str) -> None:
    token = await parts.token()
    variables = (Variable(name="rack", value=value),)
    said = await refused(parts.join(token, new_key(), variables=variables), 400, "bad-variable")
    assert "rack" in said
    assert said.isprintable()
    assert not parts.cache.snapshot().members
    assert (await parts.join(token, new_key())).member_id


async def test_join_takes_labels_from_the_token_alone(parts: Parts) -> None:
    said = (Variable(name="role", value="admin"), Variable(name="zone", value="b"))
    identity = await parts.join(await parts.token(labels={"zone": "a"}), new_key(), variables=said)
    member = parts.cache.snapshot().members[identity.member_id]
    assert (member.labels, member.variables) == ({"zone": "a"}, said)
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"token": "t", "csr_pem": "c", "role": "node", "labels": {"a": "b"}}, JoinRequest)


async def test_join_again_with_the_same_key_is_the_same_member(parts: Parts) -> None:
    key, token = new_key(), await parts.token()
    first = await parts.join(token, key)
    revision = parts.cache.revision
    parts.now += 7200  # long after the token's end: the answer was lost, the token was not
    again = await parts.join(token, key, hostname="renamed")
    assert (again.member_id, again.name, again.lease) == (first.member_id, first.name, first.lease)
    assert expiry(again) == expiry(first) == parts.member(first).certificate_expires_at == NOW + 86400
    assert parts.cache.revision == revision, "nothing had to be stored again"
    parts.now = NOW + 50_000  # more than half of the certificate's life
    late = await parts.join(token, key)
    assert expiry(late) == parts.member(first).certificate_expires_at == NOW + 50_000 + 86400
    assert parts.reasons()[-1] == "CertificateRenewed"
    said = await refused(parts.join(token, new_key()), 403, "token-used")
    assert "box" in said


async def test_join_refuses_unfit_tokens(parts: Parts) -> None:
    key, token = new_key(), await parts.token()
    wrong = token.replace(token.split(".")[2], "x" * 32)
    unknown = token.replace(token.split(".")[1], "nobody")
    answers = {await refused(parts.join(bad, key), 403, "token-unknown") for bad in (wrong, unknown)}
    (said,) = answers
    assert not any(part in said for part in token.split("."))
    await refused(parts.join(token[:-1], key), 400, "token-malformed")
    await refused(parts.join("fallow-api.a.b", key), 400, "token-malformed")
    other = token.replace(parts.authority.ca_sha256, "0" * 64)
    await refused(parts.join(other, key), 403, "wrong-ca")
    said = await refused(parts.join(token, key, role=Role.GATEWAY), 403, "token-role")
    assert "--role gateway" in said
    parts.now = NOW + 1800
    said = await refused(parts.join(token, key), 403, "token-expired")
    assert "expired at 2027-01-15 08:30:00 UTC" in said
    await parts.tokens.revoke(parse_join_credential(token).token_id, "api:test")
    await refused(parts.join(token, key), 403, "token-revoked")
    assert not parts.cache.snapshot().members


async def test_join_refuses_bad_requests_and_keeps_the_token(parts: Parts) -> None:
    token = await parts.token()
    await refused(parts.join(token, new_key(), csr_pem="x"), 400, "bad-csr")
    await refused(parts.join(token, new_key(), address="nowhere"), 400, "bad-address")
    for name in ("UPPER", "-a", "a_b", "a" * 41, "a\n", "a.b", "web-1.node.fallow.internal", "*", "a;b", "é"):
        await refused(parts.join(token, new_key(), name=name), 400, "name-invalid")
    await parts.join(token, new_key(), name="fine")


async def test_join_of_a_key_that_is_a_member_already(parts: Parts) -> None:
    key = new_key()
    first, second = await parts.token(), await parts.token()
    await parts.join(first, key)
    assert "box" in await refused(parts.join(second, key), 409, "key-known")


async def test_join_after_removal_is_final(parts: Parts) -> None:
    key, token = new_key(), await parts.token(uses=2)
    identity = await parts.join(token, key)
    await parts.applier.commit(Step(deletes=(parts.cache.snapshot().members[identity.member_id],)))
    await refused(parts.join(token, key), 403, "member-removed")
    renewal = RenewRequest(member_id=identity.member_id, csr_pem=csr_of(key))
    await refused(parts.admission.renew(renewal), 403, "member-removed")


async def test_join_names(parts: Parts) -> None:
    token = await parts.token(uses=9)
    names = [(await parts.join(token, new_key(), hostname=name)).name for name in ("a", "a", "a.b", "7", "", "é")]
    assert names == ["a", "a-2", "a-3", "node-7", "node", "node-2"]
    other = await parts.join(token, new_key())
    await refused(parts.join(token, new_key(), name=other.member_id), 409, "name-taken")
    said = await refused(parts.join(token, new_key(), name="a-2"), 409, "name-taken")
    assert "fallow node remove a-2" in said


async def test_nodes_of_one_address_share_no_ports(parts: Parts) -> None:
    token, gate = await parts.token(uses=20), await parts.token(role="gateway")
    await parts.join(gate, new_key(), role=Role.GATEWAY)
    leases = [(await parts.join(token, new_key())).lease for _ in range(10)]
    assert [lease.host_ports.first for lease in leases] == list(range(20000, 30000, 1000))
    assert leases[-1].host_ports == PortRange(first=29000, last=29999)
    await refused(parts.join(token, new_key()), 409, "ports-exhausted")
    elsewhere = await parts.join(token, new_key(), address="10.0.0.6")
    assert elsewhere.lease.host_ports.first == 20000
    third = next(found for found in parts.cache.snapshot().members.values() if found.lease == leases[2])
    await parts.applier.commit(Step(deletes=(third,)))
    assert (await parts.join(token, new_key())).lease == leases[2]


async def test_many_joins_at_once_use_the_token_exactly_as_often_as_allowed(parts: Parts) -> None:
    token = await parts.token(uses=5)
    done = await asyncio.gather(*(parts.join(token, new_key()) for _ in range(12)), return_exceptions=True)
    joined = [one for one in done if not isinstance(one, BaseException)]
    assert len(joined) == 5
    assert len({one.name for one in joined}) == len({one.lease.host_ports.first for one in joined}) == 5
    assert {one.problem.type for one in done if isinstance(one, Refused)} == {"urn:fallow:token-used"}


async def test_machines_that_join_together_share_commits_and_nothing_else(parts: Parts) -> None:
    """A commit for each would store the token of a fleet as often as it has machines."""
    token = await parts.token(uses=40)
    before = parts.cache.revision
    bad = parts.join(token, new_key(), name="Not A Name")
    twins = [parts.join(token, new_key(), name="twin") for _ in range(2)]
    done = await asyncio.gather(*(parts.join(token, new_key()) for _ in range(9)), bad, *twins, return_exceptions=True)
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert parts.cache.revision - before <= 11 + 3, "one for each machine, and very few that decide"
    codes = [found.problem.type for found in done if isinstance(found, Refused)]
    assert codes == ["urn:fallow:name-invalid", "urn:fallow:name-taken"]
    members = parts.cache.snapshot().members.values()
    assert len({member.name for member in members}) == len({member.lease.host_ports.first for member in members}) == 10
    assert {member.id for member in members} == {found.member_id for found in done if not isinstance(found, Refused)}
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert stored.used == 10
    assert {key.id: key.member_id for key in parts.joined_keys()} == {
        member.key_sha256: member.id for member in members
    }


async def test_a_failed_commit_is_told_to_one_and_tried_again_for_the_others(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, commit = await parts.token(uses=3), parts.applier.commit
    fails = iter([True])

    async def failing(step: Step) -> int:
        if next(fails, False):
            raise StoreError("no answer")
        return await commit(step)

    monkeypatch.setattr(parts.applier, "commit", failing)
    calls = (parts.join(token, new_key()) for _ in range(3))
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(found, StoreError) for found in done] == [True, False, False]
    assert len(parts.cache.snapshot().members) == 2


async def test_two_control_planes_cannot_use_a_token_twice(parts: Parts) -> None:
    """The token's revision guards its uses even where the lock does not reach."""
    other = Parts(parts.cache, parts.applier, parts.authority, parts.settings, parts.store)
    token = await parts.token()
    calls = (parts.join(token, new_key()), other.join(token, new_key()))
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Identity", "Refused"]
    assert len(parts.cache.snapshot().members) == 1


async def test_renewal_of_an_expired_certificate(parts: Parts) -> None:
    key = new_key()
    identity = await parts.join(await parts.token(), key)
    parts.now += 30 * 86400
    renewed = await parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem=csr_of(key)))
    assert (renewed.member_id, renewed.name) == (identity.member_id, identity.name)
    certificate = x509.load_pem_x509_certificate(renewed.certificate_pem.encode())
    assert certificate.not_valid_after_utc.timestamp() == parts.now + 86400
    assert parts.reasons()[-1] == "CertificateRenewed"


async def test_renewal_with_another_key(parts: Parts) -> None:
    identity = await parts.join(await parts.token(), new_key())
    await refused(
        parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem=csr_of(new_key()))),
        403,
        "key-mismatch",
    )
    await refused(parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem="x")), 400, "bad-csr")


async def test_renewal_survives_changes_meanwhile(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    identity = await parts.join(await parts.token(), key)
    commit, collisions = parts.applier.commit, []

    async def collide(step: Step) -> int:
        if len(collisions) < 2:
            collisions.append(step)
            member = parts.cache.snapshot().members[identity.member_id]
            await commit(Step(puts=(msgspec.structs.replace(member, labels={"n": str(len(collisions))}),)))
        return await commit(step)

    monkeypatch.setattr(parts.applier, "commit", collide)
    await parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem=csr_of(key)))
    member = parts.cache.snapshot().members[identity.member_id]
    assert (member.labels, len(collisions)) == ({"n": "2"}, 2)


async def test_a_decision_is_stored_whole_or_not_at_all_and_made_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, commit, refusals = await parts.token(), parts.store.commit, []

    async def collide(checks: Any, writes: Any) -> int:
        keys = {write.key.partition("/")[0] for write in writes}
        if "members" in keys and len(refusals) < 2:
            refusals.append(keys)
            raise Conflict(["join-tokens/x"] if len(refusals) == 1 else [])
        return await commit(checks, writes)

    monkeypatch.setattr(parts.store, "commit", collide)
    await parts.join(token, new_key())
    assert refusals == [{"members", "member-keys", "join-tokens", "registrations", "events"}] * 2
    assert len(parts.cache.snapshot().members) == 1
