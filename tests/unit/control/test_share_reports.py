"""What a host takes in of reports: of a cluster's own shares, all that is left once it has told all, nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from records import NOW, deployment, member

from fallow.control.intake import Batch
from fallow.control.rooms import Rooms
from fallow.control.share_reports import ShareReports
from fallow.control.shares import Shares
from fallow.decide.federation.shapes import question_of
from fallow.drivers.clusters.fake import FakeCluster
from fallow.model.cluster_frames import RoomReported, SharesReported
from fallow.model.events import Event
from fallow.model.members import Member, Role
from fallow.model.rooms import Room, RoomAnswer
from fallow.model.shares import RemoteEndpoint, Share, ShareReport
from fallow.store.contract import Conflict

WEB = deployment("web", 5, revision=0)
WEST = member("west", id="c-west", role=Role.CLUSTER, revision=0, observed_address="192.0.2.1")
EAST = member("east", id="c-east", role=Role.CLUSTER, revision=0, observed_address="192.0.2.2")


def share(of: str, cluster: str, replicas: int = 2, **more: Any) -> Share:
    return Share(
        id=f"d-{of}.{cluster}", created_at=NOW, updated_at=NOW, deployment_id=f"d-{of}", cluster_id=cluster,
        replicas=replicas, order=1, **more,
    )  # fmt: skip


def ready(of: str = "web", count: int = 1, **more: Any) -> ShareReport:
    endpoints = tuple(RemoteEndpoint(id=f"{of}-{n}", address="10.0.0.1", ports={}) for n in range(count))
    return ShareReport(deployment_id=f"d-{of}", ready=count, endpoints=endpoints, **more)


class Rig:
    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.now = NOW + 10
        self.opening = 0  # of the session that is held here
        self.reports = ShareReports(stored.cache, stored.applier, lambda: self.now, lambda _: self.opening)

    async def hear(self, cluster: str, *reports: ShareReport, full: bool = False, more: bool = False) -> None:
        async with asyncio.timeout(5):
            await self.reports.shared(cluster, SharesReported(batch=1, reports=reports, full=full, more=more))

    def share(self, of: str, cluster: str) -> Share:
        found = self.stored.cache.get("shares", f"d-{of}.{cluster}")
        assert isinstance(found, Share)
        return found

    def events(self) -> list[Event]:
        return [found for found in self.stored.cache.records("events").values() if isinstance(found, Event)]


@asynccontextmanager
async def hearing(*shares: Share) -> AsyncIterator[Rig]:
    async with storing(WEB, WEST, EAST, *shares) as stored:
        rig = Rig(stored)
        running = asyncio.create_task(rig.reports.run())
        try:
            yield rig
        finally:
            await ended(running)


async def test_a_cluster_speaks_of_its_own_shares_alone() -> None:
    async with hearing(share("web", "c-west"), share("web", "c-east")) as rig:
        await rig.hear("c-west", ready(), ready("other"), ready("web.c-east", 3), ready("../web"))
        assert rig.share("web", "c-west").reported == ready()
        assert rig.share("web", "c-east").reported is None
        assert set(rig.stored.cache.records("shares")) == {"d-web.c-west", "d-web.c-east"}


async def test_the_same_words_are_stored_once() -> None:
    async with hearing(share("web", "c-west")) as rig:
        await rig.hear("c-west", ready())
        revision = rig.stored.cache.revision
        rig.now += 5
        await rig.hear("c-west", ready())
        assert rig.stored.cache.revision == revision


async def test_what_came_on_a_session_that_another_has_followed_is_not_taken_in() -> None:
    async with hearing(share("web", "c-west"), share("old", "c-west")) as rig:
        west = rig.stored.cache.get("members", "c-west")
        assert isinstance(west, Member)
        await rig.stored.write(msgspec.structs.replace(west, opened_at_revision=7))
        rig.opening = 7
        await rig.hear("c-west", ready(count=2), ready("old"))
        rig.opening = 6  # a process that was frozen goes on
        with pytest.raises(asyncio.CancelledError):
            await rig.hear("c-west", ready("old"), full=True)
        assert rig.share("web", "c-west").reported == ready(count=2)
        rig.opening = 7  # it was the living one all the same, and is answered now
        await rig.hear("c-west", ready(), full=True)
        assert rig.share("web", "c-west").reported == ready()
        assert rig.share("old", "c-west").reported == ready("old")  # it was named before


async def test_a_session_that_opens_meanwhile_elsewhere_counts_before_what_came_here() -> None:
    async with hearing(share("web", "c-west")) as rig:
        rig.opening = 6
        west = rig.stored.cache.get("members", "c-west")
        assert isinstance(west, Member)
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        steps = rig.reports.steps([Batch(member_id="c-west", items=[ready()], stored=stored, opening=6)])
        await rig.stored.write(msgspec.structs.replace(west, opened_at_revision=7))
        with pytest.raises(Conflict):
            await rig.stored.applier.commit(steps[0])


async def test_nothing_is_left_of_what_a_full_set_has_not_named() -> None:
    async with hearing(share("web", "c-west"), share("old", "c-west"), share("web", "c-east")) as rig:
        await rig.hear("c-west", ready(), ready("old"))
        await rig.hear("c-east", ready())
        await rig.hear("c-west", ready(), full=True, more=True)
        assert rig.share("old", "c-west").reported == ready("old")  # it may come with the rest
        await rig.hear("c-west", full=True)
        assert rig.share("old", "c-west").reported == ShareReport(deployment_id="d-old")
        assert rig.share("web", "c-west").reported == ready()
        assert rig.share("web", "c-east").reported == ready()


async def test_a_full_set_that_broke_off_counts_for_nothing() -> None:
    async with hearing(share("web", "c-west"), share("old", "c-west")) as rig:
        await rig.hear("c-west", ready(), ready("old"))
        await rig.hear("c-west", ready("old"), full=True, more=True)
        rig.reports.opened("c-west")  # anew: what the session before has named says nothing of this one
        await rig.hear("c-west", ready(), full=True)
        assert rig.share("old", "c-west").reported == ShareReport(deployment_id="d-old")


async def test_endpoints_that_must_not_be_dialled_are_dropped_and_told_of_once() -> None:
    async with hearing(share("web", "c-west")) as rig:
        bad = (RemoteEndpoint(id="a", address="169.254.169.254"), RemoteEndpoint(id="b", address="127.0.0.1"))
        said = ready(count=1, reason="a\nb")
        lying = msgspec.structs.replace(said, ready=3, endpoints=(*said.endpoints, *bad))
        await rig.hear("c-west", lying)
        stored = rig.share("web", "c-west").reported
        assert stored is not None
        assert ([found.id for found in stored.endpoints], stored.ready, stored.reason) == (["web-0"], 1, "a b")
        await rig.hear("c-west", msgspec.structs.replace(lying, placed=4))
        (told,) = rig.events()
        assert (told.reason, told.subject, told.level) == ("EndpointsDropped", "west", "warning")
        assert "169.254.169.254" in told.message


async def test_room_is_stored_as_it_is_asked_for_and_when_it_differs() -> None:
    async with storing(WEB, WEST, share("web", "c-west")) as stored:
        question = question_of(WEB)
        rooms = Rooms(stored.cache, stored.applier, lambda: NOW, lambda _: (question,))
        running = asyncio.create_task(rooms.run())
        try:
            said = RoomReported(
                answers=(RoomAnswer(key=question.key, more=7), RoomAnswer(key="x", more=9)),
                orders={"d-web": 3, "d-gone": 4},
            )
            rooms.roomed("c-west", said)
            rooms.roomed("c-nobody", said)
            async with asyncio.timeout(5):
                while not stored.cache.records("rooms"):
                    await asyncio.sleep(0.001)
            (room,) = stored.cache.records("rooms").values()
            assert isinstance(room, Room)
            assert (room.id, set(room.answers), room.orders) == ("c-west", {question.key}, {"d-web": 3})
        finally:
            await ended(running)


async def test_room_waits_while_another_session_of_its_cluster_opened_later() -> None:
    west = msgspec.structs.replace(WEST, opened_at_revision=7)
    openings = {"c-west": 6}
    async with storing(WEB, west, EAST) as stored:
        rooms = Rooms(
            stored.cache, stored.applier, lambda: NOW, lambda _: (), opening_of=lambda id_: openings.get(id_, 0)
        )
        running = asyncio.create_task(rooms.run())
        try:
            rooms.roomed("c-west", RoomReported(orders={"d-web": 3}))
            rooms.roomed("c-east", RoomReported(orders={"d-web": 4}))
            await until(lambda: "c-east" in stored.cache.records("rooms"))
            assert "c-west" not in stored.cache.records("rooms")
            openings["c-west"] = 7
            await until(lambda: "c-west" in stored.cache.records("rooms"))
        finally:
            await ended(running)


async def test_a_cluster_is_told_all_when_it_is_opened_and_then_what_differs() -> None:
    shares_stored = (share("web", "c-west", 3), share("web", "c-east", 9))
    async with storing(WEB, WEST, EAST, *shares_stored) as stored:
        shares = Shares(
            stored.cache, stored.applier, lambda: NOW, lambda now: tuple(map(question_of, now.deployments.values()))
        )
        fake = FakeCluster("c-west", shares.reports)  # type: ignore[arg-type]
        running = asyncio.create_task(shares.run())
        try:
            fake._listener = Both(shares)  # type: ignore[assignment]
            shares.open("c-west", fake)
            assert {id_: len(found) for id_, found in fake.running.items()} == {"d-web": 3}
            await settle(lambda: found(stored, "d-web.c-west").reported is not None)
            before = fake._orders["d-web"]
            now = found(stored, "d-web.c-west")
            await stored.write(msgspec.structs.replace(now, replicas=5, order=stored.cache.revision + 1))
            await settle(lambda: len(fake.running["d-web"]) == 5)
            assert fake._orders["d-web"].revision > before.revision
            await settle(lambda: (r := found(stored, "d-web.c-west").reported) is not None and r.ready == 5)
            revision = stored.cache.revision
            await asyncio.sleep(0)
            assert fake._orders["d-web"].revision < revision  # reports alone make no new order
            await settle(lambda: "c-west" in stored.cache.records("rooms"))
            await stored.delete(found(stored, "d-web.c-west"))
            await settle(lambda: not fake.running)
            shares.close("c-west")
            assert not shares._told
        finally:
            await ended(running)


class Both:
    """What a session hands on to."""

    def __init__(self, shares: Shares) -> None:
        self.shared = shares.reports.shared
        self.roomed = shares.rooms.roomed


def found(stored: Stored, id_: str) -> Share:
    record = stored.cache.get("shares", id_)
    assert isinstance(record, Share)
    return record


async def settle(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
