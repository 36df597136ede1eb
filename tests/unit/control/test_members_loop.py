"""Who is alive, told by a clock that nobody sets; and the sessions of those who are not."""

import itertools

import msgspec
import pytest
from control_rig import Stored, storing
from records import NOW, member
from test_hub import Line

from fallow.control.hub import Hub
from fallow.control.members import LOOK_SECONDS, members_controller, sessions_controller
from fallow.control.settings import Settings
from fallow.decide.plan import Plan
from fallow.model.members import Member, MemberState

FLEET = [member(name, revision=0) for name in "abcd"]
READY, SUSPECT, DEAD = MemberState.READY, MemberState.SUSPECT, MemberState.DEAD


class Rig:
    """The loop with two clocks of the test: `wall` is what people see, `steady` what has really passed.

    The loop began `watched` seconds before the test.
    """

    def __init__(self, stored: Stored, watched: float = 10.0) -> None:
        self.stored = stored
        self.wall = NOW
        self.steady = 50.0
        self.hub = Hub(lambda: self.wall, lambda: self.steady)
        numbers = itertools.count()
        self.controller = members_controller(self.hub, Settings(), lambda: f"e{next(numbers)}", lambda: self.steady)
        self.sessions = sessions_controller(self.hub, Settings())
        self.wall += watched
        self.steady += watched

    def pass_time(self, seconds: float, *silent: str) -> None:
        """Let time pass, with heartbeats of all but the silent ones, and the loop looking, all the time."""
        while seconds > 0:
            self.stand_still(min(LOOK_SECONDS, seconds), *silent)
            self.controller.decide(self.stored.cache.snapshot(), self.wall)
            seconds -= LOOK_SECONDS

    def stand_still(self, seconds: float, *silent: str) -> None:
        """Let time pass in which this process does nothing, with heartbeats at its end."""
        self.wall += seconds
        self.steady += seconds
        self.beat(*silent)

    def beat(self, *silent: str) -> None:
        for known in FLEET:
            if known.name not in silent:
                self.hub.heard(known.id)

    async def judge(self) -> dict[str, MemberState]:
        """Run the loops once, and return who is not ready."""
        self.sessions.decide(self.stored.cache.snapshot(), self.wall)
        return await self.states_after(self.controller.decide(self.stored.cache.snapshot(), self.wall))

    async def states_after(self, plan: Plan) -> dict[str, MemberState]:
        """Apply a plan whole, and return who is not ready."""
        assert (await self.stored.applier.apply(plan)).dropped == 0
        members = self.stored.cache.snapshot().members.values()
        return {found.name: found.state for found in members if found.state is not READY}


async def test_silence_makes_suspect_then_dead_and_a_sign_of_life_ready() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        assert await rig.judge() == {}
        rig.pass_time(3.5, "a")
        assert await rig.judge() == {"a": SUSPECT}
        rig.pass_time(5.0, "a")
        assert await rig.judge() == {"a": DEAD}
        rig.beat()
        assert await rig.judge() == {}
        assert stored.member("n-a").state_since == rig.wall


async def test_a_wall_clock_that_jumps_changes_nobody() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        for jump in (600.0, -1200.0, 86400.0):
            rig.pass_time(1.0)
            rig.wall += jump
            assert await rig.judge() == {}, jump


async def test_a_wall_clock_that_jumps_back_hides_no_death() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        rig.wall -= 3600.0
        rig.pass_time(4.0, "a")
        assert await rig.judge() == {"a": SUSPECT}
        rig.wall -= 3600.0
        rig.pass_time(5.0, "a")
        assert await rig.judge() == {"a": DEAD}


async def test_nobody_is_dead_before_it_was_suspect() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        rig.pass_time(60.0, "a")
        assert await rig.judge() == {"a": SUSPECT}
        assert await rig.judge() == {"a": DEAD}


async def test_an_outage_of_ours_kills_nobody_and_silence_counts_from_its_end() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        everybody = [known.name for known in FLEET]
        for _ in range(100):
            rig.pass_time(1.0, *everybody)
            assert DEAD not in (await rig.judge()).values()
        rig.wall -= 500.0
        rig.beat("a")
        assert await rig.judge() == {"a": SUSPECT}
        for _ in range(7):
            rig.pass_time(1.0, "a")
            assert await rig.judge() == {"a": SUSPECT}
        rig.pass_time(2.0, "a")
        assert await rig.judge() == {"a": DEAD}


async def test_a_process_that_stood_still_waits_for_what_others_heard_meanwhile() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        rig.pass_time(3.5, "a")
        assert await rig.judge() == {"a": SUSPECT}
        for _ in range(2):
            rig.stand_still(3.0, "a")
            assert await rig.judge() == {"a": SUSPECT}
        rig.pass_time(2.5, "a")
        assert await rig.judge() == {"a": SUSPECT}
        rig.pass_time(1.0, "a")
        assert await rig.judge() == {"a": DEAD}


async def test_after_a_start_those_not_yet_heard_get_time() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored, watched=0.0)
        rig.wall += 10_000.0
        rig.beat("a")
        assert await rig.judge() == {}
        rig.pass_time(8.5, "a")
        assert await rig.judge() == {}
        rig.pass_time(1.0, "a")
        assert await rig.judge() == {"a": SUSPECT}
        rig.pass_time(14.0, "a")
        assert await rig.judge() == {"a": SUSPECT}
        rig.pass_time(1.0, "a")
        assert await rig.judge() == {"a": DEAD}


async def test_after_a_start_those_heard_for_a_moment_get_time_too() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored, watched=1.0)
        rig.beat()
        rig.pass_time(8.5, "a")
        assert await rig.judge() == {}
        rig.beat()
        rig.pass_time(3.5, "a")
        assert await rig.judge() == {"a": SUSPECT}


@pytest.mark.parametrize(("others", "seconds"), [(0, 16.5), (1000, 21.5)])
async def test_a_crowd_that_has_to_turn_to_another_process_gets_longer(others: int, seconds: float) -> None:
    crowd = [member(f"m{number}", revision=0) for number in range(others)]
    async with storing(*FLEET, *crowd) as stored:
        rig = Rig(stored, watched=0.0)
        rig.beat()  # as it was told by who led before
        for known in crowd:
            rig.hub.heard(known.id)

        def pass_time(seconds: float) -> None:
            for _ in range(round(seconds / LOOK_SECONDS)):
                rig.pass_time(LOOK_SECONDS, "a")
                for known in crowd:
                    rig.hub.heard(known.id)

        pass_time(9.5)
        assert await rig.judge() == {"a": SUSPECT}
        pass_time(seconds - 10.5)
        assert await rig.judge() == {"a": SUSPECT}
        pass_time(1.5)
        assert await rig.judge() == {"a": DEAD}


async def test_the_session_of_a_dead_member_is_cut_and_it_may_come_back() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        lines = {known.id: Line(known.id) for known in FLEET}
        for line in lines.values():
            rig.hub.open(line)
        rig.pass_time(4.0, "a")
        await rig.judge()
        rig.pass_time(5.0, "a")
        await rig.judge()
        assert not lines["n-a"].ended
        await rig.judge()
        assert [final for _, final in lines["n-a"].ended] == [False]
        rig.hub.closed(lines["n-a"])
        again = Line("n-a")
        rig.hub.open(again)
        await rig.judge()
        assert not any(line.ended for line in (again, lines["n-b"], lines["n-c"]))
        assert stored.member("n-a").state is READY


async def test_what_is_open_to_a_removed_member_is_closed_for_good() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        line = Line("n-a")
        rig.hub.open(line)
        await stored.delete(stored.member("n-a"))
        await rig.judge()
        assert [final for _, final in line.ended] == [True]
        assert "n-a" not in rig.hub.silences()


async def test_a_change_from_elsewhere_is_not_overwritten() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)
        rig.beat()
        rig.pass_time(4.0, "a")
        plan = rig.controller.decide(stored.cache.snapshot(), rig.wall)
        await stored.write(msgspec.structs.replace(stored.member("n-a"), labels={"zone": "a"}))
        assert (await stored.applier.apply(plan)).dropped == 1
        assert await rig.judge() == {"a": SUSPECT}
        found = stored.cache.get("members", "n-a")
        assert isinstance(found, Member)
        assert found.labels == {"zone": "a"}


async def test_with_thousands_who_comes_or_is_fenced_does_not_wait_until_all_are_looked_at() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)

        def slow() -> float:  # as if a look at all of them took a while
            rig.steady += 0.01
            return rig.steady

        loop = members_controller(rig.hub, Settings(), iter(map(str, range(100))).__next__, slow)
        rig.beat()
        await stored.write(msgspec.structs.replace(stored.member("n-a"), state=SUSPECT))
        everybody = loop.decide(stored.cache.snapshot(), rig.wall)
        assert await rig.states_after(everybody) == {}
        assert everybody.wake_after_seconds is None
        await stored.write(msgspec.structs.replace(stored.member("n-a"), state=SUSPECT))
        await stored.write(msgspec.structs.replace(stored.member("n-b"), fence="two machines"))
        some = loop.decide(stored.cache.snapshot(), rig.wall)
        assert await rig.states_after(some) == {"b": DEAD}
        assert some.wake_after_seconds is not None
        assert 0 < some.wake_after_seconds <= LOOK_SECONDS, "all others are looked at soon"


async def test_with_thousands_the_session_of_a_removed_member_does_not_wait_either() -> None:
    async with storing(*FLEET) as stored:
        rig = Rig(stored)

        def slow() -> float:
            rig.steady += 0.01
            return rig.steady

        loop = sessions_controller(rig.hub, Settings(), slow)
        lines = {known.id: Line(known.id) for known in FLEET}
        for line in lines.values():
            rig.hub.open(line)
        assert loop.decide(stored.cache.snapshot(), rig.wall).wake_after_seconds is None
        await stored.delete(stored.member("n-a"))
        assert loop.decide(stored.cache.snapshot(), rig.wall).wake_after_seconds is not None
        assert [name for name, line in lines.items() if line.ended] == ["n-a"]
