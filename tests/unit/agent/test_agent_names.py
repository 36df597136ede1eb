"""A gateway's name server: what it is told, what it keeps, and what it says when nobody tells it anything."""

import asyncio
import contextlib
import threading

import pytest
from dns_client import rcode, udp, values
from session_peer import Peer, TestCa, until
from test_agent_gateway import ScriptedProxy

from fallow.agent import gateway as gateway_module
from fallow.agent import names as names_module
from fallow.agent.gateway import GatewayAgent
from fallow.agent.names import NameService
from fallow.drivers.dns.failures import NameServerError
from fallow.drivers.folders import write_whole
from fallow.model import wire
from fallow.model.members import Role
from fallow.model.names import DNS_PORT_VARIABLE, HostName, NamesChange

FULL = NamesChange(domain="fallow.internal", revision=5, hosts=(HostName("node", "a", "10.0.0.1"),))
MORE = NamesChange(domain="fallow.internal", revision=6, since=5, hosts=(HostName("node", "b", "10.0.0.2"),))


async def started(folder, port=0):
    service = NameService(folder, [("127.0.0.1", port)])
    await service.start()
    return service, int(service.server.listens[0].rpartition(":")[2]) if port else None


@pytest.fixture
async def setting(tmp_path, monkeypatch):
    for name in ("BUSY_SECONDS", "RETRY_SECONDS", "QUIET_SECONDS"):
        monkeypatch.setattr(gateway_module, name, 0.02)
    ca = TestCa(tmp_path)
    peer = Peer(ca)
    folder = tmp_path / "data"
    store = ca.store(folder, await peer.start(), Role.GATEWAY)
    names = NameService(folder, [])
    port = await names.server.listen("127.0.0.1", 0)
    names._addresses = [("127.0.0.1", port)]
    agent = GatewayAgent(ScriptedProxy(), folder, store)
    agent.serves(names)
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    yield peer, names, port, folder, stop, task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task
    await names.stop()
    await peer.stop()


def reports(peer):
    return [frame.report for frame in peer.of(wire.NamesReported)]


async def test_it_serves_what_it_is_told_and_reports(setting):
    peer, _names, port, _folder, _stop, _task = setting
    await peer.until(lambda: len(peer.of(wire.ProxyReported)) > 2)
    assert [(found.name, found.value) for found in peer.hellos[0].variables] == [(DNS_PORT_VARIABLE, str(port))]
    assert reports(peer) == [], "a control plane that sends no names may not know the frame"
    assert rcode(await udp("a.node.fallow.internal", port)) == "SERVFAIL"
    peer.send(wire.SetNames(change=FULL))
    await peer.until(lambda: any(report.revision == 5 for report in reports(peer)))
    assert values(await udp("a.node.fallow.internal", port)) == ["10.0.0.1"]
    peer.send(wire.SetNames(change=MORE))
    await peer.until(lambda: any(report.revision == 6 and report.queries for report in reports(peer)))
    assert values(await udp("b.node.fallow.internal", port)) == ["10.0.0.2"]


async def test_without_a_control_plane_and_after_a_restart_it_serves_what_it_knew(setting):
    peer, names, port, folder, stop, task = setting
    peer.greet_with = [wire.SetNames(change=FULL), wire.SetNames(change=MORE)]
    peer.drop()
    await until(lambda: names.server.zone is not None and names.server.zone.revision == 6)
    await peer.stop()
    assert values(await udp("b.node.fallow.internal", port)) == ["10.0.0.2"]
    stop.set()
    await asyncio.wait_for(task, 10)
    await names.stop()
    later, _ = await started(folder, port)
    try:
        assert values(await udp("b.node.fallow.internal", port)) == ["10.0.0.2"]
        assert values(await udp("a.node.fallow.internal", port)) == ["10.0.0.1"]
    finally:
        await later.stop()


async def test_a_change_to_other_names_breaks_the_session_and_all_come_anew(setting):
    peer, names, _port, _folder, _stop, _task = setting
    peer.greet_with = [wire.SetNames(change=FULL)]
    await peer.until(lambda: peer.sessions == 1)
    peer.send(wire.SetNames(change=NamesChange(domain="fallow.internal", revision=9, since=8)))
    await peer.until(lambda: peer.sessions == 2)
    await until(lambda: names.server.zone is not None and names.server.zone.revision == 5)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"domain": 1}', b"\xff", b'{"domain":"a","revision":5,"since":3}']
)
async def test_what_cannot_be_read_is_waited_for_anew(tmp_path, content):
    (tmp_path / "last-known-names.json").write_bytes(content)
    service = NameService(tmp_path, [])
    await service.start()
    assert service.server.zone is None


async def test_an_address_that_is_taken_is_told_before_anything_else(setting, tmp_path):
    _peer, _names, port, *_ = setting
    with pytest.raises(NameServerError, match="another program"):
        await started(tmp_path, port)


async def test_a_disk_that_is_full_is_reported_and_does_not_stop_names(tmp_path):
    service = NameService(tmp_path / "missing", [])
    service.take(FULL)
    keeping = asyncio.create_task(service.keep())
    await until(lambda: "not kept" in service.report().message)
    assert service.report().revision == 5
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_the_newest_names_are_kept_although_an_older_write_is_under_way(tmp_path, monkeypatch):
    """A write that was cancelled goes on in its thread, and must not end up on top of the newest one."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(path, content, durable):
        if b"10.0.0.2" not in content:
            begun.set()
            assert go_on.wait(10)
        write_whole(path, content, durable)

    monkeypatch.setattr(names_module, "write_whole", slow)
    service = NameService(tmp_path, [])
    service.take(FULL)
    keeping = asyncio.create_task(service.keep())
    assert await asyncio.to_thread(begun.wait, 10)
    service.take(MORE)
    threading.Timer(0.1, go_on.set).start()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    later = NameService(tmp_path, [])
    await later.start()
    assert later.server.zone.revision == 6
