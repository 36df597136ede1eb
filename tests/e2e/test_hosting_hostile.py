"""Servers that lie, and nodes that pretend to be on one, before a real control plane: each can harm itself alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from test_hostile import line_of, next_frame
from victim import JOIN, Victim, chain_of, join, refused, wish

from fallow.model.frames import Frame
from fallow.model.members import Facts
from fallow.model.server_frames import ServerLeaving, ServerReported, SetLending, VmTokenAsked, VmTokenGranted
from fallow.model.servers import ServerReport
from fallow.model.vms import VmState, VmUse
from fallow.model.wire import PROTOCOL_VERSION, Hello, Welcome, encode_frame

pytestmark = pytest.mark.usefixtures("cleared")
GIB = 2**30
IDLE = ServerReport(
    cpus=16.0, memory_bytes=64 * GIB, limit_cpus=12.0, limit_memory_bytes=48 * GIB, offer_cpus=8.0,
    offer_memory_bytes=32 * GIB, lends=True, run="r",
)  # fmt: skip
HELLO = Hello(
    protocol=PROTOCOL_VERSION,
    instance="i",
    agent_version="x",
    boot_id="b",
    facts=Facts(cpus=16, memory_bytes=64 * GIB, architecture="amd64"),
)


@pytest.fixture
def cleared(victim: Victim, unharmed_victim: None) -> Iterator[None]:
    """Remove nodes before servers, which would take those of their machines along."""
    yield
    for role in ("node", "server"):
        for member in victim.ask("GET", f"/v1/members?role={role}").body["items"]:
            assert victim.ask("DELETE", f"/v1/members/{member['id']}?force=true").status == 204


@dataclass
class Line:
    """A session of a server, spoken by the test."""

    id: str
    name: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, frame: Frame) -> None:
        self.writer.write(encode_frame(frame))

    async def vm(self) -> str:
        """Offer a lot until there is an order for a virtual machine; return its id."""
        self.send(ServerReported(report=IDLE))
        while True:
            frame = await next_frame(self.reader, SetLending)
            assert isinstance(frame, SetLending)
            if frame.vms:
                return frame.vms[0].vm_id

    async def ask(self, vm_id: str) -> VmTokenGranted:
        self.send(VmTokenAsked(vm_id=vm_id))
        frame = await next_frame(self.reader, VmTokenGranted)
        assert isinstance(frame, VmTokenGranted)
        return frame


@contextlib.asynccontextmanager
async def server(victim: Victim) -> AsyncIterator[Line]:
    identity, chain = await asyncio.to_thread(join, victim, "server")
    async with session(victim, chain) as (reader, writer):
        yield Line(identity["member_id"], identity["name"], reader, writer)


@contextlib.asynccontextmanager
async def session(victim: Victim, chain: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with line_of(victim, chain) as (reader, writer):
        writer.write(encode_frame(HELLO))
        await next_frame(reader, Welcome)
        yield reader, writer


async def view(victim: Victim, path: str) -> Any:
    return (await asyncio.to_thread(victim.ask, "GET", path)).body


async def until(victim: Victim, path: str, met: Any) -> Any:
    async with asyncio.timeout(10):
        while not met(found := await view(victim, path)):
            await asyncio.sleep(0.05)
    return found


async def joins(victim: Victim, token: str, key: Any = None, **more: Any) -> Any:
    return await asyncio.to_thread(victim.ask, "POST", JOIN, wish(token, key, **more), "")


@pytest.mark.parametrize(
    "frame",
    [ServerReported(report=IDLE), VmTokenAsked(vm_id="vm1"), ServerLeaving(reason="x")],
    ids=["report", "token", "leaving"],
)
async def test_a_node_does_not_speak_as_a_server(victim: Victim, frame: Frame) -> None:
    identity, chain = await asyncio.to_thread(join, victim)
    async with session(victim, chain) as (reader, writer):
        writer.write(encode_frame(frame))
        async with asyncio.timeout(10):
            while await reader.read(65536):
                pass
    assert (await view(victim, "/v1/servers"))["items"] == []
    assert (await view(victim, "/v1/vms"))["items"] == []
    assert (await view(victim, f"/v1/members/{identity['member_id']}"))["role"] == "node"


async def test_a_server_gets_tokens_for_its_own_machines_alone(victim: Victim) -> None:
    async with server(victim) as one, server(victim) as two:
        theirs = await one.vm()
        await two.vm()
        for vm_id in (theirs, one.id, "../x", "vm-nobody", ""):
            answer = await two.ask(vm_id)
            assert not answer.token
            assert "no such virtual machine" in answer.problem
        assert (await one.ask(theirs)).token


async def test_a_machines_token_is_good_once_for_that_machine_and_gives_its_labels(victim: Victim) -> None:
    async with server(victim) as one:
        vm_id = await one.vm()
        older, newer = (await one.ask(vm_id)).token, (await one.ask(vm_id)).token
        refused(await joins(victim, older), 403)  # it was asked for again: only the newest is good
        refused(await joins(victim, newer, role="server"), 403)
        key = ec.generate_private_key(ec.SECP256R1())
        claims = [{"name": "fallow.server", "value": "another"}, {"name": "fallow.vm", "value": "another-vm"}]
        first = await joins(victim, newer, key, name="another", variables=claims)
        assert first.status == 201, first.text
        refused(await joins(victim, newer), 403)  # whoever has stolen it comes too late
        again = await joins(victim, newer, key, name="another", variables=claims)
        assert (again.status, again.body["member_id"]) == (201, first.body["member_id"])
        vm = (await view(victim, "/v1/vms"))["items"][0]
        node = await view(victim, f"/v1/members/{first.body['member_id']}")
        assert vm["node"] == node["name"] == vm["name"]
        assert (node["labels"]["fallow.server"], node["labels"]["fallow.vm"]) == (one.name, vm["name"])
        later = (await one.ask(vm_id)).token  # it may have ended before it heard who it is
        told = await joins(victim, later, key, name="another", variables=claims)
        assert (told.status, told.body["member_id"]) == (201, first.body["member_id"])
        async with session(victim, chain_of(victim, told.body, key)):
            await until(victim, f"/v1/members/{first.body['member_id']}", lambda found: found["state"] == "ready")
            refused_now = await one.ask(vm_id)
            assert not refused_now.token  # nobody takes its place while it lives
            assert "has joined" in refused_now.problem
            refused(await joins(victim, later), 403)


async def test_a_token_used_by_another_machine_is_noticed_and_the_true_one_stays_out(victim: Victim) -> None:
    async with server(victim) as one:
        vm_id = await one.vm()
        token = (await one.ask(vm_id)).token
        thief = await joins(victim, token, name="thief")
        assert thief.status == 201
        body = refused(await joins(victim, token), 403)
        assert token.split(".")[2][:8] not in body.get("detail", "")
        events = (await view(victim, "/v1/events"))["items"]
        assert any(found["reason"] == "MemberJoined" and thief.body["name"] in found["message"] for found in events)


async def test_nodes_that_claim_a_server_are_nodes_like_any_other(victim: Victim) -> None:
    async with server(victim) as one:
        await one.vm()
        name = (await view(victim, "/v1/vms"))["items"][0]["name"]
        token = await asyncio.to_thread(victim.create, "node")
        claims = [{"name": "fallow.server", "value": one.name}, {"name": "fallow.vm", "value": name}]
        joined = (await joins(victim, token, name=name, variables=claims)).body
        node = await view(victim, f"/v1/members/{joined['member_id']}")
        assert not {"fallow.server", "fallow.vm"} & node["labels"].keys()
        assert (await view(victim, "/v1/vms"))["items"][0]["node"] == ""


async def test_a_server_that_lies_changes_nothing_of_another(victim: Victim) -> None:
    async with server(victim) as honest, server(victim) as liar:
        theirs, own = await honest.vm(), await liar.vm()
        used = (VmUse(vm_id=theirs, state=VmState.RUNNING, cpus=0.0), VmUse(vm_id=own, state=VmState.FAILED))
        liar.send(ServerReported(report=msgspec.structs.replace(IDLE, offer_cpus=60_000.0, vms=used)))
        lied = await until(victim, f"/v1/servers/{liar.id}", lambda found: found["report"]["offer_cpus"] == 60_000)
        assert [use["vm_id"] for use in lied["report"]["vms"]] == [own]
        assert (await view(victim, f"/v1/servers/{honest.id}"))["report"]["offer_cpus"] == IDLE.offer_cpus
        assert (await view(victim, f"/v1/vms/{theirs}"))["use"] is None
        liar.send(ServerLeaving(reason="\x1b[2J" + "x" * 100))
        await until(victim, f"/v1/servers/{liar.id}", lambda found: found["closed"])
        assert (await view(victim, f"/v1/servers/{honest.id}"))["closed"] == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
async def test_reports_that_are_no_figures_end_the_session(victim: Victim, value: float) -> None:
    async with server(victim) as one:
        one.send(ServerReported(report=msgspec.structs.replace(IDLE, offer_cpus=value)))
        async with asyncio.timeout(10):
            while await one.reader.read(65536):
                pass
        assert (await view(victim, f"/v1/servers/{one.id}"))["report"] is None
