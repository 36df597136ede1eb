"""Upgrades over real sessions: who is sent a package, and what is made of the answers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from control_rig import ended, until
from prometheus_client import CollectorRegistry
from session_rig import Connection, SessionRig, accepting

from fallow.control.runner import LoopMetrics, Runner
from fallow.drivers.packages import own_package
from fallow.model.members import AgentWish
from fallow.model.wire import Assign, Heartbeat, Reject, Upgrade, UpgradeReported, Welcome
from fallow.version import VERSION

OWN = own_package()
WISH = AgentWish(upgrade_id="u1", version=VERSION, sha256=OWN.sha256, since=1.0)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SessionRig]:
    async with accepting(tmp_path) as found:
        loops = (found.sessions.upgrades.controller(),)
        runner = Runner(found.stored.cache, found.stored.applier, loops, lambda: 5.0, LoopMetrics(CollectorRegistry()))
        found.hub.on_change.append(lambda: runner.wake({"sessions"}))
        task = asyncio.create_task(runner.run())
        yield found
        await ended(task)


async def wish(rig: SessionRig, wish: AgentWish = WISH) -> None:
    await rig.stored.write(msgspec.structs.replace(rig.stored.member("n-a"), agent=wish))


def why(rig: SessionRig) -> str:
    found = rig.stored.member("n-a").agent
    return found.failed if found is not None else ""


async def session(rig: SessionRig, **more: object) -> Connection:
    connection = await rig.session(await rig.member("a"), **more)
    await connection.hear_a(Welcome)
    await connection.hear_a(Assign)
    return connection


async def test_a_member_is_sent_the_package_it_should_have_once(rig: SessionRig) -> None:
    connection = await session(rig)
    await wish(rig)
    order = await connection.hear_a(Upgrade)
    assert (order.upgrade_id, order.version, order.sha256) == ("u1", VERSION, OWN.sha256)
    assert order.package == OWN.content
    await rig.stored.write(msgspec.structs.replace(rig.stored.member("n-a"), labels={"a": "b"}))
    with pytest.raises(TimeoutError):
        await connection.hear(0.3)
    await connection.say(UpgradeReported(version=VERSION, upgrade_id="u1", error="no room"))
    await until(lambda: why(rig) == "no room")
    assert "AgentUpgradeFailed" in rig.stored.reasons()


async def test_one_that_is_that_version_already_is_sent_nothing(rig: SessionRig) -> None:
    connection = await session(rig, agent_version=VERSION, instance="i")
    await wish(rig)
    await connection.say(Heartbeat())
    with pytest.raises(TimeoutError):
        await connection.hear(0.3)
    assert rig.stored.member("n-a").agent_version == VERSION


async def test_what_an_agent_went_back_from_is_told_with_its_next_session(rig: SessionRig) -> None:
    machine = await rig.member("a")
    await wish(rig)
    report = UpgradeReported(version=VERSION, upgrade_id="u1", error="it had no session within 60 s")
    await (await rig.session(machine, upgrade_failed=report)).hear_a(Welcome)
    assert why(rig) == "it had no session within 60 s"


async def test_old_news_are_not_taken_for_this_upgrade(rig: SessionRig) -> None:
    machine = await rig.member("a")
    await wish(rig)
    report = UpgradeReported(version=VERSION, upgrade_id="u0", error="long ago")
    connection = await rig.session(machine, upgrade_failed=report)
    await connection.hear_a(Welcome)
    await connection.hear_a(Assign)
    await connection.hear_a(Upgrade)
    assert why(rig) == ""


async def test_an_agent_of_the_version_before_cannot_be_swapped_and_keeps_its_session(rig: SessionRig) -> None:
    connection = await session(rig, protocol=1)
    await wish(rig)
    await until(lambda: "too old" in why(rig))
    with pytest.raises(TimeoutError):
        await connection.hear(0.2)


async def test_a_process_without_the_package_says_so(rig: SessionRig) -> None:
    await session(rig)
    await wish(rig, msgspec.structs.replace(WISH, sha256="0" * 64))
    await until(lambda: "has no package of" in why(rig))


async def test_a_report_that_is_too_long_ends_the_session(rig: SessionRig) -> None:
    connection = await session(rig)
    await connection.say(UpgradeReported(version=VERSION, upgrade_id="u1", error="x" * 5000))
    await connection.hear_a(Reject)
