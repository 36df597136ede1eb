"""Each invariant of federations notices what it is there for, and lets pass what may be."""

import asyncio
from typing import Any

import msgspec
import pytest
from records import NOW, deployment, member

from fallow.control.settings import Settings
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import ContainerSpec, Resources
from fallow.model.deployments import DeploymentSpec
from fallow.model.divisions import Division
from fallow.model.kinds import KIND_OF
from fallow.model.members import Member, MemberState, Role, Scheduling
from fallow.model.meta import Record
from fallow.model.shares import Share
from fallow.store.contract import Delete, Put, Write
from simulation.clock import VirtualLoop
from simulation.federation.rest import unrest
from simulation.federation.sites import Site
from simulation.federation.watch import FederationWatch
from simulation.story import Story

CPUS = 10.0


class Picture:
    """Three clusters, of which `a` and `b` run two replicas each of four; time is what a test says."""

    def __init__(self, floor: int | None = None, total: int = 4) -> None:
        self.total = total
        self.at = 100.0
        self.story = Story(lambda: self.at)
        self.watch = FederationWatch(self.story, lambda: self.at, Settings(), 2_000_000)
        self.revision = 0
        self.sites = {name: self._join(name) for name in "abc"}
        spec = DeploymentSpec(
            replicas=total,
            container=ContainerSpec(image="shop:1", resources=Resources(cpus=1.0)),
            clusters=ClusterPolicy(floor=floor),
        )
        self.web = deployment(spec=spec, share=0)
        self.commit(self.web, self.division(a=2, b=2))
        self.commit(self.share("a", 2), self.share("b", 2))
        for name in "ab":
            self.run(name, 2)
        self.at += 60.0
        self.hear("abc")

    def _join(self, name: str) -> Site:
        found = member(name, id=name, role=Role.CLUSTER)
        self.commit(found)
        site = self.watch.sites[name] = Site(name, name, CPUS, self.watch)
        return site

    def run(self, name: str, count: int, state: Any = "ready") -> None:
        for _ in range(count):
            site = self.sites[name]
            site._later = lambda seconds, call: None  # type: ignore[method-assign]
            site.begin("d-web", 1, 1.0)
            list(site.containers.values())[-1].state = state

    def hear(self, names: str) -> None:
        for name in names:
            self.watch.heard(name, self.at)

    def division(self, **shares: int) -> Division:
        return Division(
            id="d-web",
            created_at=NOW,
            updated_at=NOW,
            deployment_id="d-web",
            policy="p",
            total=self.total,
            shares=shares,
        )

    def share(self, name: str, replicas: int) -> Share:
        return Share(
            id=f"d-web.{name}",
            created_at=NOW,
            updated_at=NOW,
            deployment_id="d-web",
            cluster_id=name,
            replicas=replicas,
        )

    def member(self, name: str) -> Member:
        return self.watch.members()[name]

    def commit(self, *records: Record, gone: tuple[Record, ...] = ()) -> None:
        self.revision += 1
        writes: list[Write] = [Put(_key(found), msgspec.msgpack.encode(found)) for found in records]
        writes += [Delete(_key(found)) for found in gone]
        self.watch.committed(self.revision, writes)

    def change(self, name: str, **changes: Any) -> None:
        self.commit(msgspec.structs.replace(self.member(name), **changes))

    @property
    def broken(self) -> str | None:
        return self.story.violation


def _key(record: Record) -> str:
    return f"{KIND_OF[type(record)]}/{record.id}"


@pytest.fixture(autouse=True)
def loop() -> Any:
    """Sites ask the running loop for the time."""
    made = VirtualLoop()
    asyncio._set_running_loop(made)
    yield made
    asyncio._set_running_loop(None)
    made.close()


def test_lowering_what_is_ready_before_another_is() -> None:
    picture = Picture()
    picture.commit(picture.division(a=1, b=2, c=1), picture.share("c", 1))
    picture.run("c", 1, "starting")
    assert picture.broken is None
    picture.commit(picture.share("a", 1))
    assert str(picture.broken).startswith("never below the floor by our own doing")


def test_lowering_once_another_is_ready() -> None:
    picture = Picture()
    picture.commit(picture.division(a=1, b=2, c=1), picture.share("c", 1))
    picture.run("c", 1)
    picture.commit(picture.share("a", 1))
    assert picture.broken is None


def test_lowering_what_is_not_ready() -> None:
    picture = Picture()
    picture.sites["a"].lose(list(picture.sites["a"].containers.values())[:1])
    picture.at += 60.0
    picture.hear("abc")
    picture.commit(picture.division(a=1, b=2, c=1), picture.share("c", 1))
    picture.commit(picture.share("a", 1))
    assert picture.broken is None


def test_lowering_down_to_a_floor() -> None:
    picture = Picture(floor=3)
    picture.commit(picture.share("a", 1))
    assert picture.broken is None
    picture.commit(picture.share("a", 0))
    assert str(picture.broken).startswith("never below the floor by our own doing")


def test_counting_on_what_was_lost_just_now_may_be_but_not_once_its_cluster_is_suspect() -> None:
    for silent, allowed in ((3.0, True), (8.0, False)):
        picture = Picture()
        picture.commit(picture.division(a=1, b=2, c=1), picture.share("c", 1))
        picture.run("c", 1)
        picture.sites["b"].lose(list(picture.sites["b"].containers.values()))
        picture.at += silent
        picture.hear("ac")
        picture.commit(picture.share("a", 1))
        assert (picture.broken is None) is allowed


def test_a_cluster_that_retires_what_it_was_not_to() -> None:
    picture = Picture()
    picture.commit(picture.division(a=1, b=2, c=1), picture.share("c", 1))
    picture.run("c", 1)
    picture.commit(picture.share("a", 1))
    first, second = picture.sites["a"].containers.values()
    picture.sites["a"].retire(first, replaced=False)
    assert picture.broken is None
    picture.sites["a"].retire(second, replaced=False)
    assert str(picture.broken).startswith("never below the floor by our own doing")


def test_telling_more_than_fits() -> None:
    picture = Picture(total=15)
    picture.commit(picture.division(a=2, b=2, c=11))
    picture.commit(picture.share("c", 10))
    assert picture.broken is None
    picture.commit(picture.share("c", 11))
    assert str(picture.broken).startswith("no cluster is told more than it has room for")


def test_telling_more_than_fits_to_one_that_lied() -> None:
    picture = Picture()
    picture.sites["c"].lie = 1000
    picture.commit(picture.division(a=0, b=0, c=4))
    picture.sites["c"].cpus = 1.0
    picture.commit(picture.share("c", 4))
    assert picture.broken is None


@pytest.mark.parametrize(("froze_after", "allowed"), [(1.0, True), (13.0, False)])
def test_telling_more_than_fits_by_what_was_known_before_a_freeze(froze_after: float, allowed: bool) -> None:
    picture = Picture()
    picture.sites["c"].lied_at, picture.sites["c"].cpus = picture.at, 1.0
    began, picture.at = picture.at + froze_after, picture.at + 14.0
    picture.watch.held_up["another"] = (began, picture.at)
    picture.hear("c")  # that waited to be read
    picture.commit(picture.division(a=0, b=0, c=4), picture.share("c", 4))
    assert (picture.broken is None) is allowed


@pytest.mark.parametrize(("late", "allowed"), [(1.0, False), (9.0, True)])
def test_telling_more_than_fits_while_who_hears_of_it_trails(late: float, allowed: bool) -> None:
    picture = Picture()
    picture.watch.note_rooms()
    picture.sites["c"].cpus = 1.0
    picture.at += 10.0 - late
    picture.commit(picture.division(a=0, b=0, c=4))
    picture.at += late
    picture.watch.heard_of("plane", picture.revision)
    picture.hear("c")
    picture.commit(picture.share("c", 4))
    assert (picture.broken is None) is allowed


def test_telling_more_to_who_takes_no_more() -> None:
    for changes in ({"state": MemberState.SUSPECT}, {"scheduling": Scheduling.DRAINING}):
        picture = Picture()
        picture.at += 8.0
        picture.change("c", **changes)
        picture.at += 8.0
        picture.commit(picture.division(a=2, b=1, c=1), picture.share("c", 1))
        assert str(picture.broken).startswith("only who takes more is told more"), changes


def test_telling_more_than_the_division() -> None:
    picture = Picture()
    picture.commit(picture.share("c", 1))
    assert str(picture.broken).startswith("nobody is told more than the division says")


def test_dividing_more_than_the_total() -> None:
    picture = Picture()
    picture.commit(picture.division(a=2, b=3))
    assert str(picture.broken).startswith("a division is of the total")


def test_a_move_while_nothing_may_move() -> None:
    picture = Picture()
    picture.watch.calm = True
    picture.commit(picture.division(a=1, b=2, c=1))
    assert str(picture.broken).startswith("a glitch moves nothing")


@pytest.mark.parametrize(
    ("seconds", "heard", "silent", "promise"),
    [(6.0, "bc", "a", "nobody is given up too early"), (30.0, "c", "ab", "who hears nobody gives nobody up")],
    ids=["too early", "while most are silent"],
)
def test_giving_up(seconds: float, heard: str, silent: str, promise: str) -> None:
    picture = Picture()
    picture.at += seconds
    picture.hear(heard)
    for name in silent:
        picture.change(name, state=MemberState.SUSPECT)
    assert picture.broken is None
    picture.change("a", state=MemberState.DEAD)
    assert str(picture.broken).startswith(promise)


@pytest.mark.parametrize(("froze_after", "allowed"), [(10.0, True), (25.0, False)])
def test_giving_up_by_who_was_frozen_before_most_were_silent(froze_after: float, allowed: bool) -> None:
    picture = Picture()
    began, over = picture.at + froze_after, picture.at + 30.0
    picture.at += 7.0
    picture.change("a", state=MemberState.SUSPECT)
    picture.at = over
    picture.watch.held_up[""] = (began, picture.at)
    picture.hear("c")
    picture.watch.host_stumbled_at = picture.at
    picture.change("a", state=MemberState.DEAD)
    assert (picture.broken is None) is allowed


def test_forgetting_a_share_of_which_something_is_left() -> None:
    picture = Picture()
    picture.commit(gone=(picture.watch.shares()["d-web.a"],))
    assert str(picture.broken).startswith("a share goes when nothing of it is left")


def test_rest_without_any_cluster_is_to_be_divided_no_more() -> None:
    picture = Picture()
    picture.sites.clear()
    picture.watch.sites.clear()
    everything = (*picture.watch.members().values(), *picture.watch.shares().values())
    picture.commit(gone=everything)
    assert unrest(picture.watch) == ["shop/web: is still divided"]
    picture.commit(gone=tuple(picture.watch.divisions().values()))
    assert unrest(picture.watch) == ["shop/web: is still divided"]
    web = next(iter(picture.watch.deployments().values()))
    picture.commit(msgspec.structs.replace(web, share=None))
    assert unrest(picture.watch) == []
