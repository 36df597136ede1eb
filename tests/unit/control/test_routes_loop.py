"""What gateways are told, and when: on connecting, when something else is to be done, when something is leaving."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from prometheus_client import CollectorRegistry
from records import NOW, deployment, member, replica, template
from test_hub import Line

from fallow.control.hub import Hub
from fallow.control.routes import RoutesLoop, withdrawal_controller
from fallow.control.runner import SESSIONS, LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.decide.harvest.heard import HeardServer
from fallow.model.containers import ContainerSpec, PortSpec
from fallow.model.deployments import DeploymentSpec, ReplicaState, RouteSpec
from fallow.model.members import MemberState, Role
from fallow.model.routes import ProxyReport, ProxyState
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm
from fallow.model.wire import SetProxy

WEB = deployment(
    revision=0,
    spec=DeploymentSpec(
        replicas=2,
        container=ContainerSpec(image="shop:1", ports=(PortSpec(container=80),)),
        routes=(RouteSpec(host="shop.test", port=80),),
    ),
)


def serving(slot: int, **more: Any) -> Any:
    ports = {"address": "10.0.0.1", "host_ports": {"80/tcp": 20000 + slot}}
    return replica(WEB, slot, ReplicaState.RUNNING, revision=0, **ports, **more)


def gateway(name: str, **more: Any) -> Any:
    return member(f"gw{name}", id=f"g-{name}", role=Role.GATEWAY, revision=0, **more)


class Rig:
    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.hub = Hub(lambda: NOW)
        self.at = 0.0
        self.now = NOW
        self.servers: dict[str, HeardServer] = {}
        self.loop = RoutesLoop(self.hub, lambda: self.servers)
        self.controllers = [self.loop.controller(), withdrawal_controller(self.hub, Settings(), lambda: self.at)]
        metrics = LoopMetrics(CollectorRegistry())
        self.runner = Runner(stored.cache, stored.applier, self.controllers, lambda: self.now, metrics)
        self.hub.on_change.append(lambda: self.runner.wake({SESSIONS}))

    def connect(self, member_id: str = "g-1") -> Line:
        line = Line(member_id)
        self.hub.open(line)
        return line

    async def leave(self, id_: str) -> int:
        """Let a replica leave and return the revision of that."""
        left = msgspec.structs.replace(
            self.stored.replica(id_), state=ReplicaState.LEAVING, state_since=NOW, healthy_since=0.0
        )
        await self.stored.write(left)
        return self.stored.replica(id_).revision

    async def go_round(self) -> None:
        """Wait until the loops have had a full run from here on."""
        for _ in range(2):
            self.runner.wake({SESSIONS})
            await until(lambda: not any(controller.awake.is_set() for controller in self.controllers))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    records = (WEB, msgspec.structs.replace(template(WEB), revision=0), serving(0), serving(1))
    async with storing(member("a", revision=0), gateway("1"), *records) as stored:
        found = Rig(stored)
        task = asyncio.create_task(found.runner.run())
        yield found
        await ended(task)


async def told(line: Line, count: int) -> ProxyState:
    """Return the newest state a gateway was told, once it was told so many and no more."""
    await until(lambda: len(line.sent) >= count)
    assert len(line.sent) == count
    newest = line.sent[-1]
    assert isinstance(newest, SetProxy)
    return newest.state


def endpoints(state: ProxyState) -> list[str]:
    return [endpoint.id for backend in state.backends for endpoint in backend.endpoints]


async def test_a_gateway_that_connects_is_told_everything(rig: Rig) -> None:
    state = await told(rig.connect(), 1)
    assert endpoints(state) == ["web-0", "web-1"]
    again = await told(rig.connect(), 1)
    assert endpoints(again) == ["web-0", "web-1"]


async def test_a_gateway_is_told_of_nodes_that_are_throttled(rig: Rig) -> None:
    vm = Vm(
        id="v-a", created_at=NOW, updated_at=NOW, name="vm-a", server_id="s-1", cpus=2.0, memory_bytes=2**30,
        disk_bytes=0, image="default", node_id="n-a",
    )  # fmt: skip
    await rig.stored.write(vm)
    line = rig.connect()
    assert {found.weight for backend in (await told(line, 1)).backends for found in backend.endpoints} == {100}
    rig.servers["s-1"] = HeardServer(report=ServerReport(throttled=0.4))
    rig.now += 5
    await rig.go_round()
    assert {found.weight for backend in (await told(line, 2)).backends for found in backend.endpoints} == {25}
    rig.now += 60
    await rig.go_round()
    assert len(line.sent) == 2


async def test_only_gateways_are_told(rig: Rig) -> None:
    node = rig.connect("n-a")
    stranger = rig.connect("g-unknown")
    await told(rig.connect(), 1)
    assert (node.sent, stranger.sent) == ([], [])


async def test_what_changes_no_route_is_not_sent(rig: Rig) -> None:
    line = rig.connect()
    await told(line, 1)
    await rig.stored.write(msgspec.structs.replace(rig.stored.member("n-a"), function="a shelf"))
    await rig.stored.write(replica(WEB, 2, ReplicaState.PLACED, revision=0))
    await rig.go_round()
    await told(line, 1)


async def test_a_replica_that_leaves_is_withdrawn_at_once(rig: Rig) -> None:
    line = rig.connect()
    await told(line, 1)
    revision = await rig.leave("web-0")
    state = await told(line, 2)
    assert (endpoints(state), state.revision >= revision) == (["web-1"], True)
    await rig.go_round()
    await told(line, 2)


async def test_what_was_never_routed_is_confirmed_as_withdrawn_all_the_same(rig: Rig) -> None:
    ports = {"80/tcp": 20002}  # without one nobody could have been told of it
    await rig.stored.write(replica(WEB, 2, ReplicaState.PLACED, revision=0, host_ports=ports))
    line = rig.connect()
    first = await told(line, 1)
    revision = await rig.leave("web-2")
    second = await told(line, 2)
    assert first.backends == second.backends
    assert second.revision >= revision
    rig.hub.proxied("g-1", ProxyReport(applied_revision=second.revision))
    await until(lambda: rig.stored.replica("web-2").state is ReplicaState.STOPPING)


async def test_a_replica_stops_only_when_every_ready_gateway_is_done_with_it(rig: Rig) -> None:
    await rig.stored.write(gateway("2"), gateway("3", state=MemberState.SUSPECT))
    lines = [rig.connect("g-1"), rig.connect("g-2")]
    for line in lines:
        await told(line, 1)
    revision = await rig.leave("web-0")
    rig.hub.proxied("g-1", ProxyReport(applied_revision=revision, draining=("web-0",)))
    rig.hub.proxied("g-2", ProxyReport(applied_revision=revision))
    await rig.go_round()
    assert rig.stored.replica("web-0").state is ReplicaState.LEAVING
    rig.hub.proxied("g-1", ProxyReport(applied_revision=revision))
    await until(lambda: rig.stored.replica("web-0").state is ReplicaState.STOPPING)


async def test_a_gateway_that_comes_back_is_told_again_and_asked_again(rig: Rig) -> None:
    first = rig.connect()
    await told(first, 1)
    rig.hub.proxied("g-1", ProxyReport(applied_revision=1))
    revision = await rig.leave("web-0")
    await told(first, 2)
    rig.hub.closed(first)
    await rig.go_round()
    assert rig.stored.replica("web-0").state is ReplicaState.LEAVING, "its last word was older"
    state = await told(rig.connect(), 1)
    assert state.revision >= revision
    rig.hub.proxied("g-1", ProxyReport(applied_revision=state.revision))
    await until(lambda: rig.stored.replica("web-0").state is ReplicaState.STOPPING)


async def test_a_drain_ends_by_the_steady_clock(rig: Rig) -> None:
    rig.connect()
    await rig.leave("web-0")
    await rig.go_round()
    rig.at = 29.0
    await rig.go_round()
    assert rig.stored.replica("web-0").state is ReplicaState.LEAVING
    rig.at = 31.0
    rig.runner.wake({SESSIONS})
    await until(lambda: rig.stored.replica("web-0").state is ReplicaState.STOPPING)
