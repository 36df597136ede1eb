"""What a host may rely on of a member cluster, whatever it is."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cluster_backends import ROOM, ClusterRig, fake_cluster, session_cluster
from federation_rig import until

from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import DeploymentSpec
from fallow.model.rooms import RoomQuestion
from fallow.model.shares import ShareOrder, ShareReport
from fallow.model.wire import OpenLog

CONTAINER = ContainerSpec(image="shop:1", ports=(PortSpec(container=80),), resources=Resources(cpus=8.0))
QUESTION = RoomQuestion(key="k", resources=CONTAINER.resources, ports=CONTAINER.ports)


@pytest.fixture(params=["fake", "session"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ClusterRig]:
    async with fake_cluster() if request.param == "fake" else session_cluster(tmp_path) as found:
        yield found


def order(replicas: int, revision: int, name: str = "web", **more: Any) -> ShareOrder:
    spec = DeploymentSpec(replicas=9, container=CONTAINER)
    return ShareOrder(
        deployment_id=f"d-{name}", project="shop", name=name, spec=spec, replicas=replicas, revision=revision,
        **{"generation": 1, **more},
    )  # fmt: skip


async def reported(rig: ClusterRig, holds: Callable[[ShareReport], bool], name: str = "web") -> ShareReport:
    def found() -> ShareReport | None:
        report = rig.heard.reports.get(f"d-{name}")
        return report if report is not None and holds(report) else None

    return await until(found, 20)


streams = itertools.count()


def log(rig: ClusterRig, replica_id: str = "", name: str = "web", **wanted: Any) -> AsyncGenerator[str, None]:
    asked = OpenLog(stream_id=f"s-{next(streams)}", replica_id=replica_id, deployment_id=f"d-{name}", **wanted)
    found = rig.cluster.logs(asked)
    assert found is not None
    return found


def more(rig: ClusterRig) -> int:
    (answer,) = rig.heard.room.answers if rig.heard.room is not None else [None]
    return answer.more if answer is not None else -1


async def test_it_runs_what_is_ordered_and_says_where_and_how_throttled(rig: ClusterRig) -> None:
    rig.cluster.order([order(2, 10)], full=True)
    found = await reported(rig, lambda report: report.ready == 2)
    assert (found.revision, found.generation, found.replicas, found.placed, found.updated) == (10, 1, 2, 2, 2)
    assert (found.state, found.leaving, found.remaining) == ("serving", (), 2)
    assert len({each.id for each in found.endpoints}) == 2
    assert all(each.address and set(each.ports) == {"80/tcp"} and each.weight == 100 for each in found.endpoints)
    await rig.throttle()
    await reported(rig, lambda report: [each.weight for each in report.endpoints] == [25, 25])


async def test_the_newest_order_counts_and_an_older_one_does_not(rig: ClusterRig) -> None:
    rig.cluster.order([order(1, 10)], full=True)
    rig.cluster.order([order(3, 12)])
    rig.cluster.order([order(0, 11)])
    first = await reported(rig, lambda report: report.ready == 3)
    assert first.revision == 12
    rig.cluster.order([order(3, 13)])
    again = await reported(rig, lambda report: report.revision == 13)
    assert again.endpoints == first.endpoints  # the same once more moves nothing


async def test_what_leaves_is_named_and_stops_once_it_is_withdrawn(rig: ClusterRig) -> None:
    rig.cluster.order([order(3, 10)], full=True)
    before = await reported(rig, lambda report: report.ready == 3)
    rig.cluster.order([order(1, 11)])
    found = await reported(rig, lambda report: len(report.leaving) == 2)
    assert (found.ready, found.remaining) == (1, 3)
    kept = {each.id for each in found.endpoints}
    assert kept < {each.id for each in before.endpoints}
    assert kept.isdisjoint(found.leaving)
    rig.cluster.withdrawn(found.leaving)
    assert (await reported(rig, lambda report: report.remaining == 1)).leaving == ()


async def test_what_is_ready_stays_as_far_as_it_is_to_be_kept(rig: ClusterRig) -> None:
    rig.cluster.order([order(3, 10)], full=True)
    before = await reported(rig, lambda report: report.ready == 3)
    rig.cluster.order([order(0, 11, keep=2)])
    found = await reported(rig, lambda report: report.revision == 11 and len(report.leaving) == 1)
    assert (found.ready, found.replicas) == (2, 2)
    assert {each.id for each in found.endpoints} < {each.id for each in before.endpoints}
    rig.cluster.order([order(0, 12)])
    gone = await reported(rig, lambda report: report.revision == 12 and len(report.leaving) == 3)
    assert (gone.ready, gone.replicas) == (0, 0)


async def test_nothing_is_an_order_too_and_is_reported_until_it_is_removed(rig: ClusterRig) -> None:
    rig.cluster.order([order(1, 10), order(1, 10, "other")], full=True)
    await reported(rig, lambda report: report.ready == 1)
    rig.cluster.order([order(0, 11)])
    found = await reported(rig, lambda report: report.ready == 0 and report.leaving != ())
    rig.cluster.withdrawn(found.leaving)
    empty = await reported(rig, lambda report: report.remaining == 0)
    assert (empty.revision, empty.replicas) == (11, 0)
    rig.cluster.order([], removed=["d-web"])
    rig.cluster.order([order(2, 30)])
    assert (await reported(rig, lambda report: report.ready == 2)).revision == 30
    assert rig.heard.reports["d-other"].ready == 1


async def test_with_a_full_set_there_are_no_others(rig: ClusterRig) -> None:
    rig.cluster.order([order(2, 10), order(2, 10, "other")], full=True)
    await reported(rig, lambda report: report.ready == 2)
    await reported(rig, lambda report: report.ready == 2, "other")
    rig.cluster.order([order(4, 12, "other")], full=True)  # needs the room of what is to go

    def done() -> bool:
        leaving = rig.heard.reports["d-web"].leaving if "d-web" in rig.heard.reports else ()
        if leaving:
            rig.cluster.withdrawn(leaving)
        return rig.heard.reports["d-other"].ready == 4

    await until(done, 20)


async def test_what_does_not_fit_waits_and_the_rest_runs(rig: ClusterRig) -> None:
    rig.cluster.order([order(ROOM + 2, 10)], full=True)
    found = await reported(rig, lambda report: report.ready == ROOM)
    assert (found.replicas, found.placed, found.state) == (ROOM + 2, ROOM, "waiting")


async def test_questions_of_room_are_answered_beside_what_is_ordered(rig: ClusterRig) -> None:
    rig.cluster.order([], full=True)
    rig.cluster.ask([QUESTION])
    await until(lambda: more(rig) == ROOM, 20)
    rig.cluster.order([order(3, 10)])
    await until(lambda: more(rig) == ROOM - 3, 20)
    await reported(rig, lambda report: report.ready == 3)
    await until(lambda: rig.heard.room is not None and rig.heard.room.orders == {"d-web": 10}, 20)
    assert more(rig) == ROOM - 3  # that they run now changes nothing
    rig.cluster.order([order(ROOM + 5, 11)])
    await until(lambda: more(rig) == 0, 20)


async def test_asked_nothing_it_tells_what_is_free_in_all_and_no_old_answers(rig: ClusterRig) -> None:
    rig.cluster.order([], full=True)
    rig.cluster.ask([QUESTION])
    await until(lambda: more(rig) == ROOM, 20)
    rig.heard.room = None
    rig.cluster.ask([])
    await until(lambda: rig.heard.room is not None, 20)
    assert rig.heard.room is not None
    assert rig.heard.room.answers == ()
    assert rig.heard.room.summary.nodes
    before = rig.heard.room.summary
    rig.cluster.order([order(1, 10)])
    await until(lambda: rig.heard.room is not None and rig.heard.room.summary != before, 20)


async def test_a_path_that_is_taken_is_refused_with_the_reason(rig: ClusterRig) -> None:
    await rig.own("web")
    rig.cluster.order([order(2, 10), order(1, 10, "other")], full=True)
    found = await reported(rig, lambda report: report.state == "refused")
    assert (found.revision, found.ready, found.replicas) == (10, 0, 0)
    assert "of its own" in found.reason
    await reported(rig, lambda report: report.ready == 1, "other")


async def test_opened_anew_it_reports_all_first_and_goes_on(rig: ClusterRig) -> None:
    rig.cluster.order([order(2, 10), order(1, 10, "other")], full=True)
    before = await reported(rig, lambda report: report.ready == 2)
    await reported(rig, lambda report: report.ready == 1, "other")
    rig.heard.reports.clear()
    await rig.reopen()
    after = await reported(rig, lambda report: report.ready == 2)
    assert after.endpoints == before.endpoints
    await reported(rig, lambda report: report.ready == 1, "other")
    rig.cluster.order([order(2, 20), order(1, 20, "other")], full=True)
    assert (await reported(rig, lambda report: report.revision == 20)).endpoints == before.endpoints


async def two_that_print(rig: ClusterRig) -> tuple[str, str]:
    """Let two replicas run and print two lines each; return their ids."""
    rig.cluster.order([order(2, 10)], full=True)
    report = await reported(rig, lambda report: report.ready == 2)
    first, second = sorted(each.id for each in report.endpoints)
    for replica in (first, second):
        rig.say(replica, "begins", f"{replica} serves")
    return first, second


async def test_lines_of_all_replicas_are_told_apart_and_those_of_one_are_as_they_are(rig: ClusterRig) -> None:
    first, second = await two_that_print(rig)
    lines = [line async for line in log(rig)]
    assert [line for line in lines if line.startswith(first)] == [f"{first} | begins", f"{first} | {first} serves"]
    assert [line for line in lines if line.startswith(second)] == [f"{second} | begins", f"{second} | {second} serves"]
    assert len(lines) == 4
    assert [line async for line in log(rig, first)] == ["begins", f"{first} serves"]
    assert [line async for line in log(rig, first, tail=1)] == [f"{first} serves"]


async def test_a_log_is_followed_until_nobody_reads_it(rig: ClusterRig) -> None:
    first, second = await two_that_print(rig)
    async with (
        asyncio.timeout(20),
        aclosing(log(rig, follow=True, tail=0)) as lines,
        aclosing(log(rig, first, follow=True)) as one,
    ):
        waiting = asyncio.ensure_future(anext(lines))
        assert [await anext(one), await anext(one)] == ["begins", f"{first} serves"]
        await until(lambda: rig.followed() >= 2, 20)
        rig.say(second, "later")
        assert await waiting == f"{second} | later"
    await until(lambda: rig.followed() == 0, 20)


async def test_only_what_is_ordered_is_told(rig: ClusterRig) -> None:
    first, _ = await two_that_print(rig)
    await rig.own("mine")
    for refused in (log(rig, name="mine"), log(rig, first, name="mine"), log(rig, "nobody"), log(rig, name="none")):
        with pytest.raises(LogsRefused):
            await anext(refused)


async def test_who_does_not_read_keeps_nothing_else_waiting(rig: ClusterRig) -> None:
    first, _ = await two_that_print(rig)
    async with aclosing(log(rig, first, follow=True)) as lines:
        assert await anext(lines) == "begins"
        for number in range(2000):
            rig.say(first, f"{number} {'x' * 8000}")
        rig.cluster.order([order(3, 11)])
        await reported(rig, lambda report: report.ready == 3)
        assert await anext(lines) == f"{first} serves"
        async with asyncio.timeout(60):
            async for line in lines:
                if line.startswith("1999 "):
                    break


async def test_what_is_read_breaks_off_with_the_session(rig: ClusterRig) -> None:
    first, _ = await two_that_print(rig)
    lines = log(rig, first, follow=True, tail=1)
    assert await anext(lines) == f"{first} serves"
    await rig.reopen()
    with pytest.raises(LogsRefused, match="session ended"):
        await anext(lines)
    await until(lambda: rig.followed() == 0, 20)
    assert await anext(log(rig, first, tail=1)) == f"{first} serves"
