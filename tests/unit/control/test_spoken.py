"""That a cluster has said all there is to say is on record when its reports and its room are stored, not before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from records import NOW, member

from fallow.control import spoken
from fallow.control.spoken import Spoken
from fallow.decide.federation.words import said_all
from fallow.model.members import Member, MemberState, Role

WEST = member("west", id="c-west", role=Role.CLUSTER, revision=0, state_since=NOW)


class Rig:
    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.spoken = Spoken(stored.cache, stored.applier)

    @property
    def west(self) -> Member:
        return self.stored.member("c-west")

    def speaks(self) -> bool:
        return said_all(self.west)

    async def opens(self, *, asked: bool = False) -> None:
        await self.spoken.opening("c-west")
        self.spoken.opened("c-west", asked=asked)

    async def until_spoken(self) -> None:
        await until(self.speaks, 5)

    async def settled(self) -> None:
        """Wait until all that was woken has been looked at."""
        for _ in range(20):
            await asyncio.sleep(0)
        await self.stored.write(
            member(f"other-{self.stored.cache.revision}", revision=0)
        )  # behind whatever was being committed


@asynccontextmanager
async def listening() -> AsyncIterator[Rig]:
    async with storing(WEST) as stored:
        rig = Rig(stored)
        running = asyncio.create_task(rig.spoken.run())
        try:
            yield rig
        finally:
            await ended(running)


async def test_a_session_is_on_record_before_it_opens_and_counts_when_all_is_said() -> None:
    async with listening() as rig:
        await rig.opens(asked=True)
        assert not rig.speaks()
        rig.spoken.shares_stored("c-west")
        await rig.settled()
        assert not rig.speaks()
        rig.spoken.room_stored("c-west")
        await rig.until_spoken()


async def test_who_is_asked_nothing_need_not_speak_of_its_room() -> None:
    async with listening() as rig:
        await rig.opens()
        rig.spoken.shares_stored("c-west")
        await rig.until_spoken()


async def test_what_a_former_session_said_says_nothing_of_a_newer_one() -> None:
    async with listening() as rig:
        await rig.opens()
        elsewhere = Spoken(rig.stored.cache, rig.stored.applier)
        await elsewhere.opening("c-west")
        rig.spoken.shares_stored("c-west")
        await rig.settled()
        assert not rig.speaks()


async def test_a_session_that_goes_on_is_the_one_though_another_opened_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as rig:
        await rig.opens()
        rig.spoken.shares_stored("c-west")
        await rig.until_spoken()
        await Spoken(rig.stored.cache, rig.stored.applier).opening("c-west")  # it had ended before, unnoticed
        rig.spoken.changed("c-west")
        await rig.settled()
        rig.spoken.heard("c-west")
        await rig.settled()
        assert not rig.speaks(), "what was on its way is no sign that it goes on"
        monkeypatch.setattr(spoken, "STILL_SECONDS", 0.0)
        rig.spoken.heard("c-west")
        await rig.until_spoken()


async def test_a_session_that_goes_on_is_the_one_before_anything_of_it_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening() as rig:
        await rig.opens(asked=True)
        await Spoken(rig.stored.cache, rig.stored.applier).opening("c-west")  # it had ended before, unnoticed
        rig.spoken.changed("c-west")
        await rig.settled()
        assert rig.spoken.opening_of("c-west") < rig.west.opened_at_revision, "so nothing of it is taken in"
        monkeypatch.setattr(spoken, "STILL_SECONDS", 0.0)
        rig.spoken.heard("c-west")
        assert rig.spoken.opening_of("c-west") == rig.west.opened_at_revision


async def test_one_that_was_given_up_and_is_heard_again_has_spoken_on_the_session_it_has() -> None:
    async with listening() as rig:
        await rig.opens()
        rig.spoken.shares_stored("c-west")
        await rig.until_spoken()
        revision = rig.stored.cache.revision
        await rig.stored.write(msgspec.structs.replace(rig.west, state=MemberState.DEAD, died_at_revision=revision))
        rig.spoken.changed("c-west")
        await rig.settled()
        assert not rig.speaks()
        await rig.stored.write(msgspec.structs.replace(rig.west, state=MemberState.READY))
        rig.spoken.changed("c-west")
        await rig.until_spoken()


async def test_a_closed_session_says_nothing_any_more() -> None:
    async with listening() as rig:
        await rig.opens()
        rig.spoken.closed("c-west")
        rig.spoken.shares_stored("c-west")
        await rig.settled()
        assert not rig.speaks()
