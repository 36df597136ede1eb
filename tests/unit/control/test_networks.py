"""What sessions are told of their overlays: everything once, then differences."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from control_rig import Stored, ended, storing
from records import overlaid

from fallow.control.hub import Hub
from fallow.control.networks import Networks
from fallow.model.labels import Variable
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.names import DNS_PORT_VARIABLE
from fallow.model.wire import ChangePeers, SetNetwork, ToMember


class Heard:
    """A session that keeps what it is told."""

    def __init__(self, member_id: str) -> None:
        self.member_id = member_id
        self.frames: list[ToMember] = []

    def send(self, frame: ToMember) -> None:
        self.frames.append(frame)

    def close(self, reason: str, final: bool = False) -> None:
        """Nothing."""

    @property
    def addresses(self) -> set[str]:
        """Return whom it may speak with, by all it was told."""
        found: dict[str, str] = {}
        for frame in self.frames:
            if isinstance(frame, SetNetwork):
                found = {peer.key: peer.address for peer in frame.state.peers}
            elif isinstance(frame, ChangePeers):
                found = {key: address for key, address in found.items() if key not in frame.removed}
                found |= {peer.key: peer.address for peer in frame.changed}
        return set(found.values())


class Rig:
    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.hub = Hub(lambda: 0.0)
        self.networks = Networks(stored.cache, self.hub, pause_seconds=0.0)

    async def join(self, record: Member) -> Heard:
        await self.stored.write(msgspec.structs.replace(record, revision=0))
        await self.stored.applier.catch_up()
        return self.open(record.id)

    def open(self, member_id: str) -> Heard:
        link = Heard(member_id)
        self.hub.open(link)
        self.networks.greet(link)
        return link

    async def change(self, record: Member, **changes: Any) -> None:
        await self.stored.applier.catch_up()
        await self.stored.write(msgspec.structs.replace(self.stored.member(record.id), **changes))


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    async with storing() as stored:
        rig = Rig(stored)
        loop = asyncio.create_task(rig.networks.run())
        await asyncio.sleep(0)
        try:
            yield rig
            assert not loop.done()
        finally:
            await ended(loop)


async def until(link: Heard, *addresses: str) -> None:
    async with asyncio.timeout(5):
        while link.addresses - own(link) != set(addresses):
            await asyncio.sleep(0.001)


def own(link: Heard) -> set[str]:
    """A pool is told as a whole: what it hears of itself, a member drops."""
    return {"10.86.0." + link.member_id.removeprefix("n-m")}


async def test_who_comes_is_told_everything_and_the_others_only_of_it() -> None:
    async with running() as rig:
        one = await rig.join(overlaid("m1", 1))
        assert isinstance(one.frames[0], SetNetwork)
        two = await rig.join(overlaid("m2", 2))
        await until(one, "10.86.0.2")
        await until(two, "10.86.0.1")
        told = [frame for frame in one.frames if isinstance(frame, SetNetwork)]
        assert len(told) == 1, "a change does not send everything again"


async def test_the_dead_and_the_removed_are_withdrawn_and_return() -> None:
    async with running() as rig:
        one = await rig.join(overlaid("m1", 1))
        await rig.join(overlaid("m2", 2))
        await rig.join(overlaid("m3", 3))
        await until(one, "10.86.0.2", "10.86.0.3")
        await rig.change(overlaid("m2", 2), state=MemberState.SUSPECT)
        await rig.change(overlaid("m3", 3), state=MemberState.DEAD)
        await until(one, "10.86.0.2")
        await rig.change(overlaid("m3", 3), state=MemberState.READY)
        await until(one, "10.86.0.2", "10.86.0.3")
        await rig.stored.delete(rig.stored.member("n-m2"))
        await until(one, "10.86.0.3")


async def test_pools_hear_nothing_of_each_other() -> None:
    async with running() as rig:
        blue = await rig.join(overlaid("m1", 1))
        red = await rig.join(overlaid("m2", 2, pool="red"))
        await rig.join(overlaid("m3", 3))
        await rig.join(overlaid("m4", 4, pool="red"))
        await until(blue, "10.86.0.3")
        await until(red, "10.86.0.4")


async def test_a_lease_of_another_pool_is_told_to_it_and_to_both_pools() -> None:
    async with running() as rig:
        one = await rig.join(overlaid("m1", 1))
        two = await rig.join(overlaid("m2", 2, pool="red"))
        moving = await rig.join(overlaid("m3", 3))
        await until(one, "10.86.0.3")
        await rig.change(overlaid("m3", 3), lease=overlaid("m3", 3, pool="red").lease)
        await until(one)
        await until(two, "10.86.0.3")
        await until(moving, "10.86.0.2")
        await rig.change(overlaid("m3", 3), lease=Lease(address="192.0.2.3"))
        await until(two)
        async with asyncio.timeout(5):
            while not (isinstance(last := moving.frames[-1], SetNetwork) and last.state.lease.address == "192.0.2.3"):
                await asyncio.sleep(0.001)


async def test_another_key_takes_the_place_of_the_first() -> None:
    async with running() as rig:
        one = await rig.join(overlaid("m1", 1))
        await rig.join(overlaid("m2", 2))
        await until(one, "10.86.0.2")
        await rig.change(overlaid("m2", 2), wireguard_key=overlaid("x", 7).wireguard_key)
        async with asyncio.timeout(5):
            while not any(isinstance(frame, ChangePeers) and frame.removed for frame in one.frames):
                await asyncio.sleep(0.001)
        assert one.addresses - own(one) == {"10.86.0.2"}


async def test_what_changes_between_greetings_is_not_lost() -> None:
    """A pool is told as a whole: who comes while a change is under way hears of it once more, never not at all."""
    async with running() as rig:
        links = [await rig.join(overlaid(f"m{number}", number)) for number in range(1, 30)]
        everybody = {f"10.86.0.{number}" for number in range(1, 30)}
        for link in links:
            await until(link, *(everybody - own(link)))


async def test_a_key_that_is_stored_late_is_no_less_told() -> None:
    async with running() as rig:
        await rig.join(overlaid("m1", 1))
        late = await rig.join(overlaid("m2", 2, wireguard_key=""))
        assert late.frames == []
        await rig.change(overlaid("m2", 2), wireguard_key=overlaid("m2", 2).wireguard_key)
        await until(late, "10.86.0.1")


def gateway(name: str, number: int, port: str = "53", **changes: Any) -> Member:
    variables = (Variable(name=DNS_PORT_VARIABLE, value=port),)
    return overlaid(name, number, role=Role.GATEWAY, variables=variables, **changes)


def name_servers(link: Heard) -> tuple[str, ...]:
    """Return what a session was last told of name servers."""
    found: tuple[str, ...] = ()
    for frame in link.frames:
        if isinstance(frame, SetNetwork):
            found = frame.state.name_servers
        elif isinstance(frame, ChangePeers) and frame.name_servers is not None:
            found = frame.name_servers
    return found


async def until_asks(link: Heard, *addresses: str) -> None:
    async with asyncio.timeout(5):
        while name_servers(link) != addresses:
            await asyncio.sleep(0.001)


async def test_a_pool_hears_where_names_are_served_and_when_that_changes() -> None:
    async with running() as rig:
        one = await rig.join(overlaid("m1", 1))
        red = await rig.join(overlaid("m2", 2, pool="red"))
        await rig.join(gateway("g7", 7))
        await until_asks(one, "10.86.0.7")
        await rig.join(gateway("g8", 8, port="8453"))  # no container could ask there
        await rig.join(gateway("g6", 6))
        await until_asks(one, "10.86.0.6", "10.86.0.7")
        late = await rig.join(overlaid("m3", 3))
        assert name_servers(late) == ("10.86.0.6", "10.86.0.7")
        assert isinstance(late.frames[0], SetNetwork)
        assert late.frames[0].state.domain == "fallow.internal"
        await rig.change(gateway("g7", 7), state=MemberState.SUSPECT)
        await rig.change(gateway("g6", 6), state=MemberState.DEAD)
        await until_asks(one, "10.86.0.7")
        await rig.change(gateway("g7", 7), variables=())
        await until_asks(one)
        assert name_servers(red) == ()
        quiet = len(one.frames)
        await rig.change(overlaid("m3", 3), state_reason="other")
        await asyncio.sleep(0.01)
        assert len(one.frames) == quiet


async def test_no_node_can_have_containers_ask_it_for_names() -> None:
    async with running() as rig:
        one = await rig.join(overlaid("m1", 1))
        claims = (Variable(name=DNS_PORT_VARIABLE, value="53"),)
        await rig.join(overlaid("m2", 2, variables=claims))
        await until(one, "10.86.0.2")
        assert name_servers(one) == ()


async def test_members_without_overlay_are_told_nothing() -> None:
    async with running() as rig:
        flat = await rig.join(overlaid("m1", 1, lease=Lease(address="192.0.2.1")))
        await rig.join(overlaid("m2", 2))
        mute = await rig.join(overlaid("m3", 3, wireguard_key=""))
        await rig.join(overlaid("m4", 4))
        await asyncio.sleep(0.01)
        assert flat.frames == []
        assert mute.frames == []
