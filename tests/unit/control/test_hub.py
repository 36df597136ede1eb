"""Live facts of sessions: who is connected, what was heard, and logs on their way through."""

import asyncio

import pytest

from fallow.control.backlog import LOG_BACKLOG_BYTES, Backlog
from fallow.control.hub import Hub, HubError
from fallow.model.routes import ProxyReport
from fallow.model.wire import CloseLog, Digest, LogChunk, MemberNews, OpenLog, ToMember


class Line:
    """A session that keeps what it is told."""

    def __init__(self, member_id: str, instance: str = "") -> None:
        self.member_id = member_id
        self.instance = instance
        self.opened_after = ""
        self.agent_version = ""
        self.protocol = 2
        self.key_sha256 = ""
        self.sent: list[ToMember] = []
        self.ended: list[tuple[str, bool]] = []

    def send(self, frame: ToMember) -> None:
        self.sent.append(frame)

    def close(self, reason: str, final: bool = False, clean: bool = False) -> None:
        self.ended.append((reason, final))


async def asked(line: Line, kind: type[ToMember], count: int = 1) -> list[ToMember]:
    """Return the frames of a kind once there are so many."""
    async with asyncio.timeout(5):
        while len(found := [frame for frame in line.sent if isinstance(frame, kind)]) < count:
            await asyncio.sleep(0)
    return found


def test_a_newer_session_takes_the_place_of_an_older_one() -> None:
    hub = Hub(lambda: 5.0)
    old, new = Line("n1"), Line("n1")
    hub.open(old)
    hub.open(new)
    assert old.ended
    hub.closed(old)
    assert hub.connected() == {"n1"}
    assert hub.last_seen("n1") == 5.0
    hub.closed(new)
    assert hub.connected() == frozenset()
    assert hub.last_seen("n1") == 5.0


def test_silence_is_measured_by_the_steady_clock() -> None:
    wall, steady = [1000.0], [5.0]
    hub = Hub(lambda: wall[0], lambda: steady[0])
    hub.heard("n1")
    wall[0] -= 600.0
    steady[0] += 2.5
    assert hub.silences() == {"n1": 2.5}
    assert hub.last_seen("n1") == 1000.0
    hub.forget("n1")
    assert (hub.silences(), hub.last_seen("n1")) == ({}, 0.0)


def test_who_knocks_in_vain_is_alive_and_has_said_nothing() -> None:
    steady = [5.0]
    hub = Hub(lambda: 1000.0, lambda: steady[0])
    assert not hub.spoke_since("n1", 0.0)
    hub.heard("n1")
    assert hub.spoke_since("n1", 5.0)
    assert not hub.spoke_since("n1", 5.1)
    steady[0] += 2.5
    hub.knocked("n1")
    assert (hub.silence("n1"), hub.spoke_since("n1", 5.0)) == (0.0, False)
    hub.heard("n1")
    assert hub.spoke_since("n1", 5.0)
    steady[0] += 2.5
    hub.absorb("peer", Digest(members=(MemberNews(member_id="n1", silence_seconds=0.5),)))
    assert hub.spoke_since("n1", 9.0)


def test_loops_are_woken_by_what_changes_and_not_by_repetition() -> None:
    hub = Hub(lambda: 1.0)
    calls: list[int] = []
    hub.on_change.append(lambda: calls.append(1))
    hub.open(Line("g1"))
    hub.proxied("g1", ProxyReport(applied_revision=3))
    hub.proxied("g1", ProxyReport(applied_revision=3, message="the same"))
    assert len(calls) == 2
    hub.proxied("g1", ProxyReport(applied_revision=4))
    assert len(calls) == 3


def test_that_gateways_elsewhere_keep_up_wakes_only_those_who_wait_for_it() -> None:
    hub = Hub(lambda: 1.0)
    changes: list[int] = []
    hub.open(Line("c1"))
    hub.on_change.append(lambda: changes.append(1))
    applied: list[int] = []
    hub.on_applied.append(lambda: applied.append(1))
    hub.remotes_said("c1", 3)
    hub.remotes_done("c1", 3)
    hub.remotes_done("c1", 3)
    assert (len(changes), len(applied)) == (0, 2)


async def test_log_lines_reach_who_asked_until_the_end() -> None:
    hub = Hub(lambda: 1.0)
    line = Line("n1")
    hub.open(line)
    reading = asyncio.create_task(collect(hub, "n1"))
    (opened,) = await asked(line, OpenLog)
    assert isinstance(opened, OpenLog)
    hub.log_chunk("n2", LogChunk(stream_id=opened.stream_id, lines=("forged",)))
    hub.log_chunk("n1", LogChunk(stream_id=opened.stream_id, lines=("one", "two")))
    hub.log_chunk("n1", LogChunk(stream_id=opened.stream_id, end=True))
    assert await reading == ["one", "two"]
    assert await asked(line, CloseLog)


async def test_a_slow_reader_costs_no_more_than_the_bound_whatever_the_chunks_weigh() -> None:
    backlog = Backlog()
    line = "x" * (1024 * 1024)
    for number in range(100):
        backlog.put(LogChunk(stream_id="s", lines=(f"{number}{line}",)))
    kept = [int((await backlog.get()).lines[0].rstrip("x")) for _ in range(LOG_BACKLOG_BYTES // len(line) - 1)]
    assert kept == list(range(100 - len(kept), 100))
    for _ in range(2 * LOG_BACKLOG_BYTES // 300):
        backlog.put(LogChunk(stream_id="s"))
    backlog.put(LogChunk(stream_id="s", end=True, error="e" * (8 * 1024 * 1024)))
    count = 1
    while not (await backlog.get()).end:
        count += 1
    assert count < LOG_BACKLOG_BYTES // 2 // 256
    newest = LogChunk(stream_id="s", lines=("y" * (2 * LOG_BACKLOG_BYTES),))
    backlog.put(newest)
    assert await asyncio.wait_for(backlog.get(), 5) is newest
    assert backlog._bytes == 0


async def test_a_broken_session_ends_its_logs_with_the_reason() -> None:
    hub = Hub(lambda: 1.0)
    line = Line("n1")
    hub.open(line)
    reading = asyncio.create_task(collect(hub, "n1"))
    await asked(line, OpenLog)
    hub.closed(line)
    with pytest.raises(HubError, match="session ended"):
        await reading


async def test_logs_of_a_session_that_another_replaces_end_too() -> None:
    hub = Hub(lambda: 1.0)
    line = Line("n1")
    hub.open(line)
    reading = asyncio.create_task(collect(hub, "n1"))
    await asked(line, OpenLog)
    hub.open(Line("n1"))
    hub.closed(line)
    with pytest.raises(HubError, match="session ended"):
        await asyncio.wait_for(reading, 5)


async def test_logs_of_a_node_that_is_not_connected_are_refused() -> None:
    with pytest.raises(HubError, match="not connected"):
        await collect(Hub(lambda: 1.0), "n1")


async def collect(hub: Hub, member_id: str) -> list[str]:
    return [line async for line in hub.logs(member_id, OpenLog(stream_id="s", replica_id="web-0", tail=10))]
