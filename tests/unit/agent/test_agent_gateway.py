"""A whole gateway agent: a real TLS session with a scripted control plane, and a proxy that does as it is told."""

import asyncio
import contextlib

import pytest
from session_peer import Peer, TestCa, until

from fallow.agent import gateway as gateway_module
from fallow.agent.gateway import GatewayAgent
from fallow.drivers.proxy.contract import ProxyError
from fallow.model import wire
from fallow.model.members import Role
from fallow.model.routes import ProxyReport, ProxyState


class ScriptedProxy:
    """Remembers what it was asked; `failures` are raised one after the other."""

    def __init__(self):
        self.starts = 0
        self.applied = []
        self.failures = {"start": [], "apply": [], "report": []}
        self.gate = None
        self.draining = ()
        self.refused = ()
        self.stopped = False

    def _enter(self, name):
        if self.failures[name]:
            raise ProxyError(self.failures[name].pop(0))

    async def start(self, last_known):
        assert last_known is None
        self._enter("start")
        self.starts += 1

    async def apply(self, state):
        if self.gate is not None:
            await self.gate.wait()
        self._enter("apply")
        self.applied.append(state.revision)

    async def report(self):
        self._enter("report")
        revision = self.applied[-1] if self.applied else 0
        return ProxyReport(applied_revision=revision, draining=self.draining, refused=self.refused)

    async def version(self):
        return "haproxy 2.6.12"

    async def stop(self):
        self.stopped = True


@pytest.fixture
def quick(monkeypatch):
    for name in ("BUSY_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(gateway_module, name, 0.01)
    monkeypatch.setattr(gateway_module, "QUIET_SECONDS", 0.05)


@pytest.fixture
async def setting(tmp_path, quick):
    ca = TestCa(tmp_path)
    peer = Peer(ca)
    store = ca.store(tmp_path / "data", await peer.start(), Role.GATEWAY)
    proxy = ScriptedProxy()
    stop = asyncio.Event()
    agent = GatewayAgent(proxy, tmp_path / "data", store)
    tasks = []

    def go():
        tasks.append(asyncio.create_task(agent.run(stop)))
        return tasks[-1]

    yield peer, proxy, stop, go
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
    await peer.stop()


def state(revision):
    return wire.SetProxy(state=ProxyState(revision=revision))


def reported(peer, met):
    return peer.until(lambda: any(met(frame.report) for frame in peer.of(wire.ProxyReported)))


async def test_it_applies_the_newest_state_and_reports(setting):
    peer, proxy, _, go = setting
    proxy.gate = asyncio.Event()
    peer.greet_with = [state(1)]
    go()
    await peer.until(lambda: peer.sessions == 1)
    assert peer.hellos[0].facts.engine == "haproxy 2.6.12"
    await until(lambda: proxy.gate._waiters)
    for revision in (2, 3, 4):
        peer.send(state(revision))
    await peer.until(lambda: len(peer.of(wire.Heartbeat)) > 2)
    proxy.gate.set()
    await reported(peer, lambda report: report.applied_revision == 4)
    assert proxy.applied == [1, 4], "those in between are skipped"
    before = len(peer.of(wire.ProxyReported))
    await peer.until(lambda: len(peer.of(wire.ProxyReported)) > before)


async def test_refused_endpoints_are_tried_again(setting):
    peer, proxy, _, go = setting
    proxy.refused = ("r1",)
    peer.greet_with = [state(1)]
    go()
    await until(lambda: proxy.applied.count(1) > 2)
    proxy.refused = ()
    await reported(peer, lambda report: not report.refused)


async def test_a_proxy_in_trouble_is_tried_again_and_the_reason_told(setting):
    peer, proxy, _, go = setting
    proxy.failures["start"] = ["port 80 is taken", "port 80 is taken"]
    proxy.failures["apply"] = ["bad state"] * 3
    peer.greet_with = [state(1)]
    go()
    await reported(peer, lambda report: report.message == "bad state")
    await reported(peer, lambda report: report.applied_revision == 1 and not report.message)


async def test_a_dead_proxy_is_started_again_even_without_a_state(setting):
    peer, proxy, _, go = setting
    go()
    await peer.until(lambda: peer.sessions == 1)
    proxy.failures["report"] = ["it is gone"] * 2
    await until(lambda: proxy.starts == 2)
    await reported(peer, lambda report: report.message == "it is gone")


async def test_it_serves_before_and_after_any_session(setting):
    peer, proxy, stop, go = setting
    peer.refuse_with = wire.Reject(reason="starting")
    task = go()
    await until(lambda: proxy.starts == 1)
    peer.refuse_with = None
    await peer.until(lambda: peer.sessions >= 1 and peer.writer is not None)
    known = len(peer.hellos)
    peer.drop()
    await peer.until(lambda: len(peer.hellos) > known)
    beats = len(peer.of(wire.Heartbeat))
    await peer.until(lambda: len(peer.of(wire.Heartbeat)) > beats)
    stop.set()
    await asyncio.wait_for(task, 5)
    assert not proxy.stopped
    await peer.until(lambda: peer.of(wire.Goodbye))
