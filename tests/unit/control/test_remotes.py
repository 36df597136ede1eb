"""What members are told of endpoints elsewhere, what they make of it, and when a leaving replica may stop."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from prometheus_client import CollectorRegistry
from records import NOW, cluster, deployment, member, remote_endpoint, replica, share
from test_hub import Line

from fallow.control.hub import Hub
from fallow.control.remote_services import RemoteServices
from fallow.control.remotes import Remotes
from fallow.control.routes import RoutesLoop, withdrawal_controller
from fallow.control.runner import APPLIED, SESSIONS, LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.model.cluster_frames import RemotesApplied, SetRemotes, Withdrawn
from fallow.model.clusters import HERE_ID
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Origin, ReplicaState, RouteSpec
from fallow.model.hosts import HOST_ID, Host
from fallow.model.members import MemberState, Role
from fallow.model.remotes import RemoteCluster, RemoteService
from fallow.model.routes import ProxyReport, ProxyState
from fallow.model.shares import RemoteEndpoint, Share
from fallow.model.wire import SetProxy

SPEC = DeploymentSpec(
    replicas=4, container=ContainerSpec(image="shop:1"), routes=(RouteSpec(host="shop.test", port=80),)
)
WEB = deployment(revision=0, spec=SPEC, share=2)
ONE, TWO = remote_endpoint("web-0-aa", "10.1.0.1"), remote_endpoint("web-0-bb", "10.2.0.1")


def gateway(id_: str, **more: Any) -> Any:
    return member(id_, id=id_, role=Role.GATEWAY, revision=0, **more)


def told_share(cluster_id: str, *endpoints: RemoteEndpoint, **more: Any) -> Share:
    return msgspec.structs.replace(share(WEB, cluster_id, *endpoints, **more), revision=0)


class Plane:
    """The loops of one control plane over a store of its own, and lines instead of sessions."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.at = 0.0
        self.hub = Hub(lambda: NOW, lambda: self.at)
        self.remotes = Remotes(self.hub, Settings(), lambda: self.at)
        self.controllers = [
            RoutesLoop(self.hub).controller(),
            withdrawal_controller(self.hub, Settings(), lambda: self.at),
            self.remotes.controller(),
        ]
        metrics = LoopMetrics(CollectorRegistry())
        self.runner = Runner(stored.cache, stored.applier, self.controllers, lambda: NOW, metrics)
        self.hub.on_change.append(lambda: self.runner.wake({SESSIONS}))
        self.hub.on_applied.append(lambda: self.runner.wake({APPLIED}))

    def connect(self, member_id: str) -> Line:
        line = Line(member_id)
        self.hub.open(line)
        return line

    async def write(self, *records: Any) -> None:
        """Store records, whatever was stored under their ids."""
        for record in records:
            kind = {Share: "shares", Deployment: "deployments"}.get(type(record), "members")
            known = self.stored.cache.get(kind, record.id)
            revision = known.revision if known is not None else 0
            await self.stored.write(msgspec.structs.replace(record, revision=revision))

    async def go_round(self) -> None:
        """Wait until the loops have had a full run from here on."""
        for _ in range(2):
            self.runner.wake({SESSIONS})
            await until(lambda: not any(controller.awake.is_set() for controller in self.controllers))


async def planes(*records: Any) -> AsyncIterator[Plane]:
    async with storing(*records) as stored:
        found = Plane(stored)
        task = asyncio.create_task(found.runner.run())
        yield found
        await ended(task)


@pytest.fixture
async def host() -> AsyncIterator[Plane]:
    clusters = [cluster("one", "west"), cluster("two", "east"), cluster("here", "east", id=HERE_ID)]
    records = [msgspec.structs.replace(found, revision=0) for found in clusters]
    shares = [told_share("c-one", ONE), told_share("c-two", TWO), told_share(HERE_ID)]
    local = replica(WEB, 7, revision=0, address="10.0.0.1", host_ports={"80/tcp": 20000})
    async for found in planes(WEB, *records, *shares, member("a", revision=0), local):
        yield found


@pytest.fixture
async def guest() -> AsyncIterator[Plane]:
    """The cluster `one` as it sees itself; it has a share of `web`."""
    joined = Host(id=HOST_ID, created_at=NOW, updated_at=NOW, url="", member_id="c-one", name="one")
    own = msgspec.structs.replace(WEB, origin=Origin(revision=1, generation=1), share=1)
    local = replica(own, 0, revision=0, id="web-0-aa", address="10.1.0.1", host_ports={"80/tcp": 20000})
    async for found in planes(own, joined, local, member("a", revision=0)):
        yield found


def endpoints(state: ProxyState) -> list[str]:
    return [endpoint.id for backend in state.backends for endpoint in backend.endpoints]


def newest(line: Line) -> ProxyState:
    frame = line.sent[-1]
    assert isinstance(frame, SetProxy)
    return frame.state


def clusters_told(line: Line, number: int = -1) -> dict[str, list[str]]:
    frame = [frame for frame in line.sent if isinstance(frame, SetRemotes)][number]
    return {found.cluster_id: [at.id for at in found.endpoints] for one in frame.services for found in one.clusters}


def cleared(line: Line) -> list[str]:
    return [id_ for frame in line.sent if isinstance(frame, Withdrawn) for id_ in frame.replica_ids]


async def test_a_gateway_of_the_host_serves_the_endpoints_of_all_clusters(host: Plane) -> None:
    await host.write(gateway("g"))
    line = host.connect("g")
    await until(lambda: line.sent)
    assert endpoints(newest(line)) == ["c-one.web-0-aa", "c-two.web-0-bb", "web-7"]


async def test_a_member_is_told_what_lies_elsewhere_and_then_what_changes(host: Plane) -> None:
    one, two = host.connect("c-one"), host.connect("c-two")
    await until(lambda: one.sent and two.sent)
    assert clusters_told(one) == {"here": ["web-7"], "c-two": ["web-0-bb"]}
    assert clusters_told(two) == {"here": ["web-7"], "c-one": ["web-0-aa"]}
    await host.write(told_share("c-one"))
    await until(lambda: len(two.sent) > 1)
    assert clusters_told(two) == {"here": ["web-7"], "c-one": []}
    assert len(one.sent) == 1, "nothing changed elsewhere"
    frame = two.sent[-1]
    assert isinstance(frame, SetRemotes)
    assert not frame.full


@pytest.fixture
async def services(guest: Plane) -> AsyncIterator[RemoteServices]:
    said: list[RemotesApplied] = []
    found = RemoteServices(guest.stored.cache, guest.stored.applier, guest.hub, lambda: NOW, said.append)
    found.said = said  # type: ignore[attr-defined]
    task = asyncio.create_task(found.run())
    found.opened()
    yield found
    await ended(task)


async def test_a_gateway_of_a_member_serves_what_the_host_has_told(
    host: Plane, guest: Plane, services: RemoteServices
) -> None:
    await guest.write(gateway("g"))
    line, link = guest.connect("g"), host.connect("c-one")
    await until(lambda: line.sent and link.sent)
    for frame in link.sent:
        assert isinstance(frame, SetRemotes)
        services.received(frame)
    await until(lambda: endpoints(newest(line)) == ["c-two.web-0-bb", "here.web-7", "web-0-aa"])
    stored = guest.stored.cache.get("remote-services", WEB.id)
    assert isinstance(stored, RemoteService)
    assert services.applied() == 0
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision))
    await until(services.applied)
    assert [found.revision for found in services.said] == [frame.revision]  # type: ignore[attr-defined]


def leaving(cluster_id: str, *ids: str, **more: Any) -> Share:
    return told_share(cluster_id, leaving=ids, **more)


async def test_a_leaving_replica_stops_when_gateways_here_and_elsewhere_are_done_with_it(host: Plane) -> None:
    await host.write(gateway("g"))
    line, one, two = host.connect("g"), host.connect("c-one"), host.connect("c-two")
    await until(lambda: line.sent and one.sent and two.sent)
    host.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision))
    for at in (one, two):
        host.hub.remotes_said(at.member_id, at.sent[-1].revision)  # type: ignore[union-attr]
    await host.write(leaving("c-one", "web-0-aa"))
    await until(lambda: len(two.sent) > 1 and endpoints(newest(line)) == ["c-two.web-0-bb", "web-7"])
    state, frame = newest(line), two.sent[-1]
    assert isinstance(frame, SetRemotes)
    host.hub.remotes_said("c-two", frame.revision)
    await host.go_round()
    assert cleared(one) == [], "a gateway here has not applied it yet"
    host.hub.proxied("g", ProxyReport(applied_revision=state.revision, draining=("c-one.web-0-aa",)))
    await host.go_round()
    assert cleared(one) == [], "a gateway here still finishes a request"
    host.hub.proxied("g", ProxyReport(applied_revision=state.revision, draining=("web-0-aa",)))
    await until(lambda: cleared(one) == ["web-0-aa"])
    await host.go_round()
    assert (cleared(one), cleared(two)) == (["web-0-aa"], []), "once, and to its own cluster alone"


async def test_a_leaving_replica_waits_for_a_member_that_was_told_of_it(host: Plane) -> None:
    one, two = host.connect("c-one"), host.connect("c-two")
    await until(lambda: one.sent and two.sent)
    host.hub.remotes_said("c-two", two.sent[-1].revision)  # type: ignore[union-attr]
    await host.write(leaving("c-one", "web-0-aa"))
    await until(lambda: len(two.sent) > 1)
    await host.go_round()
    assert cleared(one) == []
    await host.write(cluster("two", "east", state=MemberState.SUSPECT))
    await until(lambda: cleared(one) == ["web-0-aa"])


async def test_a_member_that_has_done_all_it_was_told_is_not_asked_again(host: Plane) -> None:
    one, two = host.connect("c-one"), host.connect("c-two")
    await until(lambda: one.sent and two.sent)
    host.hub.remotes_said("c-two", two.sent[-1].revision)  # type: ignore[union-attr]
    await host.write(told_share("c-one", ONE, leaving=("web-3-cc",)))  # which never was an endpoint
    await until(lambda: cleared(one) == ["web-3-cc"])
    assert len(two.sent) == 1


async def test_what_no_gateway_was_told_of_is_confirmed_by_them_all_the_same(host: Plane) -> None:
    await host.write(gateway("g"))
    line, one = host.connect("g"), host.connect("c-one")
    await until(lambda: line.sent and one.sent)
    await host.write(told_share("c-one", ONE, leaving=("web-3-cc",)))
    await until(lambda: len(line.sent) > 1)
    host.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision))
    await until(lambda: cleared(one) == ["web-3-cc"])


async def test_what_a_member_said_on_an_older_session_counts_no_more(host: Plane) -> None:
    one, two = host.connect("c-one"), host.connect("c-two")
    await until(lambda: one.sent and two.sent)
    host.hub.remotes_said("c-two", 10**9)
    again = host.connect("c-two")
    await until(lambda: again.sent)
    await host.write(told_share("c-one", ONE, leaving=("web-3-cc",)))
    await host.go_round()
    assert cleared(one) == [], "it may have been set back to what it knew long ago"
    host.hub.remotes_said("c-two", again.sent[-1].revision)  # type: ignore[union-attr]
    await until(lambda: cleared(one) == ["web-3-cc"])


async def test_a_member_that_has_gone_is_not_waited_for(host: Plane) -> None:
    one, two = host.connect("c-one"), host.connect("c-two")
    await until(lambda: one.sent and two.sent)
    await host.write(leaving("c-one", "web-0-aa"))
    await host.go_round()
    assert cleared(one) == []
    host.hub.closed(two)
    await host.go_round()
    await until(lambda: cleared(one) == ["web-0-aa"])


async def test_nobody_is_waited_for_longer_than_a_drain_may_take(host: Plane) -> None:
    await host.write(gateway("g"))
    one = host.connect("c-one")
    await until(lambda: one.sent)
    await host.write(leaving("c-one", "web-0-aa"))
    await host.go_round()
    host.at = 29.0
    await host.go_round()
    assert cleared(one) == []
    host.at = 31.0
    await host.go_round()
    await until(lambda: cleared(one) == ["web-0-aa"])


async def test_a_member_that_comes_back_is_told_again_what_may_stop(host: Plane) -> None:
    one = host.connect("c-one")
    await host.write(leaving("c-one", "web-0-aa"))
    await until(lambda: cleared(one) == ["web-0-aa"])
    again = host.connect("c-one")
    await until(lambda: cleared(again) == ["web-0-aa"])


async def test_a_leaving_replica_of_the_host_waits_for_gateways_of_members(host: Plane) -> None:
    one = host.connect("c-one")
    await until(lambda: one.sent)
    left = msgspec.structs.replace(host.stored.replica("web-7"), state=ReplicaState.LEAVING, healthy_since=0.0)
    await host.stored.write(left)
    await until(lambda: len(one.sent) > 1)
    await host.go_round()
    assert host.stored.replica("web-7").state is ReplicaState.LEAVING
    host.hub.remotes_said("c-one", one.sent[-1].revision)  # type: ignore[union-attr]
    await until(lambda: host.stored.replica("web-7").state is ReplicaState.STOPPING)


async def leave_at(guest: Plane) -> None:
    left = msgspec.structs.replace(guest.stored.replica("web-0-aa"), state=ReplicaState.LEAVING, healthy_since=0.0)
    await guest.stored.write(left)
    await guest.go_round()


async def test_a_leaving_replica_of_a_member_waits_for_the_word_of_the_host(guest: Plane) -> None:
    guest.hub.host_opened()
    await leave_at(guest)
    assert guest.stored.replica("web-0-aa").state is ReplicaState.LEAVING
    guest.hub.clear(["web-0-aa"])
    await until(lambda: guest.stored.replica("web-0-aa").state is ReplicaState.STOPPING)


@pytest.mark.parametrize(("opened", "seconds"), [(False, 30.0), (True, 35.0)])
async def test_without_a_word_of_the_host_it_stops_when_the_drain_is_over(
    guest: Plane, opened: bool, seconds: float
) -> None:
    if opened:
        guest.hub.host_opened()
    await leave_at(guest)
    guest.at = seconds - 1.0
    await guest.go_round()
    assert guest.stored.replica("web-0-aa").state is ReplicaState.LEAVING
    guest.at = seconds + 1.0
    await guest.go_round()
    await until(lambda: guest.stored.replica("web-0-aa").state is ReplicaState.STOPPING)


async def test_what_the_host_cleared_is_forgotten_with_its_session(guest: Plane) -> None:
    guest.hub.host_opened()
    guest.hub.clear(["web-0-aa"])
    guest.hub.host_closed()
    guest.hub.host_opened()
    await leave_at(guest)
    assert guest.stored.replica("web-0-aa").state is ReplicaState.LEAVING


async def test_who_has_no_host_any_more_waits_for_none(guest: Plane) -> None:
    await leave_at(guest)
    assert guest.stored.replica("web-0-aa").state is ReplicaState.LEAVING
    found = guest.stored.cache.get("hosts", HOST_ID)
    assert isinstance(found, Host)
    await guest.stored.write(msgspec.structs.replace(found, refused="removed"))
    await guest.go_round()
    await until(lambda: guest.stored.replica("web-0-aa").state is ReplicaState.STOPPING)


def set_remotes(revision: int, *found: RemoteService, full: bool = False, **more: Any) -> SetRemotes:
    return SetRemotes(full=full, revision=revision, services=found, **more)


def elsewhere(name: str, *ids: str) -> RemoteService:
    clusters = (RemoteCluster(cluster_id="c-two", region="east", endpoints=tuple(map(remote_endpoint, ids))),)
    routes = (RouteSpec(host=f"{name}.test", port=80),)
    return RemoteService(
        id=f"d-{name}", created_at=NOW, updated_at=NOW, project="shop", name=name, deployed_at=NOW,
        routes=routes, clusters=clusters,
    )  # fmt: skip


def known(guest: Plane) -> dict[str, list[str]]:
    records = guest.stored.cache.records("remote-services").values()
    found = [record for record in records if isinstance(record, RemoteService)]
    return {one.name: [at.id for cluster in one.clusters for at in cluster.endpoints] for one in found}


def said(services: RemoteServices) -> list[int]:
    return [found.revision for found in services.said]  # type: ignore[attr-defined]


async def test_what_comes_in_parts_is_stored_once_it_is_whole(guest: Plane, services: RemoteServices) -> None:
    services.received(set_remotes(5, elsewhere("web", "web-1"), full=True, more=True))
    settled = asyncio.create_task(services.settled())
    await guest.go_round()
    assert known(guest) == {}
    assert not settled.done()
    services.received(set_remotes(5, elsewhere("far", "far-1"), full=True))
    await until(lambda: known(guest) == {"web": ["web-1"], "far": ["far-1"]})
    await until(settled.done)
    await until(lambda: said(services) == [5])


async def test_a_full_picture_replaces_what_was_known_and_changes_change_it(
    guest: Plane, services: RemoteServices
) -> None:
    services.received(set_remotes(5, elsewhere("web", "web-1"), elsewhere("far", "far-1"), full=True))
    services.received(set_remotes(6, elsewhere("web", "web-2")))
    services.received(set_remotes(7, elsewhere("new", "new-1"), removed=("d-far",)))
    await until(lambda: known(guest) == {"web": ["web-2"], "new": ["new-1"]})
    await until(lambda: said(services)[-1:] == [7])
    services.closed()
    services.opened()
    services.received(set_remotes(9, elsewhere("new", "new-1"), full=True))
    await until(lambda: known(guest) == {"new": ["new-1"]})
    stored = guest.stored.cache.get("remote-services", "d-new")
    assert isinstance(stored, RemoteService)
    assert stored.host_revision == 7, "what is the same is not written again"


async def test_the_host_hears_when_all_gateways_have_done_as_told(guest: Plane, services: RemoteServices) -> None:
    await guest.write(gateway("g"), gateway("h"), gateway("s", state=MemberState.SUSPECT))
    lines = [guest.connect("g"), guest.connect("h")]
    services.received(set_remotes(5, elsewhere("far", "far-1", "far-2"), full=True))
    for line in lines:
        await until(lambda line=line: line.sent and "c-two.far-1" in endpoints(newest(line)))  # type: ignore[misc]
        guest.hub.proxied(line.member_id, ProxyReport(applied_revision=newest(line).revision))
    await until(lambda: said(services) == [5])
    services.received(set_remotes(6, elsewhere("far", "far-2")))
    for line in lines:
        await until(lambda line=line: "c-two.far-1" not in endpoints(newest(line)))  # type: ignore[misc]
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(lines[0]).revision, draining=("c-two.far-1",)))
    guest.hub.proxied("h", ProxyReport(applied_revision=newest(lines[1]).revision, draining=("web-9", "c-two.far-2")))
    await guest.go_round()
    assert said(services) == [5], "a request is still under way"
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(lines[0]).revision))
    await until(lambda: said(services) == [5, 6])


async def test_a_gateway_confirms_also_what_changes_nothing_for_it(guest: Plane, services: RemoteServices) -> None:
    await guest.write(gateway("g"))
    line = guest.connect("g")
    services.received(set_remotes(5, msgspec.structs.replace(elsewhere("far", "far-1"), routes=()), full=True))
    await until(lambda: known(guest))
    stored = guest.stored.cache.get("remote-services", "d-far")
    assert stored is not None
    revision = stored.revision
    await until(lambda: line.sent and newest(line).revision >= revision)
    assert said(services) == []
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision))
    await until(lambda: said(services) == [5])


async def test_a_new_session_asks_gateways_again(guest: Plane, services: RemoteServices) -> None:
    await guest.write(gateway("g"))
    line = guest.connect("g")
    services.received(set_remotes(5, elsewhere("far", "far-1"), full=True))
    await until(lambda: line.sent and "c-two.far-1" in endpoints(newest(line)))
    services.closed()
    services.opened()
    services.received(set_remotes(5, elsewhere("far", "far-1"), full=True))
    await asyncio.wait_for(services.settled(), 5)
    await guest.go_round()
    assert said(services) == [], "no gateway has applied it yet"
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision, draining=("c-two.far-0",)))
    await guest.go_round()
    assert said(services) == [], "what is not known any more may still be asked"
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision, draining=("c-two.far-1",)))
    await until(lambda: said(services) == [5])


async def test_whoever_leads_next_waits_for_what_was_stored_before(guest: Plane, services: RemoteServices) -> None:
    services.received(set_remotes(5, elsewhere("far", "far-1"), full=True))
    await until(lambda: known(guest))
    await guest.write(gateway("g"))
    guest.hub.proxied("g", ProxyReport(applied_revision=1))
    words: list[RemotesApplied] = []
    successor = RemoteServices(guest.stored.cache, guest.stored.applier, guest.hub, lambda: NOW, words.append)
    task = asyncio.create_task(successor.run())
    successor.opened()
    successor.received(set_remotes(6, elsewhere("far", "far-1"), full=True))
    await asyncio.wait_for(successor.settled(), 5)
    await guest.go_round()
    assert words == []
    line = guest.connect("g")
    await until(lambda: line.sent)
    guest.hub.proxied("g", ProxyReport(applied_revision=newest(line).revision))
    await until(lambda: [found.revision for found in words] == [6])
    await ended(task)


async def test_gateways_go_on_with_what_was_known_while_the_host_is_away(
    guest: Plane, services: RemoteServices
) -> None:
    services.received(set_remotes(5, elsewhere("far", "far-1"), full=True))
    await until(lambda: known(guest))
    services.closed()
    await guest.write(gateway("g"))
    line = guest.connect("g")
    await until(lambda: line.sent)
    assert "c-two.far-1" in endpoints(newest(line))


async def test_a_service_that_goes_is_taken_back(host: Plane) -> None:
    one = host.connect("c-one")
    await until(lambda: one.sent)
    found = host.stored.cache.get("deployments", WEB.id)
    assert found is not None
    await host.stored.delete(found)
    await until(lambda: len(one.sent) > 1)
    frame = one.sent[-1]
    assert isinstance(frame, SetRemotes)
    assert (frame.full, frame.removed, frame.services) == (False, (WEB.id,), ())


async def test_what_the_loop_notes_itself_wakes_it_no_more() -> None:
    async with storing(cluster("east", revision=0), WEB) as stored:
        plane = Plane(stored)
        plane.connect("c-east")
        controller = plane.remotes.controller()
        controller.decide(stored.cache.snapshot(), NOW)
        assert plane.hub.remotes("c-east") == 0 and not controller.awake.is_set()
        plane.hub.remotes_said("c-east", stored.cache.snapshot().revision)
        assert controller.awake.is_set()
        controller.awake.clear()
        controller.decide(stored.cache.snapshot(), NOW)
        assert plane.hub.remotes("c-east") == stored.cache.snapshot().revision
        assert not controller.awake.is_set()
        assert plane.controllers[1].awake.is_set()
