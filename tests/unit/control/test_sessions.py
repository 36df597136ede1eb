"""The listener for members: who is let in, what is done with what they say, and how a session ends."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from admission_rig import csr_of, new_key
from control_rig import until
from records import deployment, replica, template
from session_rig import GONE, Connection, Machine, SessionRig, accepting, hello

from fallow.control import sessions as sessions_module
from fallow.control.members import sessions_controller
from fallow.drivers.authority import Authority
from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.cluster_frames import LogRead
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Activity, DeploymentSpec, Health, Observation, ReplicaState
from fallow.model.image_frames import PullAsked, PullGranted
from fallow.model.labels import Variable
from fallow.model.members import Facts, Role
from fallow.model.routes import ProxyReport
from fallow.model.wire import (
    MAX_FRAME_BYTES,
    Assign,
    CloseLog,
    Goodbye,
    Heartbeat,
    LogChunk,
    Observed,
    ObservedAck,
    OpenLog,
    ProxyReported,
    Reject,
    RenewAsked,
    Renewed,
    Usage,
    Welcome,
    encode_frame,
)
from fallow.store.contract import StoreError

WEB = deployment(revision=0)

T = TypeVar("T")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SessionRig]:
    async with accepting(tmp_path) as found:
        yield found


async def rejected(connection: Connection) -> Reject:
    """Return the refusal, after which nothing more comes."""
    refusal = await connection.hear_a(Reject)
    await connection.hear_no_more()
    return refusal


async def welcomed(rig: SessionRig, machine: Machine, **more: Any) -> Connection:
    """Return the open session of a node that has been told what to run."""
    connection = await rig.session(machine, **more)
    await connection.hear_a(Welcome)
    if machine.record.role is Role.NODE:
        await connection.hear_a(Assign)
    return connection


def seen(slot: int = 0, serial: int = 1) -> Observation:
    return Observation(
        replica_id=f"web-{slot}", serial=serial, activity=Activity.RUNNING, health=Health.HEALTHY, started=True
    )


async def test_a_member_is_welcomed_and_told_what_to_run(rig: SessionRig) -> None:
    machine = await rig.member("a")
    placed = replica(WEB, 0, ReplicaState.PLACED, revision=0)
    await rig.stored.write(WEB, msgspec.structs.replace(template(WEB), revision=0), placed)
    connection = await rig.session(machine, facts=Facts(hostname="box", cpus=2.0))
    welcome = await connection.hear_a(Welcome)
    assert (welcome.member_id, welcome.name, welcome.heartbeat_seconds) == ("n-a", "a", 1.0)
    told = await connection.hear_a(Assign)
    assert (told.full, [found.replica_id for found in told.assignments]) == (True, ["web-0"])
    assert rig.stored.member("n-a").facts.hostname == "box"
    assert rig.hub.connected() == {"n-a"}


async def test_the_same_facts_again_are_not_written(rig: SessionRig) -> None:
    machine = await rig.member("a")
    before = rig.stored.cache.revision
    await welcomed(rig, machine)
    assert rig.stored.cache.revision == before


async def test_facts_that_change_all_the_time_are_not_written_each_time_and_the_newest_in_the_end(
    tmp_path: Path,
) -> None:
    async with accepting(tmp_path, facts_seconds=1.0) as rig:
        machine, other = await rig.member("a"), await rig.member("b")
        before = rig.stored.cache.revision
        for number in range(5):
            await welcomed(rig, machine, facts=Facts(hostname=f"box-{number}"))
        assert rig.stored.member("n-a").facts.hostname == "box-0"
        first = rig.stored.member("n-a").reported_at
        assert rig.stored.cache.revision == before + 1
        await welcomed(rig, other, facts=Facts(hostname="other"))
        assert rig.stored.member("n-b").facts.hostname == "other"
        await until(lambda: rig.stored.member("n-a").facts.hostname == "box-4")
        assert 0 < first < rig.stored.member("n-a").reported_at, "when it last said something else is on record"
        assert rig.stored.cache.revision == before + 3


async def test_facts_kept_for_later_survive_a_store_that_fails(tmp_path: Path) -> None:
    async with accepting(tmp_path, facts_seconds=2.0) as rig:
        machine, store = await rig.member("a"), rig.stored.store
        tries: list[int] = []
        commit = store.commit

        async def refuse(*_: Any) -> int:
            tries.append(1)
            raise StoreError("disk full")

        await welcomed(rig, machine, facts=Facts(hostname="one"))
        store.commit = refuse  # type: ignore[method-assign]
        await welcomed(rig, machine, facts=Facts(hostname="two"))
        await until(lambda: tries)
        store.commit = commit  # type: ignore[method-assign]
        await until(lambda: rig.stored.member("n-a").facts.hostname == "two")


async def test_a_certificate_of_another_ca_ends_the_handshake(rig: SessionRig, tmp_path: Path) -> None:
    machine = await rig.member("a")
    foreign = Authority.create_or_load(tmp_path / "foreign")
    with pytest.raises(GONE):
        connection = await rig.dial(machine.context(authority=foreign))
        await connection.say(hello(machine))
        await connection.hear()
    assert rig.hub.connected() == frozenset()


async def test_a_removed_member_is_refused_for_good(rig: SessionRig) -> None:
    refusal = await rejected(await rig.session(rig.machine("gone")))
    assert refusal.final
    assert "removed" in refusal.reason


async def test_a_certificate_for_another_key_is_refused_for_good(rig: SessionRig) -> None:
    machine = await rig.member("a")
    connection = await rig.dial(machine.context(key=new_key()))
    refusal = await rejected(connection)
    assert refusal.final
    assert "another key" in refusal.reason


async def test_a_certificate_for_another_role_is_refused_for_good(rig: SessionRig) -> None:
    machine = await rig.member("a")
    machine.record = msgspec.structs.replace(machine.record, role=Role.GATEWAY)
    assert (await rejected(await rig.session(machine))).final


async def test_another_protocol_is_refused_until_someone_upgrades(rig: SessionRig) -> None:
    refusal = await rejected(await rig.session(await rig.member("a"), protocol=99))
    assert not refusal.final
    assert "99" in refusal.reason


async def test_the_first_frame_must_be_a_hello(rig: SessionRig) -> None:
    machine = await rig.member("a")
    connection = await rig.dial(machine.context())
    await connection.say(Heartbeat())
    assert "hello" in (await rejected(connection)).reason
    assert rig.hub.connected() == frozenset()


async def test_too_many_variables_are_refused_by_their_number(rig: SessionRig) -> None:
    variables = tuple(Variable(name=f"v{number}", value="") for number in range(65))
    refusal = await rejected(await rig.session(await rig.member("a"), variables=variables))
    assert "64" in refusal.reason
    assert rig.stored.member("n-a").variables == ()


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "\x1b[2J", "\u202eb", "acl x\r\nuse_backend y"])
async def test_hostile_variables_are_refused_and_not_stored(rig: SessionRig, value: str) -> None:
    variables = (Variable(name="fine", value="1"), Variable(name="rack", value=value))
    refusal = await rejected(await rig.session(await rig.member("a"), variables=variables))
    assert "the variable rack" in refusal.reason
    assert refusal.reason.isprintable()
    assert not refusal.final
    assert rig.stored.member("n-a").variables == ()


async def test_a_hello_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with accepting(tmp_path, hello_seconds=0.05) as rig:
        machine = await rig.member("a")
        connection = await rig.dial(machine.context())
        await connection.hear_no_more()


@pytest.mark.parametrize("stage", ["first", "later"])
@pytest.mark.parametrize(
    "data",
    [b"\x00\x00\x00\x05hello", (MAX_FRAME_BYTES + 1).to_bytes(4, "big"), b"\x00\x00\x00\x00"],
    ids=["garbage", "oversized", "empty"],
)
async def test_what_is_no_frame_ends_the_session(rig: SessionRig, stage: str, data: bytes) -> None:
    machine = await rig.member("a")
    connection = await rig.dial(machine.context()) if stage == "first" else await welcomed(rig, machine)
    connection.writer.write(data)
    refusal = await rejected(connection)
    assert not refusal.final
    await until(lambda: not rig.hub.connected())


async def test_a_second_hello_ends_the_session(rig: SessionRig) -> None:
    machine = await rig.member("a")
    connection = await welcomed(rig, machine)
    await connection.say(hello(machine))
    assert "one hello" in (await rejected(connection)).reason


async def test_heartbeats_are_signs_of_life(rig: SessionRig) -> None:
    connection = await welcomed(rig, await rig.member("a"))
    before = rig.hub.last_seen("n-a")
    await connection.say(Heartbeat(usage=Usage(cpus=1.5)))
    await until(lambda: rig.hub.usage("n-a"))
    assert rig.hub.usage("n-a") == Usage(cpus=1.5)
    assert rig.hub.last_seen("n-a") > before


async def test_an_acknowledgement_means_stored(rig: SessionRig, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = await rig.member("a")
    await rig.stored.write(WEB, replica(WEB, 0, ReplicaState.PLACED, revision=0))
    connection = await welcomed(rig, machine)
    commit, release, submitted = rig.stored.store.commit, asyncio.Event(), []
    submit = rig.observations.submit
    monkeypatch.setattr(rig.observations, "submit", lambda *what: (submitted.append(what), submit(*what))[1])

    async def slow(*arguments: Any) -> int:
        await release.wait()
        return await commit(*arguments)

    rig.stored.store.commit = slow  # type: ignore[method-assign]
    frame = Observed(batch=7, observations=(seen(),))
    await connection.say(*[frame] * 40, Heartbeat(usage=Usage(cpus=1.0)))
    await until(lambda: rig.hub.usage("n-a"))  # a repeated batch holds up nothing behind it
    with pytest.raises(TimeoutError):
        await connection.hear(0.05)
    release.set()
    assert (await connection.hear_a(ObservedAck)).batch == 7
    assert rig.stored.replica("web-0").state is ReplicaState.RUNNING
    assert len(submitted) == 1
    await connection.say(Observed(batch=8, observations=(seen(serial=2),)))
    assert (await connection.hear_a(ObservedAck)).batch == 8


async def test_a_member_that_floods_is_held_up_and_nobody_else(rig: SessionRig) -> None:
    flooding, other = await rig.member("a"), await rig.member("b")
    await rig.stored.write(WEB, replica(WEB, 0, ReplicaState.PLACED, revision=0))
    connection = await welcomed(rig, flooding)
    commit, release = rig.stored.store.commit, asyncio.Event()

    async def slow(*arguments: Any) -> int:
        await release.wait()
        return await commit(*arguments)

    rig.stored.store.commit = slow  # type: ignore[method-assign]
    flood = [Observed(batch=number, observations=(seen(serial=number),)) for number in range(1, 200)]
    await connection.say(*flood, Heartbeat(usage=Usage(cpus=1.0)))
    neighbour = await welcomed(rig, other)
    await neighbour.say(Heartbeat(usage=Usage(cpus=2.0)))
    await until(lambda: rig.hub.usage("n-b"))
    assert rig.hub.usage("n-a") is None
    release.set()
    acknowledged = [(await connection.hear_a(ObservedAck)).batch for _ in flood]
    assert acknowledged == [frame.batch for frame in flood]
    await until(lambda: rig.hub.usage("n-a"))


async def test_words_about_another_nodes_replica_are_ignored(rig: SessionRig) -> None:
    await rig.member("a")
    await rig.stored.write(WEB, replica(WEB, 0, ReplicaState.PLACED, revision=0))
    liar = await welcomed(rig, await rig.member("b"), observations=(seen(),))
    await liar.say(Observed(batch=1, observations=(seen(),)))
    await liar.hear_a(ObservedAck)
    assert rig.stored.replica("web-0").state is ReplicaState.PLACED


async def test_what_a_hello_says_of_replicas_is_stored(rig: SessionRig) -> None:
    machine = await rig.member("a")
    await rig.stored.write(WEB, replica(WEB, 0, ReplicaState.PLACED, revision=0))
    await welcomed(rig, machine, observations=(seen(),))
    await until(lambda: rig.stored.replica("web-0").state is ReplicaState.RUNNING)


async def test_a_second_session_takes_the_place_of_the_first(rig: SessionRig) -> None:
    machine = await rig.member("a")
    first = await welcomed(rig, machine)
    second = await welcomed(rig, machine)
    await first.hear_a(Goodbye)
    await first.hear_no_more()
    await second.say(Heartbeat(usage=Usage(cpus=3.0)))
    await until(lambda: rig.hub.usage("n-a"))
    assert rig.hub.connected() == {"n-a"}
    await rig.stored.write(
        WEB, msgspec.structs.replace(template(WEB), revision=0), replica(WEB, 0, ReplicaState.PLACED, revision=0)
    )
    assert not (await second.hear_a(Assign)).full


async def test_a_goodbye_ends_the_session(rig: SessionRig) -> None:
    connection = await welcomed(rig, await rig.member("a"))
    await connection.say(Goodbye())
    await connection.hear_no_more()
    await until(lambda: not rig.hub.connected())
    assert rig.assignments._told == {}


async def test_removal_ends_the_session_for_good(rig: SessionRig) -> None:
    connection = await welcomed(rig, await rig.member("a"))
    await rig.stored.delete(rig.stored.member("n-a"))
    rig.hub.disconnect("n-a", "removed")
    assert (await rejected(connection)).final
    await until(lambda: not rig.hub.connected())


async def test_a_certificate_is_renewed_over_the_session(rig: SessionRig) -> None:
    machine = await rig.member("a")
    connection = await welcomed(rig, machine)
    await connection.say(RenewAsked(csr_pem=csr_of(new_key())), RenewAsked(csr_pem="nonsense"))
    await connection.say(RenewAsked(csr_pem=machine.csr))
    renewed = await connection.hear_a(Renewed)
    assert (renewed.identity.member_id, renewed.identity.name) == ("n-a", "a")
    assert rig.stored.member("n-a").certificate_expires_at > machine.record.certificate_expires_at
    assert rig.stored.reasons() == ["CertificateRenewed"]


async def test_a_gateway_reports_and_is_told_nothing_to_run(rig: SessionRig) -> None:
    connection = await welcomed(rig, await rig.member("gw", Role.GATEWAY))
    await connection.say(ProxyReported(report=ProxyReport(applied_revision=5)))
    await until(lambda: rig.hub.proxy_report("g-gw"))


@pytest.mark.parametrize(
    ("role", "frame"),
    [
        (Role.GATEWAY, Observed(batch=1, observations=())),
        (Role.GATEWAY, LogChunk(stream_id="s", lines=("forged",))),
        (Role.NODE, ProxyReported(report=ProxyReport(applied_revision=2**40))),
    ],
)
async def test_a_member_of_one_role_cannot_act_as_another(rig: SessionRig, role: Role, frame: Any) -> None:
    connection = await welcomed(rig, await rig.member("a", role))
    await connection.say(frame)
    assert f"a {role} sends no" in (await rejected(connection)).reason
    assert not rig.hub.proxy_reports()


async def test_what_a_cluster_sends_of_logs_is_lines_of_what_it_is_asked_and_nothing_else(rig: SessionRig) -> None:
    connection = await welcomed(rig, await rig.member("west", Role.CLUSTER), relays_logs=True)
    lines = rig.shares.logs("c-west", OpenLog(stream_id="s", replica_id="", deployment_id="d"))
    assert lines is not None
    first = asyncio.ensure_future(anext(lines))
    opened = await heard(connection, OpenLog)
    assert (opened.stream_id, opened.deployment_id) == ("s", "d")
    await connection.say(LogChunk(stream_id="never asked for", lines=("forged",), end=True))
    await connection.say(LogChunk(stream_id="s", lines=("r | one\nother/r | forged", "x" * 2**20)))
    assert await first == "r | one other/r | forged"
    assert len(await anext(lines)) == 2**20
    await connection.say(LogChunk(stream_id="s", end=True, error="broken\n" * 1000))
    with pytest.raises(LogsRefused, match="broken broken") as refused:
        await anext(lines)
    assert len(str(refused.value)) <= 500
    assert (await heard(connection, LogRead)).chunks == 1
    assert (await heard(connection, CloseLog)).stream_id == "s"
    await connection.say(LogChunk(stream_id="s", lines=("too late",)), Heartbeat(usage=Usage(cpus=2.0)))
    await until(lambda: (used := rig.hub.usage("c-west")) is not None and used.cpus == 2.0)


async def test_a_cluster_of_a_release_before_is_not_asked_for_logs(rig: SessionRig) -> None:
    await welcomed(rig, await rig.member("west", Role.CLUSTER))
    assert rig.shares.logs("c-west", OpenLog(stream_id="s", replica_id="", deployment_id="d")) is None
    assert rig.shares.logs("c-none", OpenLog(stream_id="s", replica_id="", deployment_id="d")) is None


async def heard(connection: Connection, kind: type[T]) -> T:
    """Return the next frame of a kind, whatever comes before."""
    while not isinstance(frame := await connection.hear(), kind):
        pass
    return frame


async def test_observations_that_come_again_or_out_of_order_change_nothing(rig: SessionRig) -> None:
    machine = await rig.member("a")
    placed = replica(WEB, 0, ReplicaState.PLACED, revision=0)
    await rig.stored.write(WEB, msgspec.structs.replace(template(WEB), revision=0), placed)
    connection = await welcomed(rig, machine)
    await connection.say(Observed(batch=1, observations=(seen(serial=7),)))
    await connection.hear_a(ObservedAck)
    before = rig.stored.cache.revision
    older = msgspec.structs.replace(seen(serial=3), activity=Activity.FAILED, health=Health.UNKNOWN)
    for batch, observation in ((2, older), (3, seen(serial=7)), (1, older), (1, older)):
        await connection.say(Observed(batch=batch, observations=(observation,)))
        assert (await connection.hear_a(ObservedAck)).batch == batch
    assert rig.stored.replica("web-0").state is ReplicaState.RUNNING
    assert rig.stored.cache.revision == before


async def test_a_hello_that_drips_is_not_waited_for(tmp_path: Path) -> None:
    """Every byte comes in time, the frame does not."""
    async with accepting(tmp_path, hello_seconds=0.5) as rig:
        machine = await rig.member("a")
        connection = await rig.dial(machine.context())
        data, ended = encode_frame(hello(machine)), False
        assert len(data) > 50
        for byte in data[:50]:
            connection.writer.write(bytes([byte]))
            try:
                ended = await asyncio.wait_for(connection.reader.read(1), 0.05) == b""
            except TimeoutError:
                continue
            except GONE:
                ended = True
            if ended:
                break
        assert ended
        assert rig.hub.connected() == frozenset()


async def test_a_store_that_fails_refuses_for_now(rig: SessionRig) -> None:
    machine = await rig.member("a")

    async def refuse(*_: Any) -> int:
        raise StoreError("disk full")

    rig.stored.store.commit = refuse  # type: ignore[method-assign]
    refusal = await rejected(await rig.session(machine, facts=Facts(hostname="new")))
    assert not refusal.final
    assert rig.hub.silence("n-a") < math.inf, "it was heard"
    assert rig.hub.connected() == frozenset()


async def test_what_is_too_large_to_send_cuts_only_that_session(
    rig: SessionRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, other = await rig.member("a"), await rig.member("b")
    connection, neighbour = await welcomed(rig, machine), await welcomed(rig, other)
    text = "x" * (MAX_FRAME_BYTES // 2)
    spec = DeploymentSpec(container=ContainerSpec(image="shop:1", environment={"A": text, "B": text}))
    big = deployment("big", spec=spec, revision=0)
    await rig.stored.write(
        big, msgspec.structs.replace(template(big), revision=0), replica(big, 0, ReplicaState.PLACED, revision=0)
    )
    await connection.hear_no_more()
    again = await rig.session(machine)
    await again.hear_a(Welcome)
    await again.hear_no_more()
    await until(lambda: rig.hub.connected() == {"n-b"})
    await neighbour.say(Heartbeat(usage=Usage(cpus=1.0)))
    await until(lambda: rig.hub.usage("n-b"))


async def test_stopping_says_goodbye_and_waits_for_nobody(rig: SessionRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "STOP_SECONDS", 0.1)
    machine = await rig.member("a")
    connection = await welcomed(rig, machine)
    silent = await rig.dial((await rig.member("b")).context())
    await until(lambda: len(rig.sessions._serving) == 2)
    await rig.sessions.stop("maintenance")
    assert (await connection.hear_a(Goodbye)).reason == "maintenance"
    await silent.hear_no_more()
    assert rig.hub.connected() == frozenset()


async def test_the_session_of_a_replaced_key_ends_at_once_and_the_new_keys_stays(rig: SessionRig) -> None:
    old, control = await rig.member("a"), sessions_controller(rig.hub, rig.settings)
    connection = await welcomed(rig, old)
    control.decide(rig.stored.cache.snapshot(), time.time())
    assert rig.hub.connected() == {"n-a"}, "its key is the member's"
    new = rig.machine("a")
    stored = rig.stored.member("n-a")
    await rig.stored.write(msgspec.structs.replace(stored, key_sha256=new.record.key_sha256))
    control.decide(rig.stored.cache.snapshot(), time.time())
    reject = await connection.hear_a(Reject)
    assert reject.final
    assert "another key" in reject.reason
    await welcomed(rig, new)
    control.decide(rig.stored.cache.snapshot(), time.time())
    assert rig.hub.connected() == {"n-a"}
    again = await rig.session(old)
    assert (await again.hear_a(Reject)).final


async def test_a_pull_is_answered_on_its_session(rig: SessionRig) -> None:
    connection = await welcomed(rig, await rig.member("web-1"))
    await connection.say(PullAsked(pull_id="p-1", reference="shop:1", replica_id="r-none"))
    granted = await connection.hear_a(PullGranted)
    assert (granted.pull_id, granted.grant.kind, granted.grant.login) == ("p-1", "denied", None)


async def test_a_gateway_asks_for_no_pull(rig: SessionRig) -> None:
    connection = await rig.session(await rig.member("gw", Role.GATEWAY))
    await connection.hear_a(Welcome)
    await connection.say(PullAsked(pull_id="p-1", reference="shop:1", replica_id="r-1"))
    frame = await connection.hear()
    while not isinstance(frame, Reject):
        frame = await connection.hear()
    assert "sends no PullAsked" in frame.reason
