"""What the listener takes in of members' networks, and what it does not believe."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from control_rig import until
from records import overlaid, wireguard_key
from session_rig import Connection, Machine, SessionRig, accepting, hello

from fallow.model.members import Member, Role
from fallow.model.network import NetworkReport
from fallow.model.wire import Assign, ChangePeers, NetworkReported, Reject, SetNetwork, Welcome, encode_frame

LEASE = overlaid("x", 1).lease


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SessionRig]:
    async with accepting(tmp_path) as found:
        yield found


async def member(rig: SessionRig, name: str, number: int, role: Role = Role.NODE) -> Machine:
    machine = rig.machine(name, role)
    machine.record = msgspec.structs.replace(machine.record, lease=overlaid(name, number).lease)
    await rig.stored.write(machine.record)
    return machine


async def welcomed(rig: SessionRig, machine: Machine, key: str) -> tuple[Connection, Welcome]:
    connection = await rig.session(machine, wireguard_key=key)
    welcome = await connection.hear_a(Welcome)
    if machine.record.role is Role.NODE:
        await connection.hear_a(Assign)
    return connection, welcome


@pytest.mark.parametrize("role", [Role.NODE, Role.GATEWAY])
async def test_a_key_is_stored_with_where_the_session_comes_from(rig: SessionRig, role: Role) -> None:
    machine = await member(rig, "a", 1, role)
    connection, welcome = await welcomed(rig, machine, wireguard_key(1))
    assert welcome.source_address == "127.0.0.1"
    assert (await connection.hear_a(SetNetwork)).state.lease == LEASE
    stored = rig.stored.member(machine.record.id)
    assert (stored.wireguard_key, stored.session_address) == (wireguard_key(1), "127.0.0.1")


async def test_two_learn_of_each_other(rig: SessionRig) -> None:
    one, _ = await welcomed(rig, await member(rig, "a", 1), wireguard_key(1))
    assert (await one.hear_a(SetNetwork)).state.peers == ()
    two, _ = await welcomed(rig, await member(rig, "b", 2), wireguard_key(2))
    (peer,) = (await two.hear_a(SetNetwork)).state.peers
    assert (peer.key, peer.address) == (wireguard_key(1), "10.86.0.1")
    told: set[str] = set()
    while "10.86.0.2" not in told:
        told |= {found.address for found in (await one.hear_a(ChangePeers)).changed}


async def test_an_older_agent_is_told_nothing_it_does_not_know(rig: SessionRig) -> None:
    machine = await member(rig, "a", 1)
    connection, _ = await welcomed(rig, machine, "")
    await welcomed(rig, await member(rig, "b", 2), wireguard_key(2))
    with pytest.raises(TimeoutError):
        await connection.hear(0.2)


async def test_a_key_that_another_member_has_is_refused(rig: SessionRig) -> None:
    await welcomed(rig, await member(rig, "victim", 1), wireguard_key(1))
    thief = await member(rig, "thief", 2)
    refusal = await (await rig.session(thief, wireguard_key=wireguard_key(1))).hear_a(Reject)
    assert "victim" in refusal.reason
    assert not refusal.final, "with a key of its own it may come"
    assert rig.stored.member(thief.record.id).wireguard_key == ""
    await welcomed(rig, thief, wireguard_key(2))
    refusal = await (await rig.session(thief, wireguard_key=wireguard_key(1))).hear_a(Reject)
    assert "victim" in refusal.reason, "also while what it says is not stored at once"
    assert rig.stored.member(thief.record.id).wireguard_key == wireguard_key(2)


@pytest.mark.parametrize("key", ["A" * 43 + "=", "A" * 44, "x\nEndpoint = 192.0.2.1:1", "x" * 10_000, "\0"])
async def test_what_is_no_key_is_refused(rig: SessionRig, key: str) -> None:
    machine = await member(rig, "a", 1)
    connection = await rig.dial(machine.context())
    await connection.say(msgspec.structs.replace(hello(machine), wireguard_key=key))
    await connection.hear_a(Reject)
    assert rig.stored.member(machine.record.id).wireguard_key == ""


async def test_a_broken_network_is_stored_told_and_forgotten(rig: SessionRig) -> None:
    machine = await member(rig, "a", 1)
    connection, _ = await welcomed(rig, machine, wireguard_key(1))
    rig.sessions._network_reports._rest_seconds = 0.01

    def stored() -> Member:
        return rig.stored.member(machine.record.id)

    await connection.say(NetworkReported(report=NetworkReport(problem="wg is not installed" + "!" * 900)))
    await until(lambda: stored().network_problem.startswith("wg is not installed"))
    assert len(stored().network_problem) <= 256
    await connection.say(NetworkReported(report=NetworkReport(address=LEASE.address)))
    await until(lambda: stored().network_problem == "")
    reasons = [reason for reason in rig.stored.reasons() if reason.startswith("Network")]
    assert reasons == ["NetworkBroken", "NetworkReady"]


async def test_a_member_that_changes_its_word_all_the_time_writes_seldom(rig: SessionRig) -> None:
    machine = await member(rig, "a", 1)
    connection, _ = await welcomed(rig, machine, wireguard_key(1))
    for number in range(200):
        await connection.say(NetworkReported(report=NetworkReport(problem=f"trouble {number}")))
    await until(lambda: rig.stored.member(machine.record.id).network_problem != "")
    await asyncio.sleep(0.05)
    assert len([reason for reason in rig.stored.reasons() if reason.startswith("Network")]) == 1


async def test_reports_are_bounded(rig: SessionRig) -> None:
    machine = await member(rig, "a", 1)
    connection, _ = await welcomed(rig, machine, wireguard_key(1))
    connection.writer.write(encode_frame(NetworkReported(report=NetworkReport(problem="x" * 5000))))
    while not isinstance(await connection.hear(), Reject):
        pass
