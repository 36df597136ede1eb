"""Sessions of servers: what they are told, what they may say, and tokens for their virtual machines."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from records import member
from server_records import report, use, vm
from session_rig import Machine, SessionRig, accepting

from fallow.control.vm_tokens import MOST_ASKED
from fallow.model.credentials import parse_join_credential
from fallow.model.members import MemberState, Role, Scheduling
from fallow.model.server_frames import ServerLeaving, ServerReported, SetLending, VmTokenAsked, VmTokenGranted
from fallow.model.server_pools import LendingPolicy, ServerPool
from fallow.model.servers import Lending
from fallow.model.tokens import JoinToken
from fallow.model.vms import Vm, VmState, VmWish
from fallow.model.wire import SERVERS_PROTOCOL, Reject, Welcome


async def server(rig: SessionRig, name: str = "srv", **changes: Any) -> Machine:
    machine = rig.machine(name, Role.SERVER)
    machine.record = msgspec.structs.replace(machine.record, **changes)
    await rig.stored.write(machine.record)
    return machine


async def opened(rig: SessionRig, machine: Machine, **more: Any) -> tuple[Any, SetLending]:
    connection = await rig.session(machine, **more)
    await connection.hear_a(Welcome)
    return connection, await connection.hear_a(SetLending)


def stored_vm(rig: SessionRig, id_: str = "vm-a") -> Vm:
    found = rig.stored.cache.get("vms", id_)
    assert isinstance(found, Vm)
    return found


def tokens(rig: SessionRig) -> dict[str, JoinToken]:
    records = rig.stored.cache.records("join-tokens").items()
    return {id_: record for id_, record in records if isinstance(record, JoinToken)}


async def test_a_server_is_told_its_policy_and_its_vms_alone(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        await rig.stored.write(vm(), vm("b", server_id="s-other"))
        _, told = await opened(rig, machine)
        assert (told.policy, told.closed, [order.vm_id for order in told.vms]) == (LendingPolicy(), "", ["vm-a"])
        assert (told.vms[0].wanted, told.vms[0].joined, told.vms[0].rank) == (VmWish.RUNNING, False, 0)


async def test_what_changes_is_told_at_once_and_nothing_twice(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        connection, _ = await opened(rig, machine)
        pool = ServerPool(id="default", created_at=0, updated_at=0, policy=LendingPolicy(cpu_threshold=0.5))
        await rig.stored.write(pool)
        assert (await connection.hear_a(SetLending)).policy.cpu_threshold == 0.5
        await rig.stored.write(vm("b", server_id="s-other"))  # concerns others
        await rig.stored.write(vm())
        assert [order.vm_id for order in (await connection.hear_a(SetLending)).vms] == ["vm-a"]
        drained = msgspec.structs.replace(rig.stored.member(machine.record.id), scheduling=Scheduling.DRAINING)
        await rig.stored.write(drained)
        told = await connection.hear_a(SetLending)
        assert "drained by an operator" in told.closed
        assert told.vms[0].wanted is VmWish.STOPPED  # nothing is on it
        await rig.stored.delete(stored_vm(rig))
        assert (await connection.hear_a(SetLending)).vms == ()


async def test_an_older_agent_cannot_be_a_server(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        connection = await rig.session(await server(rig), protocol=SERVERS_PROTOCOL - 1)
        assert "upgrade its agent" in (await connection.hear_a(Reject)).reason


async def test_reports_reach_the_hub_without_vms_of_others(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        await rig.stored.write(vm(), vm("b", server_id="s-other"))
        connection, _ = await opened(rig, machine)
        told = report(vms=(use("vm-b"), use("vm-a"), use("vm-none"), use("vm-a", state=VmState.FAILED)))
        await connection.say(ServerReported(report=told), VmTokenAsked(vm_id="vm-none"))
        await connection.hear_a(VmTokenGranted)
        heard = rig.hub.servers()[machine.record.id]
        assert heard.fresh
        assert heard.report == msgspec.structs.replace(told, vms=(use("vm-a"),))


@pytest.mark.parametrize(
    "frame", [ServerReported(report=report()), VmTokenAsked(vm_id="vm-a"), ServerLeaving(reason="off")]
)
@pytest.mark.parametrize("role", [Role.NODE, Role.GATEWAY])
async def test_members_of_another_role_are_no_servers(tmp_path: Path, frame: Any, role: Role) -> None:
    async with accepting(tmp_path) as rig:
        machine = await rig.member("n1", role)
        await rig.stored.write(vm(server_id=machine.record.id))
        connection = await rig.session(machine)
        await connection.hear_a(Welcome)
        await connection.say(frame)
        while not isinstance(told := await connection.hear(), Reject):
            pass
        assert f"a {role} sends no {type(frame).__name__}" in told.reason
        assert not rig.hub.servers()
        assert not tokens(rig)


async def test_a_token_is_for_one_vm_of_the_server_that_asks(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        labels = {"region": "west", "zone": "w1", "tier": "db"}
        machine = await server(rig, labels=labels)
        await rig.stored.write(vm(), vm("b", server_id="s-other"), member("a", revision=0))
        connection, _ = await opened(rig, machine)
        for wrong in ("vm-b", "vm-none"):
            await connection.say(VmTokenAsked(vm_id=wrong))
            told = await connection.hear_a(VmTokenGranted)
            assert (told.token, told.problem) == ("", "this server has no such virtual machine")
        await connection.say(VmTokenAsked(vm_id="vm-a"))
        told = await connection.hear_a(VmTokenGranted)
        text = parse_join_credential(told.token)
        assert told.token not in repr(told)
        (token,) = tokens(rig).values()
        assert (token.id, token.role, token.uses, token.name) == (text.token_id, Role.NODE, 1, "a-2")
        assert token.labels == {
            "region": "west",
            "zone": "w1",
            "fallow.server": "srv",
            "fallow.vm": "a",
            "fallow.size": "4cpu-8192MiB",
        }
        assert text.ca_sha256 == rig.authority.ca_sha256
        assert text.secret not in str(rig.stored.cache.snapshot())
        assert stored_vm(rig).token_id == token.id


async def test_asked_again_the_token_before_is_of_no_use(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        await rig.stored.write(vm())
        connection, _ = await opened(rig, machine)
        for _ in range(MOST_ASKED):
            await connection.say(VmTokenAsked(vm_id="vm-a"))
            told = await connection.hear_a(VmTokenGranted)
            usable = [token.id for token in tokens(rig).values() if not token.revoked]
            assert usable == [parse_join_credential(told.token).token_id]
        await connection.say(VmTokenAsked(vm_id="vm-a"))
        assert "too often" in (await connection.hear_a(VmTokenGranted)).problem
        assert len(tokens(rig)) == MOST_ASKED


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (MemberState.READY, "has joined as a, which is ready"),
        (MemberState.SUSPECT, "which is suspect"),
        (MemberState.JOINING, ""),
        (MemberState.DEAD, ""),
        (None, "was removed"),
    ],
)
async def test_a_vm_that_has_joined_gets_a_token_only_in_place_of_a_node_that_is_dead_or_never_had_a_session(
    tmp_path: Path, state: MemberState | None, words: str
) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        node = member("a", revision=0, state=state or MemberState.READY)
        await rig.stored.write(vm(node_id="n-a"), *((node,) if state else ()))
        connection, told = await opened(rig, machine)
        assert told.vms[0].joined is (state is not MemberState.JOINING)
        await connection.say(VmTokenAsked(vm_id="vm-a"))
        granted = await connection.hear_a(VmTokenGranted)
        assert words in granted.problem
        assert bool(granted.token) is (state in (MemberState.DEAD, MemberState.JOINING))
        assert [token.replaces for token in tokens(rig).values()] == (["n-a"] if granted.token else [])


@pytest.mark.parametrize("wanted", [VmWish.STOPPED, VmWish.ABSENT])
async def test_a_vm_that_should_not_run_gets_no_token(tmp_path: Path, wanted: VmWish) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        await rig.stored.write(vm(wanted=wanted))
        connection, _ = await opened(rig, machine)
        await connection.say(VmTokenAsked(vm_id="vm-a"))
        assert "not wanted running" in (await connection.hear_a(VmTokenGranted)).problem


async def test_a_server_that_shuts_down_is_closed_until_its_agent_starts_again(tmp_path: Path) -> None:
    async with accepting(tmp_path) as rig:
        machine = await server(rig)
        connection, _ = await opened(rig, machine, instance="first")
        await connection.say(ServerLeaving(reason="kernel\nupdate"), ServerLeaving(reason="again"))
        assert (await connection.hear_a(SetLending)).closed == "it shuts down: kernel update"
        lending = rig.stored.cache.get("lendings", machine.record.id)
        assert isinstance(lending, Lending)
        assert (lending.closed, lending.left_by) == ("it shuts down: kernel update", "first")
        assert rig.stored.reasons().count("ServerLeaving") == 1
        connection, told = await opened(rig, machine, instance="second")
        assert told.closed
        await connection.say(ServerReported(report=report()))  # alive, and so another start
        while told.closed:  # until the start is on record
            told = await connection.hear_a(SetLending)
