"""What only a real HAProxy can prove: no failed request under load, across reloads, and when processes are killed."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from proxy_rigs import (
    HOST,
    KEY,
    HAProxyRig,
    HttpClient,
    both,
    reported,
    rig_of,
    until,
    web,
    wire,
)

from fallow.drivers.proxy import haproxy
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.reach import TcpAddress, reachable
from fallow.model.routes import Endpoint, ProxyReport, ProxyState
from testbed import parts
from testbed.ports import free_port

pytestmark = pytest.mark.real


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Any]:
    parts.require("haproxy")
    async with AsyncExitStack() as stack:
        yield lambda **options: stack.enter_async_context(rig_of("haproxy", tmp_path / "proxy", **options))


@pytest.fixture
async def rig(make: Any) -> HAProxyRig:
    found: HAProxyRig = await make()
    return found


class Load:
    """Clients that send requests without a pause and never try again; every status they got, counted."""

    def __init__(self, rig: HAProxyRig, clients: int = 6) -> None:
        self.statuses: dict[int, int] = {}
        self._going = True
        made = [rig.client(keep=number % 2 == 0) for number in range(clients)]
        self._tasks = [asyncio.create_task(self._send(client)) for client in made]

    async def _send(self, client: HttpClient) -> None:
        while self._going:
            status = (await client.request(HOST)).status
            self.statuses[status] = self.statuses.get(status, 0) + 1

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())

    async def more(self, requests: int) -> None:
        """Wait until so many more requests have been answered."""
        goal = self.sent + requests
        await until(lambda: self.sent >= goal)

    async def end(self) -> dict[int, int]:
        """Stop, and return how often each status came."""
        self._going = False
        await asyncio.gather(*self._tasks)
        return self.statuses


async def test_no_request_fails_while_endpoints_come_and_go(rig: HAProxyRig) -> None:
    current = await rig.endpoint("e0")
    await rig.proxy.start(web(1, current))
    load = Load(rig)
    for number in range(1, 13):
        fresh = await rig.endpoint(f"e{number}")
        listens = [wire(number, free_port(), fresh)] if number % 4 == 0 else []  # a new port makes it reload
        state = web(number + 1, fresh)
        for listen in listens:
            state = both(number + 1, state, listen)
        await rig.proxy.apply(state)
        gone = current.id
        report = await reported(rig.proxy, lambda found, gone=gone: gone not in found.draining)  # type: ignore[misc]
        assert report.applied_revision == number + 1
        await rig.kill(current)
        current = fresh
        await load.more(60)
    assert set(await load.end()) == {200}
    assert load.sent > 700


async def test_no_request_fails_when_an_endpoint_is_killed(rig: HAProxyRig) -> None:
    endpoints = [await rig.endpoint(name) for name in ("one", "two", "three")]
    await rig.proxy.start(web(1, *endpoints))
    load = Load(rig)
    await load.more(200)
    await rig.kill(endpoints[0])
    await load.more(400)
    await reported(rig.proxy, lambda found: found.backends[0].endpoints_up == 2)
    await rig.revive(endpoints[0])
    await reported(rig.proxy, lambda found: found.backends[0].endpoints_up == 3)
    assert set(await load.end()) == {200}


async def test_a_request_that_changes_something_is_not_sent_twice(rig: HAProxyRig) -> None:
    endpoints = [await rig.endpoint(name) for name in ("one", "two")]
    await rig.proxy.start(web(1, *endpoints))
    client = rig.client()
    assert (await client.request(HOST, "/vanish", "POST")).status == 502
    assert sum(len(server.requests) for server in rig.servers.values()) == 1
    assert (await client.request(HOST, "/vanish", "GET")).status == 502
    assert sum(len(server.requests) for server in rig.servers.values()) > 2


async def test_endpoints_learn_who_asked_and_nobody_can_pretend(rig: HAProxyRig) -> None:
    await rig.proxy.start(web(1, await rig.endpoint("one")))
    forged = "x-forwarded-for: 6.6.6.6\r\nX-Forwarded-Prefix: /x\r\nforwarded: for=6.6.6.6\r\nx-real-ip: 6.6.6.6\r\n"
    assert (await rig.client().request(HOST, headers=forged + "proxy: http://6.6.6.6\r\n")).status == 200
    head = rig.servers["one"].requests[-1].lower()
    assert "6.6.6.6" not in head
    assert "x-forwarded-prefix" not in head
    assert "x-forwarded-for: 127.0.0.1\r\n" in head
    assert "x-forwarded-proto: http\r\n" in head
    assert f"x-forwarded-host: {HOST}\r\n" in head


async def test_answers_of_the_proxy_itself_name_no_internals(rig: HAProxyRig) -> None:
    await rig.proxy.start(web(1))
    for host, status in ((HOST, 503), ("other.test", 404)):
        answer = await rig.get(host)
        assert answer.status == status
        assert not any(word in answer.body.lower() for word in ("haproxy", "b000", "backend", "<html"))


async def test_a_new_deployment_needs_no_reload(rig: HAProxyRig) -> None:
    await rig.proxy.start(None)
    workers = (await rig.proxy._runtime.processes()).workers
    state = ProxyState()
    for number in range(5):
        state = both(number, state, web(1, await rig.endpoint(f"e{number}"), host=f"h{number}.test", key=f"k{number}"))
        await rig.proxy.apply(state)
        assert (await rig.get(f"h{number}.test")).body == f"e{number}"
    assert (await rig.proxy._runtime.processes()).workers == workers


async def test_when_spare_backends_run_out_it_reloads_and_goes_on(make: Any) -> None:
    rig: HAProxyRig = await make(spare_backends=2)
    await rig.proxy.start(None)
    state = ProxyState()
    endpoints = [await rig.endpoint(f"e{number}") for number in range(5)]
    for number, endpoint in enumerate(endpoints):
        state = both(number, state, web(1, endpoint, host=f"h{number}.test", key=f"k{number}"))
        await rig.proxy.apply(state)
        for earlier in range(number + 1):
            assert (await rig.get(f"h{earlier}.test")).body == f"e{earlier}"
    # servers that a reload read from the file can still be removed, and the backends they leave be used again
    await rig.proxy.apply(ProxyState(revision=9))
    await reported(rig.proxy, lambda found: found.draining == ())
    assert [row for row in await rig.proxy._runtime.servers() if ":" in row.name] == []
    await rig.proxy.apply(web(10, endpoints[0], host="new.test", key="new"))
    assert (await rig.get("new.test")).body == "e0"


async def test_a_reload_keeps_connections_and_still_waits_for_their_requests(rig: HAProxyRig) -> None:
    old, new, listen, other = await rig.endpoint("old"), await rig.endpoint("new"), free_port(), free_port()
    await rig.proxy.start(both(1, web(1, old), wire(1, listen, old)))
    held = await rig.hold(HOST)
    stream = rig.client(keep=True, port=listen)
    assert (await stream.request("any.test")).body == "old"
    await rig.proxy.apply(both(2, web(2, new), wire(2, other, new)))

    assert (await rig.get(HOST)).body == "new"
    assert (await stream.request("any.test")).body == "old"
    assert (await rig.proxy.report()).draining == ("old",)
    assert (await held.finish()).body == "old"
    extra = await rig.endpoint("extra")
    for state in (web(3, new, extra), web(4, new)):
        await rig.proxy.apply(both(state.revision, state, wire(2, other, new)))
    report = await reported(rig.proxy, lambda found: "extra" not in found.draining)
    assert report.draining == ("old",), "the TCP connection is still open"
    await stream.close()
    await reported(rig.proxy, lambda found: found.draining == ())


async def test_a_connection_older_than_a_reload_reaches_what_is_new(rig: HAProxyRig) -> None:
    old, new = await rig.endpoint("old"), await rig.endpoint("new")
    await rig.proxy.start(web(1, old))
    client = rig.client(keep=True)
    assert (await client.request(HOST)).body == "old"
    state = both(2, web(2, new), wire(2, free_port(), new))
    await rig.proxy.apply(both(2, state, web(2, new, host="fresh.test", key="fresh")))
    await reported(rig.proxy, lambda found: found.draining == ())
    await rig.kill(old)
    answer = await client.request("fresh.test")
    assert (answer.status, answer.body) == (200, "new")
    assert "x-forwarded-for: 127.0.0.1\r\n" in rig.servers["new"].requests[-1].lower()


async def test_a_drain_ends_at_its_deadline(make: Any) -> None:
    rig: HAProxyRig = await make(drain_seconds=0.3)
    listen = free_port()
    here, before = await rig.endpoint("here"), await rig.endpoint("before")
    await rig.proxy.start(both(1, web(1, here), wire(1, listen, before)))
    stream = rig.client(keep=True, port=listen)
    assert (await stream.request("any.test")).body == "before"
    held = await rig.hold(HOST)
    await rig.proxy.apply(web(2))  # closes the port, so the stream belongs to the worker before the reload
    await reported(rig.proxy, lambda found: found.draining == ())
    assert (await held.task).status in {502, 503}
    assert (await stream.request("any.test")).status == 0


async def test_a_port_that_is_taken_is_reported_and_stops_nothing_else(rig: HAProxyRig) -> None:
    one, occupant = await rig.endpoint("one"), await rig.endpoint("occupant")
    await rig.proxy.start(None)
    await rig.proxy.apply(both(1, web(1, one), both(1, wire(1, occupant.port, one), wire(1, rig.port, one, key="b"))))
    report = await rig.proxy.report()
    assert f"tcp port {occupant.port} is not open" in report.message
    assert f"tcp port {rig.port} is not open: it is the gateway's port for http" in report.message
    assert (await rig.get(HOST)).body == "one"
    await rig.kill(occupant)
    await reported(rig.proxy, lambda found: f"tcp port {occupant.port}" not in found.message)
    assert (await rig.get_by_port(occupant.port)).body == "one"


async def test_an_unreachable_endpoint_is_tried_again_without_being_asked(rig: HAProxyRig) -> None:
    one = await rig.endpoint("one")
    await rig.kill(one)
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one))
    assert (await rig.get(HOST)).status == 503
    await rig.revive(one)
    await reported(rig.proxy, lambda found: found.refused == ())
    assert (await rig.get(HOST)).body == "one"


async def test_a_new_endpoint_does_not_wait_for_those_that_do_not_answer(
    rig: HAProxyRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []  # behind NAT nothing answers, ever, and to try it takes a second each time

    async def recorded(endpoints: Iterable[Endpoint]) -> set[TcpAddress]:
        found = tuple(endpoints)
        asked.append({endpoint.id for endpoint in found})
        return await reachable(found)

    monkeypatch.setattr(haproxy, "reachable", recorded)
    one, other = await rig.endpoint("one"), await rig.endpoint("other")
    await rig.kill(other)
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, other))
    await rig.proxy.apply(web(2, one, other))
    assert [ids for ids in asked if "one" in ids] == [{"one"}]
    assert (await rig.get(HOST)).body == "one"


async def test_it_is_started_again_when_it_is_killed(rig: HAProxyRig) -> None:
    one, other = await rig.endpoint("one"), await rig.endpoint("other")
    await rig.proxy.start(web(1, one))
    await rig.proxy.apply(both(2, web(2, one), web(2, other, host="other.test", key="k")))
    master = (await rig.proxy._runtime.processes()).master
    os.kill(master, signal.SIGKILL)

    async def another() -> bool:
        found = await rig.proxy._process.find()
        return found is not None and found.master != master

    await until(another)
    await reported(rig.proxy, lambda found: found.message == "")
    assert (await rig.get(HOST)).body == "one"
    assert (await rig.get("other.test")).body == "other"


async def test_what_somebody_else_changed_is_mended(rig: HAProxyRig) -> None:
    one, other = await rig.endpoint("one"), await rig.endpoint("other")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one, other))
    runtime = rig.proxy._runtime
    row = next(row for row in await runtime.servers() if row.name.startswith("one:"))
    place = f"{row.backend}/{row.name}"
    await runtime.ask(f"set server {place} state maint", f"del server {place}")
    await runtime.ask(f"add server {row.backend}/stray:1 127.0.0.1:{other.port}")
    await runtime.ask("clear map routes.map")

    async def mended() -> bool:
        await rig.proxy.report()
        names = {row.name.partition(":")[0] for row in await runtime.servers() if row.ready and ":" in row.name}
        return names == {"one", "other"} and (await rig.get(HOST)).status == 200

    await until(mended)


async def test_what_is_wanted_survives_a_reload_by_hand(rig: HAProxyRig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(None)
    await rig.proxy.apply(web(1, one))
    before = await rig.proxy._runtime.processes()
    os.kill(before.master, signal.SIGUSR2)

    async def reloaded() -> bool:
        found = await rig.proxy._process.find()
        return found is not None and not set(found.workers) & set(before.workers) and not found.old_workers

    await until(reloaded)
    assert (await rig.get(HOST)).body == "one"
    await rig.proxy.apply(web(2))
    assert (await rig.get(HOST)).status == 503


async def test_counters_go_on_across_a_reload(rig: HAProxyRig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(web(1, one))
    for _ in range(3):
        await rig.get(HOST)
    await rig.proxy.apply(both(2, web(2, one), wire(2, free_port(), one)))
    await rig.get(HOST)

    def counted(report: ProxyReport) -> bool:  # HAProxy may count an answer a moment after it was read
        return next(found for found in report.backends if found.key == KEY).requests == 4

    await reported(rig.proxy, counted)


async def test_a_successor_with_other_settings_reloads_it(rig: HAProxyRig) -> None:
    one = await rig.endpoint("one")
    await rig.proxy.start(web(1, one))
    master = (await rig.proxy._runtime.processes()).master
    rig.port = free_port()
    await rig.successor()
    await rig.proxy.start(None)
    assert (await rig.get(HOST)).body == "one"
    assert (await rig.proxy._runtime.processes()).master == master


async def test_it_survives_our_kill_and_is_adopted_without_a_failed_request(rig: HAProxyRig) -> None:
    old, new = await rig.endpoint("old"), await rig.endpoint("new")
    program = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from proxy_rigs import web
        from fallow.drivers.proxy.haproxy import HAProxy
        from fallow.model.routes import Endpoint

        async def main():
            proxy = HAProxy(Path({str(rig.folder)!r}), http_port={rig.port}, bind_address="127.0.0.1")
            await proxy.start(None)
            await proxy.apply(web(5, Endpoint(id="old", address="127.0.0.1", port={old.port})))
            print("ready", flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"
        held = await rig.hold(HOST)
        load = Load(rig)
    finally:
        child.kill()
        await child.wait()
    await load.more(100)
    await rig.proxy.start(None)
    assert (await rig.proxy.report()).applied_revision == 5
    await rig.proxy.apply(web(6, new))
    assert (await rig.proxy.report()).draining == ("old",)
    await load.more(100)
    assert (await held.finish()).body == "old"
    await reported(rig.proxy, lambda found: found.draining == ())
    assert set(await load.end()) == {200}


async def test_it_does_not_start_where_its_port_is_taken_and_says_why(rig: HAProxyRig) -> None:
    occupant = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", rig.port)
    with pytest.raises(ProxyError, match="cannot bind"):
        await rig.proxy.start(None)
    occupant.close()
    await occupant.wait_closed()
    await rig.proxy.start(None)
    assert (await rig.get(HOST)).status == 404


async def test_a_missing_program_is_named(make: Any) -> None:
    rig: HAProxyRig = await make(program="no-such-haproxy")
    with pytest.raises(ProxyError, match="no-such-haproxy cannot be run"):
        await rig.proxy.start(None)
    with pytest.raises(ProxyError, match="no-such-haproxy cannot be run"):
        await rig.proxy.version()
