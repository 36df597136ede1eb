"""The scripted member cluster keeps to the contract of members; one-way cuts are one-way."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from unittest import mock

import msgspec

import fallow.agent.control_addresses
from fallow.client.frames import read_frame
from fallow.model.cluster_frames import AskRoom, RoomReported, SetShares, SharesReported, SharesStored, Withdrawn
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec
from fallow.model.members import Lease
from fallow.model.peers import ControlAddress
from fallow.model.rooms import RoomQuestion
from fallow.model.shares import ShareOrder, ShareReport
from fallow.model.wire import ControlMoved, Heartbeat, Welcome, decode_from_member, encode_frame
from simulation.clock import VirtualLoop, steady_clocks
from simulation.federation.clusters import Cluster
from simulation.federation.sites import Container, Site
from simulation.members import Folder, Identity, Paper
from simulation.network import USER_TIMEOUT_SECONDS, Network
from simulation.world import end

QUESTION = RoomQuestion(key="one", resources=Resources(cpus=1.0))


class Nobody:
    """Takes no interest in containers."""

    def retires(self, site: Site, container: Container, replaced: bool) -> None: ...

    def has_less_room(self, site: Site) -> None: ...

    def lost(self, site: Site, containers: Any) -> None: ...


class Host:
    """A host that says what a test lets it say, and keeps what it hears."""

    def __init__(self, network: Network, name: str = "control1") -> None:
        self.network = network
        self.shares: dict[str, ShareReport] = {}
        self.frames: list[Any] = []
        self.room: RoomReported | None = None
        self.beats = 0
        self.stores = True
        self.writer: Any = None
        network.serve[name] = self._accept

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.task = asyncio.ensure_future(self._hold(reader, writer))

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._hear(reader, writer)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decode_from_member(await read_frame(reader))
        self.writer = writer
        self.say(Welcome(member_id="c1", name="one", heartbeat_seconds=1.0, lease=Lease(address="10.0.0.1")))
        while True:
            frame = decode_from_member(await read_frame(reader))
            if isinstance(frame, Heartbeat):
                self.beats += 1
                continue
            self.frames.append(frame)
            if isinstance(frame, SharesReported):
                self.shares.update({report.deployment_id: report for report in frame.reports})
                if self.stores:
                    self.say(SharesStored(batch=frame.batch))
            elif isinstance(frame, RoomReported):
                self.room = frame

    def say(self, frame: Any) -> None:
        self.writer.write(encode_frame(frame))


class Place:
    """One cluster with ten processors, and its host."""

    def __init__(self) -> None:
        self.network = Network(Random(1))
        self.host = Host(self.network)
        self.site = Site("c1", "one", 10.0, Nobody())
        self.folder = Folder()
        self.task: asyncio.Task[None] | None = None
        self.start()

    def start(self) -> None:
        identity = Identity("c1", "control1", self.folder)
        cluster = Cluster(self.site, identity, self.network, Random(2), lambda: 0.0, lambda who, what: None)
        self.task = asyncio.ensure_future(cluster.run(asyncio.Event()))

    def kill(self) -> None:
        assert self.task is not None
        self.task.cancel()
        self.network.vanish("c1")


def played(test: Callable[[Place], Awaitable[None]]) -> None:
    loop = VirtualLoop()

    async def play() -> None:
        place = Place()
        await asyncio.sleep(1.0)
        await test(place)

    with (
        steady_clocks(loop),
        mock.patch.object(fallow.agent.control_addresses, "write_private", Paper.write),
    ):
        try:
            loop.run_until_complete(play())
        finally:
            end(loop)


def order(replicas: int, revision: int = 1, **changes: Any) -> ShareOrder:
    spec = DeploymentSpec(replicas=20, container=ContainerSpec(image="shop:1", resources=Resources(cpus=1.0)))
    found = ShareOrder(
        deployment_id="d1", project="shop", name="web", spec=spec, generation=1, replicas=replicas, revision=revision
    )
    return msgspec.structs.replace(found, **changes)


def told(place: Place, *orders: ShareOrder, full: bool = False) -> None:
    place.host.say(SetShares(full=full, orders=orders))


def test_it_runs_what_it_is_told_and_says_so() -> None:
    async def test(place: Place) -> None:
        told(place, order(3))
        await asyncio.sleep(1.0)
        report = place.host.shares["d1"]
        assert (report.revision, report.placed, report.ready) == (1, 3, 0)
        await asyncio.sleep(2.0)
        report = place.host.shares["d1"]
        assert (report.placed, report.ready, report.updated, len(report.endpoints)) == (3, 3, 3, 3)

    played(test)


def test_the_first_report_of_a_session_is_full_and_repeated_until_stored() -> None:
    async def test(place: Place) -> None:
        assert [frame.full for frame in place.host.frames if isinstance(frame, SharesReported)] == [True]
        place.host.stores = False
        told(place, order(1))
        await asyncio.sleep(9.0)
        batches = [frame.batch for frame in place.host.frames if isinstance(frame, SharesReported)]
        assert batches.count(2) >= 4
        assert max(batches) == 2

    played(test)


def test_a_leaving_replica_waits_until_it_is_withdrawn() -> None:
    async def test(place: Place) -> None:
        told(place, order(2))
        await asyncio.sleep(4.0)
        told(place, order(1, 2))
        await asyncio.sleep(25.0)
        report = place.host.shares["d1"]
        assert (report.ready, len(report.leaving), report.remaining) == (1, 1, 2)
        place.host.say(Withdrawn(replica_ids=report.leaving))
        await asyncio.sleep(1.0)
        report = place.host.shares["d1"]
        assert (report.leaving, report.remaining) == ((), 1)

    played(test)


def test_without_a_host_it_goes_on_and_leaving_replicas_stop_after_a_while() -> None:
    async def test(place: Place) -> None:
        told(place, order(3))
        await asyncio.sleep(4.0)
        told(place, order(2, 2))
        await asyncio.sleep(1.0)
        place.network.partition("c1")
        await asyncio.sleep(25.0)
        assert len(place.site.containers) == 3
        await asyncio.sleep(15.0)
        assert (place.site.ready("d1"), len(place.site.containers)) == (2, 2)

    played(test)


def test_room_is_counted_beside_what_is_ordered_and_answered_again_when_it_changes() -> None:
    async def test(place: Place) -> None:
        place.host.say(AskRoom(questions=(QUESTION,)))
        await asyncio.sleep(0.5)
        assert place.host.room is not None and place.host.room.answers[0].more == 10
        told(place, order(4))
        await asyncio.sleep(0.5)
        assert (place.host.room.answers[0].more, place.host.room.orders) == (6, {"d1": 1})
        place.site.shrink(4.0)
        await asyncio.sleep(0.5)
        assert place.host.room.answers[0].more == 2
        place.site.lie = 99
        place.site.changed()
        await asyncio.sleep(0.5)
        assert place.host.room.answers[0].more == 99

    played(test)


def test_it_never_runs_more_than_it_has_room_for() -> None:
    async def test(place: Place) -> None:
        told(place, order(14))
        await asyncio.sleep(4.0)
        report = place.host.shares["d1"]
        assert (report.placed, report.ready, report.replicas) == (10, 10, 14)

    played(test)


def test_an_older_order_is_not_heard() -> None:
    async def test(place: Place) -> None:
        told(place, order(3, 5))
        told(place, order(1, 4))
        await asyncio.sleep(4.0)
        assert (place.host.shares["d1"].revision, place.site.ready("d1")) == (5, 3)

    played(test)


def test_what_a_full_word_does_not_name_leaves() -> None:
    async def test(place: Place) -> None:
        told(place, order(3))
        await asyncio.sleep(4.0)
        told(place, full=True)
        await asyncio.sleep(1.0)
        report = place.host.shares["d1"]
        assert (report.ready, len(report.leaving)) == (0, 3)
        place.host.say(Withdrawn(replica_ids=report.leaving))
        await asyncio.sleep(1.0)
        assert place.host.shares["d1"].remaining == 0

    played(test)


def test_another_generation_replaces_one_at_a_time_and_never_below_the_share() -> None:
    async def test(place: Place) -> None:
        told(place, order(3))
        await asyncio.sleep(4.0)
        told(place, order(3, 2, generation=2))
        for _ in range(300):
            await asyncio.sleep(0.1)
            assert place.site.ready("d1") >= 3
            assert place.site.live("d1") <= 4
            place.host.say(Withdrawn(replica_ids=place.host.shares["d1"].leaving))
        report = place.host.shares["d1"]
        assert (report.ready, report.updated, report.remaining) == (3, 3, 3)

    played(test)


def test_a_backup_knows_neither_newer_orders_nor_newer_containers() -> None:
    async def test(place: Place) -> None:
        told(place, order(2, 1))
        await asyncio.sleep(4.0)
        backup = place.site.kept.copy()
        told(place, order(5, 2))
        await asyncio.sleep(4.0)
        place.kill()
        place.site.restore(backup)
        place.network.partition("c1")
        place.start()
        await asyncio.sleep(2.0)
        assert place.site.ready("d1") == 2
        place.network.heal("c1")
        await asyncio.sleep(2.0)
        assert place.host.shares["d1"].revision == 1
        told(place, order(5, 2), full=True)
        await asyncio.sleep(4.0)
        assert place.site.ready("d1") == 5

    played(test)


def test_who_is_mute_hears_and_who_is_deaf_is_heard() -> None:
    async def test(place: Place) -> None:
        place.network.cut_one_way("c1", mute=True)
        beats = place.host.beats
        told(place, order(2))
        await asyncio.sleep(3.0)
        assert (place.host.beats, place.site.ready("d1")) == (beats, 2)
        place.network.heal("c1")
        await asyncio.sleep(3.0)
        place.network.cut_one_way("c1", mute=False)
        beats = place.host.beats
        told(place, order(4, 2))
        await asyncio.sleep(3.0)
        assert place.host.beats > beats
        assert place.site.ready("d1") == 2
        beats = place.host.beats
        await asyncio.sleep(20.0)
        assert place.host.beats <= beats + 4  # its kernel has given up: nothing is acknowledged

    played(test)


async def with_another(place: Place) -> Host:
    """Return another process of the host, once the cluster knows of it, from a good session with the first."""
    other = Host(place.network, "control2")
    where = ControlAddress(url="https://control2:8443", session_host="control2", session_port=8444)
    place.host.say(ControlMoved(control=(where,)))
    await asyncio.sleep(10.0)
    return other


def test_a_process_that_fell_silent_is_left_for_another_at_once() -> None:
    async def test(place: Place) -> None:
        other = await with_another(place)
        place.network.partition("control1")
        await asyncio.sleep(1.0 + USER_TIMEOUT_SECONDS + 0.5)  # a heartbeat, until that is given up, and the way there
        assert other.beats

    played(test)


def test_a_process_that_broke_off_is_tried_again_where_it_was() -> None:
    async def test(place: Place) -> None:
        other = await with_another(place)
        place.network.reset("control1")
        beats = place.host.beats
        await asyncio.sleep(3.0)
        assert place.host.beats > beats
        assert not other.beats

    played(test)


def test_one_that_is_to_replace_another_is_none_of_those_that_are_kept() -> None:
    async def test(place: Place) -> None:
        told(place, order(2))
        await asyncio.sleep(4.0)
        told(place, order(2, revision=2, generation=2, keep=5))
        kept = []
        for _ in range(100):
            await asyncio.sleep(0.1)
            kept.append(place.host.shares["d1"].replicas)
        assert set(kept) == {2}
        report = place.host.shares["d1"]
        assert (report.placed, report.ready, report.updated) == (2, 2, 2)

    played(test)
