"""Names as they live: from what is stored to what is answered and what gateways are told, within bounds of time."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from dns_client import rcode, udp, values
from prometheus_client import CollectorRegistry, generate_latest
from records import deployment, member, replica
from session_rig import SessionRig, accepting
from test_hub import Line

from fallow.control.hub import Hub
from fallow.control.members import members_controller
from fallow.control.names import NamesLoop
from fallow.control.runner import SESSIONS, LoopMetrics, Runner
from fallow.control.settings import Settings
from fallow.decide.names import changed
from fallow.model.deployments import ReplicaState
from fallow.model.labels import Variable
from fallow.model.members import Lease, MemberState, Role
from fallow.model.names import DNS_PORT_VARIABLE, NamesReport
from fallow.model.wire import Assign, NamesReported, Reject, SetNames, Welcome

WEB = deployment("web", revision=0)
SETTINGS = Settings(heartbeat_seconds=0.05, suspect_after_seconds=0.3, dead_after_seconds=0.8)


def at(name: str, address: str, **more: Any) -> Any:
    return member(name, lease=Lease(address=address), revision=0, **more)


def serving(slot: int, **more: Any) -> Any:
    return replica(WEB, slot, revision=0, address="10.0.0.1", host_ports={"80/tcp": 20000 + slot}, **more)


class Rig:
    """The loop of names and the one that judges members, on a store, with a name server that listens."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.registry = CollectorRegistry()
        self.hub = Hub(time.time)
        self.names = NamesLoop(self.hub, "fallow.internal", self.registry)
        self.controllers = [
            self.names.controller(),
            members_controller(self.hub, SETTINGS, iter(map(str, range(10**6))).__next__),
        ]
        self.runner = Runner(
            stored.cache, stored.applier, self.controllers, time.time, LoopMetrics(CollectorRegistry())
        )
        self.hub.on_change.append(lambda: self.runner.wake({SESSIONS}))
        self.port = 0

    async def ask(self, name: str, kind: str = "A") -> Any:
        return await udp(f"{name}.fallow.internal", self.port, kind)

    async def until_said(self, name: str, expected: str, seconds: float = 5.0) -> float:
        """Ask until the answer is of a kind, and return after how many seconds it was."""
        began = time.perf_counter()
        async with asyncio.timeout(seconds):
            while (found := rcode(await self.ask(name))) != expected:
                await asyncio.sleep(0.001)
        assert found == expected
        return time.perf_counter() - began


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with storing(at("a", "10.0.0.1"), at("b", "10.0.0.2"), WEB, serving(0), serving(1)) as stored:
        found = Rig(stored)
        for name in "ab":
            found.hub.heard(f"n-{name}")
        task = asyncio.create_task(found.runner.run())
        try:
            await until(lambda: found.names.zone)
            found.port = await found.names.server.listen("127.0.0.1", 0)
            yield found
        finally:
            await ended(task)
            await found.names.server.close()


async def test_a_node_that_falls_silent_leaves_with_its_death_and_comes_back_with_its_life(rig: Rig) -> None:
    alive = {"n-b"}

    async def beat() -> None:
        while True:
            for id_ in alive:
                rig.hub.heard(id_)
            await asyncio.sleep(0.05)

    beating = asyncio.create_task(beat())
    try:
        assert values(await rig.ask("a.node")) == ["10.0.0.1"]
        await until(lambda: rig.stored.member("n-a").state is MemberState.SUSPECT)
        assert rcode(await rig.ask("a.node")) == "NOERROR", "a suspect keeps its name"
        await until(lambda: not rig.names.zone.services["shop", "web"].endpoints)  # type: ignore[union-attr]
        assert values(await rig.ask("web.shop.svc")) == [], "but nothing leads to it"
        await until(lambda: rig.stored.member("n-a").state is MemberState.DEAD)
        assert await rig.until_said("a.node", "NXDOMAIN") < 1.0
        assert values(await rig.ask("b.node")) == ["10.0.0.2"]
        alive.add("n-a")
        await rig.until_said("a.node", "NOERROR")
    finally:
        await ended(beating)


async def test_a_replica_that_leaves_is_gone_at_once(rig: Rig) -> None:
    assert len((await rig.ask("web.shop.svc", "SRV")).rr) == 2
    await rig.stored.write(
        msgspec.structs.replace(rig.stored.replica("web-0"), state=ReplicaState.LEAVING, healthy_since=0.0)
    )
    assert await rig.until_said("web-0.web.shop.svc", "NXDOMAIN") < 1.0
    assert len((await rig.ask("web.shop.svc", "SRV")).rr) == 1


async def test_gateways_that_serve_names_are_told_all_and_then_what_differs(rig: Rig) -> None:
    asked, other = Line("g-1"), Line("g-2")
    rig.hub.open(other)
    rig.hub.open(asked, serves_names=True)
    await until(lambda: asked.sent)
    first = asked.sent[0]
    assert isinstance(first, SetNames)
    assert first.change.since == 0
    zone = changed(None, first.change)
    await rig.stored.write(*(at(f"m{number}", f"10.0.1.{number}") for number in range(9)))
    await until(lambda: len(asked.sent) > 1)
    zone = changed(zone, asked.sent[1].change)  # type: ignore[union-attr]
    await rig.stored.write(at("late", "10.0.2.1"))
    await until(lambda: len(asked.sent) > 2)
    last = asked.sent[2].change  # type: ignore[union-attr]
    assert ([host.name for host in last.hosts], last.services) == (["late"], ())
    assert changed(zone, last) == rig.names.zone
    assert other.sent == [], "who did not say that it serves names would not understand"
    rig.hub.closed(asked)
    again = Line("g-1")
    rig.hub.open(again, serves_names=True)
    await until(lambda: again.sent)
    assert again.sent[0].change.since == 0  # type: ignore[union-attr]


async def test_what_says_nothing_new_about_names_is_not_sent(rig: Rig) -> None:
    line = Line("g-1")
    rig.hub.open(line, serves_names=True)
    await until(lambda: line.sent)
    zone = rig.names.zone
    await rig.stored.write(msgspec.structs.replace(rig.stored.member("n-a"), state_reason="other"))
    rig.runner.wake({SESSIONS})
    await until(lambda: not any(controller.awake.is_set() for controller in rig.controllers))
    assert rig.names.zone is zone
    assert len(line.sent) == 1


async def test_metrics_tell_what_was_answered(rig: Rig) -> None:
    await rig.ask("a.node")
    await rig.ask("nobody.node")
    text = generate_latest(rig.registry).decode()
    for line in (
        'fallow_dns_answers_total{rcode="NOERROR"} 1.0',
        'fallow_dns_answers_total{rcode="NXDOMAIN"} 1.0',
        'fallow_dns_refused_total{why="rate"} 0.0',
        "fallow_dns_answer_seconds_count 2.0",
    ):
        assert f"\n{line}\n" in text
    assert "fallow_dns_zone_revision" in text


# what sessions have to do with it


@pytest.fixture
async def sessions(tmp_path: Any) -> AsyncIterator[SessionRig]:
    async with accepting(tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("role", "variables", "served"),
    [
        (Role.GATEWAY, (Variable(name=DNS_PORT_VARIABLE, value="53"),), True),
        (Role.GATEWAY, (), False),
        (Role.NODE, (Variable(name=DNS_PORT_VARIABLE, value="53"),), False),
    ],
)
async def test_only_a_gateway_that_says_so_serves_names(
    sessions: SessionRig, role: Role, variables: tuple[Variable, ...], served: bool
) -> None:
    machine = await sessions.member("m", role)
    connection = await sessions.session(machine, variables=variables)
    await connection.hear_a(Welcome)
    await until(lambda: sessions.hub.link(machine.record.id))
    assert bool(sessions.hub.name_servers()) is served


async def test_a_gateway_reports_on_names_and_a_node_must_not(sessions: SessionRig) -> None:
    report = NamesReport(revision=7, listens=("10.0.0.1:53",), queries=5)
    gateway = await sessions.member("g", Role.GATEWAY)
    connection = await sessions.session(gateway)
    await connection.hear_a(Welcome)
    await connection.say(NamesReported(report=report))
    await until(lambda: sessions.hub.names_report(gateway.record.id) == report)
    other = Hub(time.time)
    other.absorb("p2", sessions.hub.digest("p1"))
    assert other.names_report(gateway.record.id) == report, "other processes of the control plane know it too"
    node = await sessions.member("n")
    connection = await sessions.session(node)
    await connection.hear_a(Welcome)
    await connection.say(NamesReported(report=report))
    await connection.hear_a(Assign)
    assert "a node sends no NamesReported" in (await connection.hear_a(Reject)).reason
