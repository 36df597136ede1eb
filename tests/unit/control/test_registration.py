"""Registration in two steps: hostile bundles, approval, replacement, and whoever is killed in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from admission_rig import NOW, Parts, admitting, csr_of, new_key
from bundles import bundle
from refusing import refused

from fallow.control import admission as admission_module
from fallow.control.admission import Admission, Refused
from fallow.control.registrations import registrations_controller
from fallow.decide.plan import Step
from fallow.decide.registrations import PENDING_SECONDS
from fallow.model.credentials import parse_join_credential
from fallow.model.labels import Variable
from fallow.model.members import Facts, Identity, RenewRequest
from fallow.model.peers import ControlAddress, Peer
from fallow.model.registrations import Approval, JoinWaiting, RegistrationState, Rejection, SignedBundle
from fallow.model.tokens import Approve, TokenChange, TokenRequest


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with admitting(tmp_path / "ca", public_url="https://10.0.0.1:7443") as found:
        yield found


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


# forged, cut off, replayed


async def test_a_bundle_that_its_key_has_not_signed_is_stored_nowhere(parts: Parts) -> None:
    token, key, thief = await parts.token(), new_key(), new_key()
    good = bundle(token, key, sent_at=parts.now, name="web-1")
    before = parts.cache.revision
    changed = SignedBundle(bundle=good.bundle.replace("web-1", "web-2"), signature=good.signature)
    by_thief = SignedBundle(bundle=good.bundle, signature=bundle(token, thief, sent_at=parts.now).signature)
    others_csr = bundle(token, thief, csr_pem=csr_of(key), sent_at=parts.now)
    for signature in ("", "AAAA", "é", good.signature[:-8], good.signature + "AA=="):
        await refused(parts.admission.join(SignedBundle(bundle=good.bundle, signature=signature), "10.0.0.5"), 403,
                      "bundle-forged")  # fmt: skip
    for forged in (changed, by_thief, others_csr):
        await refused(parts.admission.join(forged, "10.0.0.5"), 403, "bundle-forged")
    for cut in ("", "{", good.bundle[:-1], good.bundle[:200], "[]", "null", "[" * 5000, good.bundle + "x"):
        signed = SignedBundle(bundle=cut, signature=good.signature)
        said = await refused(parts.admission.join(signed, "10.0.0.5"), 400, "bundle-malformed")
        assert parse_join_credential(token).secret not in said
    assert parts.cache.revision == before
    assert isinstance(await parts.admission.join(good, "10.0.0.5"), Identity)


async def test_a_replayed_bundle_changes_nothing(parts: Parts) -> None:
    token, key = await parts.token(), new_key()
    sent = bundle(token, key, sent_at=parts.now)
    first = await parts.admission.join(sent, "10.0.0.5")
    assert isinstance(first, Identity)
    revision = parts.cache.revision
    for source in ("10.0.0.5", "10.66.0.66"):
        again = await parts.admission.join(sent, source)
        assert isinstance(again, Identity)
        assert (again.member_id, again.lease) == (first.member_id, first.lease)
    assert parts.cache.revision == revision
    await parts.applier.commit(Step(deletes=(parts.member(first),)))
    await refused(parts.admission.join(sent, "10.66.0.66"), 403, "member-removed")


async def test_an_old_bundle_does_not_take_the_place_of_a_newer_one(parts: Parts) -> None:
    token, key = await parts.token(uses=2), new_key()
    await parts.join(token, new_key(), name="taken")
    old = bundle(token, key, sent_at=parts.now, name="taken")
    await refused(parts.admission.join(old, "10.0.0.5"), 409, "name-taken")
    revision = parts.cache.revision
    await refused(parts.admission.join(old, "10.0.0.5"), 409, "name-taken")
    assert parts.cache.revision == revision, "the same words are the same question"
    joined = await parts.admission.join(bundle(token, key, sent_at=parts.now + 1, name="free"), "10.0.0.5")
    assert isinstance(joined, Identity)
    again = await parts.admission.join(old, "10.0.0.5")
    assert isinstance(again, Identity)
    assert again.name == "free"


async def test_the_same_machine_twice_at_once_is_one_member(parts: Parts) -> None:
    token, key = await parts.token(uses=9), new_key()
    done = await asyncio.gather(*(parts.join(token, key) for _ in range(6)))
    assert len({one.member_id for one in done}) == len(parts.cache.snapshot().members) == 1
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert stored.used == 1


# what machines claim


@pytest.mark.parametrize(
    "claimed",
    [
        "127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0",
        "fd00:ec2::254", "224.0.0.1", "ff02::1", "0.0.0.0", "::", "255.255.255.255", "10.0.0.1", "10.0.0.2", "nonsense",
        "10.0.0.9; reboot", "10.0.0.9\n", "2001:db8::1%$(reboot)",
    ],
)  # fmt: skip
async def test_a_machine_is_not_where_it_cannot_be(parts: Parts, claimed: str) -> None:
    address = ControlAddress(url="https://10.0.0.2:7443", session_port=7444)
    peer = Peer(id="p", created_at=NOW, updated_at=NOW, address=address)
    await parts.applier.commit(Step(puts=(peer,)))
    token = await parts.token()
    said = await refused(parts.join(token, new_key(), temporary_address=claimed), 400, "address-claimed")
    assert "\n" not in said
    assert not parts.cache.snapshot().members


async def test_a_claimed_address_is_shown_and_never_the_lease(parts: Parts) -> None:
    token = await parts.token(uses=3)
    first = await parts.join(token, new_key(), address="10.0.0.7")
    liar = await parts.join(token, new_key(), address="10.0.0.8", temporary_address="10.0.0.7", temporary_port=22)
    member = parts.member(liar)
    assert (member.temporary_address, member.temporary_port, member.observed_address) == ("10.0.0.7", 22, "10.0.0.8")
    assert (member.lease.address, parts.member(first).lease.address) == ("10.0.0.8", "10.0.0.7")
    local = await parts.join(token, new_key(), address="127.0.0.1", temporary_address="127.0.0.1")
    assert parts.member(local).lease.address == "127.0.0.1", "where the request came from may be named"


async def test_a_machine_gets_no_address_but_its_own(parts: Parts) -> None:
    token = await parts.token()
    other = bundle(token, sent_at=NOW, address="10.0.0.9")
    said = await refused(parts.admission.join(other, "10.0.0.8"), 409, "address-not-its-own")
    assert "10.0.0.8" in said
    wished = await parts.admission.join(bundle(token, sent_at=NOW, address="10.0.0.8"), "10.0.0.8")
    assert isinstance(wished, Identity)
    assert wished.lease.address == "10.0.0.8"


@pytest.mark.parametrize("evil", ["a\nb", "a\x00b", "\x1b[2J", "a\rb", "\u202ea", "\u2028"])
async def test_text_that_nobody_can_read_is_refused(parts: Parts, evil: str) -> None:
    token = await parts.token()
    before = parts.cache.revision
    for told in (
        {"function": evil},
        {"facts": Facts(hostname=evil)},
        {"facts": Facts(engine=evil)},
    ):
        await refused(parts.join(token, new_key(), **told), 400, "bundle-unfit")
    said = (Variable(name="rack", value=evil),)
    await refused(parts.join(token, new_key(), variables=said), 400, "bad-variable")
    twice = (Variable(name="rack", value="a"), Variable(name="rack", value="b"))
    await refused(parts.join(token, new_key(), variables=twice), 400, "bad-variable")
    assert parts.cache.revision == before


async def test_printable_metacharacters_stay_what_they_are(parts: Parts) -> None:
    evil = "; reboot # $(id) `id` | & > <; set server b/s addr 1.2.3.4; ' \" \\"
    joined = await parts.join(await parts.token(), new_key(), variables=(Variable(name="note", value=evil),))
    assert parts.member(joined).variables == (Variable(name="note", value=evil),)


async def test_a_machine_gives_itself_no_labels_and_no_identity(parts: Parts) -> None:
    token, key = await parts.token(labels={"zone": "a"}), new_key()
    text = bundle(token, key, sent_at=NOW).bundle
    for field in ("labels", "id", "member_id", "lease", "scheduling", "approved_by"):
        forged = SignedBundle(bundle=text[:-1] + f',"{field}":{{}}}}', signature="")
        await refused(parts.admission.join(forged, "10.0.0.5"), 400, "bundle-malformed")
    variables = (Variable(name="zone", value="b"), Variable(name="secure", value="true"))
    joined = await parts.join(token, key, variables=variables)
    assert parts.member(joined).labels == {"zone": "a"}


async def test_bundles_are_bounded(parts: Parts) -> None:
    token = await parts.token()
    key = new_key()
    whole = msgspec.json.decode(bundle(token, key, sent_at=NOW).bundle)
    many = [{"name": f"v{number}", "value": "x"} for number in range(65)]
    for more in (
        {"function": "x" * 1025}, {"variables": many}, {"variables": [{"name": "a", "value": "x" * 257}]},
        {"variables": [{"name": "a.b\n", "value": ""}]}, {"variables": [{"name": "-a", "value": ""}]},
        {"variables": [{"name": "a b", "value": ""}]}, {"facts": {"hostname": "x" * 257}}, {"facts": {"cpus": -1}},
        {"csr_pem": "x" * 8193}, {"temporary_port": 65536}, {"temporary_address": "1" * 65}, {"name": "n" * 65},
        {"sent_at": -1.0},
    ):  # fmt: skip
        text = msgspec.json.encode({**whole, **more}).decode()
        await refused(
            parts.admission.join(SignedBundle(bundle=text, signature=""), "10.0.0.5"), 400, "bundle-malformed"
        )


async def test_a_clock_that_is_a_day_off_is_told_exactly(parts: Parts) -> None:
    token = await parts.token()
    behind = await refused(parts.join(token, new_key(), sent_at=NOW - 86400), 403, "clock-off")
    assert "off by 1d" in behind
    assert "behind" in behind
    assert "2027-01-14 08:00:00 UTC" in behind, "what it says"
    assert "2027-01-15 08:00:00 UTC" in behind, "what it is"
    assert "ahead" in await refused(parts.join(token, new_key(), sent_at=NOW + 86400), 403, "clock-off")
    assert not parts.cache.snapshot().registrations
    for off in (-299.0, 3600.0):  # its certificate would be valid all the same
        await parts.join(await parts.token(), new_key(), sent_at=NOW + off)


# tokens


async def test_tokens_are_for_a_network_and_may_fix_the_name(parts: Parts) -> None:
    token = await parts.token(networks=("10.1.0.0/16", "fd00::/8"), name="web-7")
    said = await refused(parts.join(token, new_key(), address="10.2.0.1"), 403, "token-network")
    assert "10.1.0.0/16" in said
    assert "10.2.0.1" in said
    joined = await parts.join(token, new_key(), address="10.1.2.3", name="mine", hostname="else")
    assert joined.name == "web-7"
    six = await parts.token(networks=("fd00::/8",))
    assert (await parts.join(six, new_key(), address="fd00::7")).lease.address == "fd00::7"
    for bad in ({"networks": ("10.0.0.1/8",)}, {"name": "a", "uses": 2}, {"pool": "none"}, {"replaces": "nobody"}):
        with pytest.raises(Refused):
            await parts.token(**bad)
    with pytest.raises(Refused, match="host bits"):
        await parts.token(networks=("10.0.0.1/8",))


async def test_a_token_is_extended_and_tells_what_used_it(parts: Parts) -> None:
    view = await parts.tokens.create(TokenRequest(role="node", uses=2), "api:boss")
    parts.now += 3600
    said = await refused(parts.join(view.secret or "", new_key()), 403, "token-expired")
    assert f"fallow token extend {view.id}" in said
    longer = await parts.tokens.extend(view.id, TokenChange(ttl_seconds=60), "api:boss")
    assert (longer.state, longer.expires_at) == ("valid", parts.now + 60)
    first = await parts.join(view.secret or "", new_key())
    await refused_now(parts.tokens.extend(view.id, TokenChange(ttl_seconds=1), "api:boss"), "token-longer")
    second = await parts.join(view.secret or "", new_key())
    shown = parts.tokens.show(view.id)
    assert (shown.created_by, shown.used_at, shown.uses, shown.uses_left) == ("api:boss", parts.now, 2, 0)
    assert {use.member_id: use.at for use in shown.used_by} == dict.fromkeys(
        (first.member_id, second.member_id), parts.now
    )
    said = await refused(parts.join(view.secret or "", new_key()), 403, "token-used")
    assert first.name in said
    assert second.name in said
    await refused_now(parts.tokens.extend(view.id, TokenChange(ttl_seconds=60), "api:boss"), "token-ended")
    await refused_now(parts.tokens.extend("nobody", TokenChange(ttl_seconds=60), "api:boss"), "not-found")
    assert "TokenExtended" in parts.reasons()


async def refused_now(call: Any, code: str) -> None:
    with pytest.raises(Refused) as caught:
        await call
    assert caught.value.problem.type == f"urn:fallow:{code}"


async def test_removed_and_back_with_other_labels(parts: Parts) -> None:
    """A node that is deleted must not come back as something else by what it says, or with its old key."""
    key, token = new_key(), await parts.token(uses=2, labels={"trust": "low"})
    first = await parts.join(token, key)
    await parts.applier.commit(Step(deletes=(parts.member(first),)))
    high = await parts.token(labels={"trust": "high"})
    for text in (token, high):
        await refused(parts.join(text, key, variables=(Variable(name="trust", value="high"),)), 403, "member-removed")
    again = await parts.join(token, new_key(), variables=(Variable(name="trust", value="high"),))
    assert again.member_id != first.member_id
    assert parts.member(again).labels == {"trust": "low"}


async def test_a_token_used_a_thousand_times_stays_small(parts: Parts) -> None:
    """What used it is told by records of their own."""
    token = await parts.token(uses=100_000)
    await asyncio.gather(*(parts.join(token, new_key(), address=f"10.1.0.{number + 1}") for number in range(50)))
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert stored.used == 50
    assert len(msgspec.msgpack.encode(stored)) < 600


# approval


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "APPROVAL_SECONDS", 0.02)


@pytest.mark.usefixtures("impatient")
async def test_a_person_lets_a_machine_in(parts: Parts) -> None:
    token, key = await parts.token(approve=Approve.MANUAL, labels={"zone": "a"}), new_key()
    waits = await parts.ask(token, key, hostname="box-1", function="web", temporary_address="10.9.9.9")
    assert isinstance(waits, JoinWaiting)
    (view,) = parts.registrations.pending()
    assert (view.name, view.role, view.source_address, view.temporary_address) == (
        "box-1", "node", "10.0.0.5", "10.9.9.9",
    )  # fmt: skip
    assert (view.function, view.labels, view.requested_at) == ("web", {"zone": "a"}, NOW)
    assert view.token_created_by == "api:test"
    await refused(parts.ask(token, new_key()), 403, "token-used")
    assert isinstance(await parts.ask(token, key, sent_at=NOW + 5), JoinWaiting), "asking again is no second wish"
    assert len(parts.registrations.pending()) == 1
    await refused(parts.registrations.approve("none", Approval(), "api:a"), 404, "not-found")
    await refused(parts.registrations.approve("box-1", Approval(name="No"), "api:a"), 400, "name-invalid")
    await parts.registrations.approve(view.id[:12], Approval(name="web-1", labels={"rack": "7"}), "api:ann")
    joined = await parts.join(token, key, sent_at=NOW + 9)
    member = parts.member(joined)
    assert (member.name, member.labels, member.observed_address) == ("web-1", {"zone": "a", "rack": "7"}, "10.0.0.5")
    assert parts.reasons() == ["TokenCreated", "ApprovalNeeded", "RegistrationApproved", "MemberJoined"]
    assert not parts.registrations.pending()


async def test_a_waiting_machine_is_told_at_once(parts: Parts) -> None:
    token, keys = await parts.token(approve=Approve.MANUAL, uses=2), [new_key(), new_key()]
    asking = [asyncio.create_task(parts.ask(token, key, hostname=f"box-{n}")) for n, key in enumerate(keys)]
    await until(lambda: len(parts.registrations.pending()) == 2)
    assert not any(task.done() for task in asking)
    await parts.registrations.approve("box-0", Approval(), "api:ann")
    await parts.registrations.reject("box-1", Rejection(reason="not ours"), "api:ann")
    async with asyncio.timeout(10):
        assert isinstance(await asking[0], Identity)
        said = await refused(asking[1], 403, "rejected")
    assert "not ours" in said
    assert "ann" in said
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert stored.used == 1, "the one that was turned away has used nothing"
    await refused(parts.ask(token, keys[1], sent_at=NOW + 60), 403, "rejected")
    other = await parts.token()
    assert isinstance(await parts.ask(other, keys[1], sent_at=NOW + 61), Identity), "another token is another wish"


@pytest.mark.usefixtures("impatient")
async def test_nobody_waits_for_ever(parts: Parts) -> None:
    token, key = await parts.token(approve=Approve.MANUAL), new_key()
    assert isinstance(await parts.ask(token, key), JoinWaiting)
    parts.now += PENDING_SECONDS + 1
    (asks,) = parts.cache.snapshot().registrations.values()
    await parts.applier.commit(Step(puts=(msgspec.structs.replace(asks, updated_at=parts.now),)))  # wakes the loop
    await until(lambda: not parts.registrations.pending())
    await refused(parts.ask(token, key, sent_at=parts.now), 403, "token-expired")
    assert "ApprovalExpired" in parts.reasons()
    (stored,) = parts.cache.snapshot().join_tokens.values()
    assert stored.used == 0


@pytest.mark.usefixtures("impatient")
async def test_a_token_that_is_revoked_lets_nobody_in_who_waits(parts: Parts) -> None:
    token, key = await parts.token(approve=Approve.MANUAL), new_key()
    assert isinstance(await parts.ask(token, key), JoinWaiting)
    await parts.tokens.revoke(parse_join_credential(token).token_id, "api:a")
    (view,) = parts.registrations.pending()
    await parts.registrations.approve(view.id, Approval(), "api:a")
    await until(lambda: not parts.registrations.pending())
    await refused(parts.ask(token, key, sent_at=NOW + 1), 403, "token-revoked")
    assert not parts.cache.snapshot().members


@pytest.mark.usefixtures("impatient")
async def test_approval_checks_names_and_says_which(parts: Parts) -> None:
    token = await parts.token(approve=Approve.MANUAL, uses=3)
    await parts.join(await parts.token(), new_key(), name="web-1")
    for _ in range(2):
        await parts.ask(token, new_key(), hostname="twin")
    await refused(parts.registrations.approve("twin", Approval(), "api:a"), 409, "ambiguous")
    first = parts.registrations.pending()[0]
    await refused(parts.registrations.approve(first.id, Approval(name="web-1"), "api:a"), 409, "name-taken")
    await parts.registrations.approve(first.id, Approval(name="web-2"), "api:a")
    await until(lambda: len(parts.cache.snapshot().members) == 2)


# replacement


async def test_a_replacement_keeps_everything_but_the_key(parts: Parts) -> None:
    old, new = new_key(), new_key()
    gone = await parts.join(await parts.token(labels={"zone": "a"}), old, name="web-1")
    before = parts.member(gone)
    token = await parts.token(role="gateway", replaces="web-1")
    joined = await parts.join(token, new, name="ignored", hostname="fresh", function="as before")
    assert (joined.member_id, joined.name, joined.lease) == (gone.member_id, gone.name, gone.lease)
    member = parts.member(joined)
    assert (member.labels, member.role, member.created_at) == ({"zone": "a"}, "node", before.created_at)
    assert (member.facts.hostname, member.function) == ("fresh", "as before")
    assert member.key_sha256 != before.key_sha256
    for text in (token, await parts.token()):
        assert "took the place of web-1" in await refused(parts.join(text, old), 403, "member-removed")
    renewal = RenewRequest(member_id=gone.member_id, csr_pem=csr_of(old))
    await refused(parts.admission.renew(renewal), 403, "member-removed")
    assert (await parts.join(token, new)).member_id == gone.member_id, "its answer may have been lost"
    await refused(parts.join(token, new_key()), 403, "token-used")
    assert parts.reasons()[-1] in ("MemberReplaced", "TokenCreated")
    assert "MemberReplaced" in parts.reasons()


async def test_a_replacement_elsewhere_has_its_own_address_and_ports(parts: Parts) -> None:
    gone = await parts.join(await parts.token(), new_key(), address="10.0.0.5", name="web-1")
    other = await parts.join(await parts.token(), new_key(), address="10.0.0.6")
    joined = await parts.join(await parts.token(replaces="web-1"), new_key(), address="10.0.0.6")
    assert joined.member_id == gone.member_id
    assert joined.lease.address == "10.0.0.6"
    assert joined.lease.host_ports.first > other.lease.host_ports.last


async def test_there_is_nothing_to_replace(parts: Parts) -> None:
    gone = await parts.join(await parts.token(), new_key(), name="web-1")
    token = await parts.token(replaces="web-1")
    await parts.applier.commit(Step(deletes=(parts.member(gone),)))
    await refused(parts.join(token, new_key()), 403, "replaced-gone")
    with pytest.raises(Refused, match="keeps its name"):
        await parts.join(await parts.token(), new_key(), name="web-2")
        await parts.token(replaces="web-2", labels={"a": "b"})


# killed in between


async def test_a_receiver_that_is_killed_loses_nothing(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    token, key = await parts.token(), new_key()
    other = Admission(parts.cache, parts.applier, parts.authority, parts.settings, lambda: parts.now)
    doomed = asyncio.create_task(other.join(bundle(token, key, sent_at=NOW), "10.0.0.5"))
    await until(lambda: parts.cache.snapshot().registrations or parts.cache.snapshot().members)
    doomed.cancel()
    await asyncio.gather(doomed, return_exceptions=True)
    await until(lambda: parts.cache.snapshot().members)
    joined = await parts.join(token, key, sent_at=NOW + 1)
    assert [joined.member_id] == list(parts.cache.snapshot().members)


async def test_without_a_leader_it_is_told_and_the_next_leader_goes_on(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.deciding.cancel()
    await asyncio.gather(parts.deciding, return_exceptions=True)
    leaderless = Admission(parts.cache, parts.applier, parts.authority, parts.settings, lambda: NOW, lambda: False)
    token, key = await parts.token(), new_key()
    await refused(leaderless.join(bundle(token, key, sent_at=NOW), "10.0.0.5"), 503, "not-decided")
    assert not parts.cache.snapshot().registrations
    monkeypatch.setattr(admission_module, "DECISION_SECONDS", 0.02)
    await refused(parts.ask(token, key), 503, "not-decided")
    assert len(parts.cache.snapshot().registrations) == 1, "kept for whoever leads next"
    plan = registrations_controller(parts.store, parts.settings).decide(parts.cache.snapshot(), parts.now)
    for _ in range(2):  # the second leader has not heard that the first was done
        await parts.applier.apply(plan)
    assert len(parts.cache.snapshot().members) == 1
    assert (await parts.join(token, key, sent_at=NOW + 1)).member_id in parts.cache.snapshot().members


@pytest.mark.usefixtures("impatient")
async def test_an_approved_machine_that_cannot_be_let_in_uses_nothing(parts: Parts) -> None:
    token, key = await parts.token(approve=Approve.MANUAL), new_key()
    assert isinstance(await parts.ask(token, key, name="web-1"), JoinWaiting)
    (asks,) = parts.cache.snapshot().registrations.values()
    approved = msgspec.structs.replace(asks, state=RegistrationState.WAITING, approved_by="api:a")
    member = parts.member(await parts.join(await parts.token(), new_key()))  # takes the name in the very last moment
    await parts.applier.commit(Step(puts=(msgspec.structs.replace(member, name="web-1"), approved)))
    await until(lambda: not parts.registrations.pending() and parts.cache.get("registrations", asks.id).problem)
    await refused(parts.ask(token, key, name="web-1"), 409, "name-taken")
    assert parts.cache.snapshot().join_tokens[asks.token_id].used == 0
    assert isinstance(await parts.ask(token, key, name="web-2", sent_at=NOW + 1), JoinWaiting), "it waits anew"
