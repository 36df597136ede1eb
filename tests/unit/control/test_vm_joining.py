"""How a virtual machine becomes a node: joined with its token it is known as one from the first moment on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from admission_rig import Parts, admitting, new_key
from control_rig import storing
from lease_swarm import Handle
from records import NOW, ids
from server_records import report, server, vm

from fallow.control.admission import Refused
from fallow.control.hub import Hub
from fallow.control.settings import Settings
from fallow.control.vm_tokens import VmTokens
from fallow.control.vms import vms_controller
from fallow.decide.plan import Step
from fallow.model.members import Identity, MemberState, Role
from fallow.model.pools import NetworkMode, Pool, PortRange
from fallow.model.servers import ServerReport
from fallow.model.tokens import JoinToken
from fallow.model.vms import Vm
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with admitting(tmp_path / "ca", public_url="https://10.0.0.1:7443") as found:
        yield found


def vm_tokens(parts: Parts) -> VmTokens:
    ca = parts.authority.ca_sha256
    return VmTokens(parts.cache, parts.applier, parts.settings, ca, lambda: parts.now, lambda: parts.now)


async def server_joined(parts: Parts, **more: Any) -> Identity:
    token = await parts.token(role="server", labels={"region": "west"})
    return await parts.join(token, new_key(), role=Role.SERVER, hostname="big", **more)


async def with_vm(parts: Parts, **changes: Any) -> Vm:
    machine = await server_joined(parts)
    made = vm(server_id=machine.member_id, **changes)
    await parts.applier.commit(Step(puts=(made,)))
    return made


def stored(parts: Parts) -> Vm:
    (found,) = parts.cache.snapshot().vms.values()
    return found


async def test_a_server_gets_an_identity_and_no_ports(parts: Parts) -> None:
    overlay = Pool(id="default", created_at=0, updated_at=0, cidr="10.86.0.0/16", mode=NetworkMode.WIREGUARD)
    await parts.applier.commit(Step(puts=(overlay,)))
    joined = await server_joined(parts)
    assert (joined.role, joined.name, joined.member_id[:2]) == (Role.SERVER, "big", "s-")
    assert (joined.lease.address, joined.lease.pool, joined.lease.host_ports) == ("10.0.0.5", "", PortRange())
    with pytest.raises(Refused, match="nodes have their own"):
        await parts.token(role="server", pool="default")
    snapshot = parts.cache.snapshot()
    assert (list(snapshot.servers), list(snapshot.nodes)) == ([joined.member_id], [])


async def test_who_joins_with_a_vms_token_is_its_node_in_the_same_commit(parts: Parts) -> None:
    made = await with_vm(parts)
    granted = await vm_tokens(parts).grant(made.server_id, made.id)
    assert granted.url == "https://10.0.0.1:7443"
    node = await parts.join(granted.token, new_key(), address="10.0.0.9", hostname="whatever")
    found = parts.member(node)
    assert node.name == "a"
    labels = {"region": "west", "fallow.server": "big", "fallow.vm": "a", "fallow.size": "4cpu-8192MiB"}
    assert found.labels == labels
    assert (stored(parts).node_id, stored(parts).revision) == (node.member_id, found.revision)
    assert parts.cache.snapshot().vms_by_node[node.member_id].id == made.id
    with pytest.raises(Refused, match="already used"):
        await parts.join(granted.token, new_key())
    await become(parts, node, MemberState.READY)
    assert "has joined as a" in (await vm_tokens(parts).grant(made.server_id, made.id)).problem


async def become(parts: Parts, node: Identity, state: MemberState) -> None:
    await parts.applier.commit(Step(puts=(msgspec.structs.replace(parts.member(node), state=state),)))


async def test_one_that_ended_before_it_heard_the_answer_is_told_with_another_token(parts: Parts) -> None:
    made = await with_vm(parts)
    tokens, key = vm_tokens(parts), new_key()
    lost = await parts.join((await tokens.grant(made.server_id, made.id)).token, key)
    again = await tokens.grant(made.server_id, made.id)
    told = await parts.join(again.token, key)
    assert (told.member_id, told.name) == (lost.member_id, lost.name)
    assert stored(parts).node_id == lost.member_id
    assert parts.cache.snapshot().revocations == {}
    with pytest.raises(Refused, match="joined with another token"):
        await parts.join(await parts.token(), key)


async def test_one_that_lost_its_key_before_its_first_session_takes_its_own_place(parts: Parts) -> None:
    made = await with_vm(parts)
    tokens, old = vm_tokens(parts), new_key()
    token = (await tokens.grant(made.server_id, made.id)).token
    lost = await parts.join(token, old)
    told = await parts.join((await tokens.grant(made.server_id, made.id)).token, new_key())
    assert (told.member_id, told.name) == (lost.member_id, lost.name)
    with pytest.raises(Refused, match="another machine took the place of a"):
        await parts.join(token, old)


async def test_nobody_joins_with_the_token_before(parts: Parts) -> None:
    made = await with_vm(parts)
    tokens = vm_tokens(parts)
    first, second = [(await tokens.grant(made.server_id, made.id)).token for _ in range(2)]
    with pytest.raises(Refused, match="revoked"):
        await parts.join(first, new_key())
    assert stored(parts).node_id == ""
    await parts.join(second, new_key())
    assert stored(parts).node_id


async def test_a_lost_disk_gets_the_same_node_again(parts: Parts) -> None:
    made = await with_vm(parts)
    tokens = vm_tokens(parts)
    first = await parts.join((await tokens.grant(made.server_id, made.id)).token, new_key())
    dead = msgspec.structs.replace(parts.member(first), state=MemberState.DEAD)
    await parts.applier.commit(Step(puts=(dead,)))
    again = await parts.join((await tokens.grant(made.server_id, made.id)).token, new_key(), hostname="other")
    assert (again.member_id, again.name) == (first.member_id, first.name)
    assert parts.member(again).labels == dead.labels
    assert stored(parts).node_id == first.member_id


async def test_labels_and_names_of_others_make_no_vm_of_them(parts: Parts) -> None:
    made = await with_vm(parts)
    claims = {"fallow.server": "big", "fallow.vm": "a"}
    token = await parts.token(labels=claims)
    pretender = await parts.join(token, new_key(), name=made.name)
    assert pretender.member_id not in parts.cache.snapshot().vms_by_node
    granted = await vm_tokens(parts).grant(made.server_id, made.id)
    assert (await parts.join(granted.token, new_key())).name == "a-2"


# killed at any operation of the store

OFFER: ServerReport = report(offer_memory_bytes=2**34)


class Process:
    """A process of the control plane, as far as it makes virtual machines and hands out their tokens."""

    def __init__(self, handle: Handle, number: int) -> None:
        self.cache = Cache(handle)  # type: ignore[arg-type]
        self.applier = Applier(handle, self.cache)  # type: ignore[arg-type]
        self.hub = Hub(lambda: NOW, lambda: float(number))
        make, steady = ids(), lambda: float(number)
        self.controller = vms_controller(self.hub, lambda: f"{number}-{make()}", steady)
        self.tokens = VmTokens(self.cache, self.applier, Settings(), "0" * 64, lambda: NOW, steady)

    async def work(self) -> str:
        """Make what is missing, hand out a token, and return it."""
        await self.cache.start()
        self.hub.server_reported("s-srv", OFFER)
        while (plan := self.controller.decide(self.cache.snapshot(), NOW)).steps:
            await self.applier.apply(plan)
        (found,) = self.cache.snapshot().vms.values()
        return (await self.tokens.grant("s-srv", found.id)).token


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_operation_there_is_one_vm_and_one_token(after: bool) -> None:
    async with storing(server(revision=0)) as truth:
        given: list[str] = []
        for number in range(1, 40):
            handle = Handle(truth.store, fuse=number % 12 + 1, after=after)
            process = Process(handle, number)
            working = asyncio.ensure_future(process.work())
            await asyncio.wait({working, handle.dead}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                given.append(working.result())
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await process.cache.stop()
        process = Process(Handle(truth.store, fuse=-1, after=False), 99)
        given.append(await process.work())
        snapshot = process.cache.snapshot()
        await process.cache.stop()
        (only,) = snapshot.vms.values()
        usable = [token for token in snapshot.join_tokens.values() if not token.revoked]
        assert [token.id for token in usable] == [only.token_id]
        assert only.token_id in given[-1]
        assert len(set(given)) == len(given)


async def test_two_processes_at_once_leave_one_usable_token() -> None:
    async with storing(server(revision=0), vm()) as truth:
        processes = [Process(Handle(truth.store, fuse=-1, after=False), number) for number in range(4)]
        for process in processes:
            await process.cache.start()
        granted = await asyncio.gather(*(process.tokens.grant("s-srv", "vm-a") for process in processes * 3))
        await truth.cache.wait((await truth.store.list("vms"))[1])
        for process in processes:
            await process.cache.stop()
        tokens = [found for found in truth.cache.records("join-tokens").values() if isinstance(found, JoinToken)]
        (usable,) = [token for token in tokens if not token.revoked]
        (found,) = truth.cache.snapshot().vms.values()
        assert found.token_id == usable.id
        assert len(tokens) == len([one for one in granted if one.token])


async def test_a_store_that_is_away_is_told_and_gives_nothing() -> None:
    class Away(Handle):
        async def commit(self, checks: Any, writes: Any) -> int:
            raise StoreError("no quorum")

    async with storing(server(revision=0), vm()) as truth:
        process = Process(Away(truth.store, fuse=-1, after=False), 1)
        await process.cache.start()
        granted = await process.tokens.grant("s-srv", "vm-a")
        await process.cache.stop()
        assert (granted.token, "no quorum" in granted.problem) == ("", True)
