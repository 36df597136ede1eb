"""Members that were removed: turned away for good everywhere, told what to do, and not heard any more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from admission_rig import admitting, csr_of, new_key
from control_rig import until
from records import deployment, replica
from session_rig import GONE, SessionRig, accepting, client_context
from test_clones import alive, looping, second

from fallow.control.refusals import Refused
from fallow.decide.plan import Step
from fallow.decide.removal import Cause, removal
from fallow.model.deployments import Activity, Health, Observation, ReplicaState
from fallow.model.members import RenewRequest
from fallow.model.wire import Heartbeat, Observed, Reject, RenewAsked, Usage, Welcome

NOW = 1_800_000_000.0


def because(**more) -> Cause:  # type: ignore[no-untyped-def]
    return Cause(actor="api:ops", reason="MemberRemoved", because="by an operator", **more)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SessionRig]:
    async with accepting(tmp_path) as found, looping(found):
        yield found


async def removed(rig: SessionRig, **more: bool) -> None:
    await rig.stored.applier.commit(
        removal(rig.stored.cache.snapshot(), rig.stored.member("n-a"), NOW, because(**more), lambda: "e")
    )


@pytest.mark.parametrize("keep", [False, True])
async def test_a_session_ends_at_once_wherever_it_is_and_is_told_what_to_do(tmp_path: Path, keep: bool) -> None:
    async with accepting(tmp_path) as rig, second(rig, tmp_path) as other, looping(other):
        machine = await rig.member("a")
        connection = await alive(other, machine, "one")
        await until(lambda: rig.stored.member("n-a").runs)
        await removed(rig, keep_containers=keep)
        async with asyncio.timeout(1.0):
            told = await connection.hear_a(Reject)
        assert (told.final, told.clean) == (True, not keep)
        assert "(a) was removed by an operator" in told.reason
        again = await (await rig.session(machine)).hear_a(Reject)
        assert (again.final, again.clean, again.reason) == (True, not keep, told.reason)


async def test_a_member_nobody_has_a_record_of_is_not_told_to_clean(rig: SessionRig) -> None:
    """A store that was put back to an older copy must not cost anybody's containers."""
    told = await (await rig.session(rig.machine("unheard-of"))).hear_a(Reject)
    assert (told.final, told.clean) == (True, False)


async def test_one_that_ignores_its_removal_gets_nothing_and_changes_nothing(rig: SessionRig) -> None:
    machine = await rig.member("a")
    web = deployment(revision=0)
    placed = replica(web, 0, ReplicaState.PLACED, revision=0)
    await rig.stored.write(web, placed)
    connection = await alive(rig, machine, "one")
    await until(lambda: rig.stored.member("n-a").runs)
    await removed(rig)
    await connection.hear_a(Reject)
    before = rig.stored.cache.revision
    seen = Observation(replica_id=placed.id, serial=9, activity=Activity.RUNNING, health=Health.HEALTHY, started=True)
    for batch in range(20):
        try:
            await connection.say(
                Heartbeat(usage=Usage(cpus=9.0)),
                Observed(batch=batch, observations=(seen,)),
                RenewAsked(csr_pem=machine.csr),
            )
        except GONE:
            break
    await connection.hear_no_more()
    assert rig.hub.connected() == frozenset()
    assert rig.hub.usage("n-a") is None
    assert rig.stored.cache.revision == before
    assert rig.stored.replica(placed.id).state is ReplicaState.PLACED


async def test_a_key_that_was_revoked_neither_renews_nor_joins_with_any_token(tmp_path: Path) -> None:
    async with admitting(tmp_path) as parts:
        key = new_key()
        csr = csr_of(key)
        first = await parts.join(await parts.token(labels={"tier": "web"}), key)
        member = parts.cache.snapshot().members[first.member_id]
        await parts.applier.commit(removal(parts.cache.snapshot(), member, NOW, because(), lambda: "e"))
        token = await parts.token(labels={"tier": "secret"})
        for attempt in (
            parts.admission.renew(RenewRequest(member_id=first.member_id, csr_pem=csr)),
            parts.admission.renew(RenewRequest(member_id="n-another", csr_pem=csr)),
            parts.join(token, key),
        ):
            with pytest.raises(Refused) as refused:
                await attempt
            assert refused.value.problem.type == "urn:fallow:member-removed"
            assert refused.value.problem.clean
        other = await parts.join(token, new_key())
        assert parts.cache.snapshot().members[other.member_id].labels == {"tier": "secret"}


async def test_a_captured_request_for_renewal_is_worth_nothing_to_others(tmp_path: Path) -> None:
    """What it gives is a certificate for the key of whoever made it; to dial with it takes that key."""
    async with accepting(tmp_path) as rig:
        machine = await rig.member("a")
        admission = rig.sessions.admission
        identity = await admission.renew(RenewRequest(member_id="n-a", csr_pem=machine.csr))
        thief = rig.machine("thief")
        with pytest.raises((*GONE, ValueError)):
            client_context(rig.authority, tmp_path / "thief.pem", identity.certificate_pem, thief.key)
        with pytest.raises(Refused, match="another key"):
            await admission.renew(RenewRequest(member_id="n-a", csr_pem=thief.csr))


async def test_a_captured_request_cannot_be_sent_again_and_again(tmp_path: Path) -> None:
    """Each would be a commit and an event."""
    async with admitting(tmp_path) as parts:
        key = new_key()
        csr = csr_of(key)
        identity = await parts.join(await parts.token(), key)
        request = RenewRequest(member_id=identity.member_id, csr_pem=csr)
        await parts.admission.renew(request)
        before = parts.cache.revision
        for _ in range(50):
            with pytest.raises(Refused) as refused:
                await parts.admission.renew(request)
            assert refused.value.problem.status == 429
        assert parts.cache.revision == before
        parts.now += 10
        await parts.admission.renew(request)


async def test_a_fenced_member_is_not_given_certificates(tmp_path: Path) -> None:
    async with admitting(tmp_path) as parts:
        key = new_key()
        csr = csr_of(key)
        identity = await parts.join(await parts.token(), key)
        member = parts.cache.snapshot().members[identity.member_id]
        await parts.applier.commit(Step(puts=(msgspec.structs.replace(member, fence="two machines"),)))
        with pytest.raises(Refused, match="two machines") as refused:
            await parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem=csr))
        assert refused.value.problem.status == 409


async def test_a_removed_member_that_comes_back_after_its_expiry_is_told_the_same(tmp_path: Path) -> None:
    async with admitting(tmp_path) as parts:
        key = new_key()
        csr = csr_of(key)
        identity = await parts.join(await parts.token(), key)
        parts.now += 30 * 86400
        renewed = await parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem=csr))
        assert renewed.member_id == identity.member_id, "an unrevoked key comes back after any time"
        assert renewed.issued_at == parts.now
        member = parts.cache.snapshot().members[identity.member_id]
        await parts.applier.commit(
            removal(parts.cache.snapshot(), member, NOW, because(keep_containers=True), lambda: "e")
        )
        parts.now += 30 * 86400
        with pytest.raises(Refused) as refused:
            await parts.admission.renew(RenewRequest(member_id=identity.member_id, csr_pem=csr))
        assert not refused.value.problem.clean
        assert "removed by an operator" in refused.value.problem.detail


async def test_a_session_of_the_version_before_works(rig: SessionRig) -> None:
    machine = await rig.member("a")
    connection = await rig.session(machine, protocol=1)
    await connection.hear_a(Welcome)
    await connection.say(Heartbeat(usage=Usage(cpus=1.0)))
    await until(lambda: rig.hub.usage("n-a") == Usage(cpus=1.0))


@pytest.mark.parametrize(("protocol", "oldest", "welcome"), [(5, 4, True), (5, 0, False), (6, 5, False), (0, 0, False)])
async def test_versions_that_have_one_in_common_get_along(
    rig: SessionRig, protocol: int, oldest: int, welcome: bool
) -> None:
    machine = await rig.member("a")
    connection = await rig.session(machine, protocol=protocol, oldest_protocol=oldest)
    answer = await connection.hear()
    assert isinstance(answer, Welcome if welcome else Reject)


async def test_what_had_arrived_before_a_removal_but_was_not_yet_read_is_not_heard(
    rig: SessionRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await alive(rig, await rig.member("a"), "one")
    await until(lambda: rig.stored.member("n-a").runs)
    submitted: list[asyncio.Future[None]] = []

    def submit(*_: object) -> "asyncio.Future[None]":
        submitted.append(asyncio.get_running_loop().create_future())
        return submitted[-1]

    monkeypatch.setattr(rig.observations, "submit", submit)
    await connection.say(*(Observed(batch=batch, observations=()) for batch in range(1, 61)))
    await until(lambda: len(submitted) == 17)  # then the session waits for the store
    await removed(rig)
    await connection.hear_a(Reject)
    for stored in submitted:
        stored.set_result(None)
    await until(lambda: not rig.sessions._serving)
    assert len(submitted) == 17
    assert "n-a" not in rig.hub.silences()
