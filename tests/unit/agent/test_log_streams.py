"""Logs on their way up a session: how much of them, and how fast."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallow.agent.logs import Bounds, LogStreams
from fallow.drivers.clusters.contract import LogsRefused
from fallow.model.cluster_frames import LogRead
from fallow.model.wire import LogChunk, OpenLog

WANTED = OpenLog(stream_id="s", replica_id="r")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


class Sending:
    """A session that keeps what is sent, and a log of so many lines; `over` when nobody reads that any more."""

    def __init__(self, lines: int, bounds: Bounds, size: int = 1) -> None:
        self.sent: list[LogChunk] = []
        self.over = 0
        self._lines, self._size = lines, size
        self.streams = LogStreams(self._read, self._send, bounds)

    async def _send(self, chunk: LogChunk) -> None:
        self.sent.append(chunk)

    async def _read(self, wanted: OpenLog) -> AsyncGenerator[str, None]:
        try:
            for number in range(self._lines):
                yield f"{number}".rjust(self._size)
            if wanted.follow:
                await asyncio.Event().wait()
        finally:
            self.over += 1


async def test_only_so_much_is_sent_as_has_been_read() -> None:
    sending = Sending(100, Bounds(chunk_chars=10, unread=2), size=10)
    sending.streams.open(WANTED)
    await until(lambda: len(sending.sent) == 2)
    for read in (0, 2, 1, 2):  # late and repeated ones count for nothing
        sending.streams.read(LogRead(stream_id="s", chunks=read))
        sending.streams.read(LogRead(stream_id="another", chunks=9))
    await until(lambda: len(sending.sent) == 4)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(sending.sent) == 4
    sending.streams.read(LogRead(stream_id="s", chunks=10**6))  # what was never sent cannot have been read
    await until(lambda: len(sending.sent) == 6)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(sending.sent) == 6
    sending.streams.close("s")
    await until(lambda: sending.streams.count == 0 and sending.over == 1)


@given(st.integers(0, 40), st.integers(1, 3), st.lists(st.integers(0, 50), max_size=30))
def test_every_line_comes_once_and_in_order_however_late_it_is_read(lines: int, unread: int, reads: list[int]) -> None:
    async def run() -> None:
        sending = Sending(lines, Bounds(chunk_chars=3, unread=unread), size=3)
        sending.streams.open(WANTED)
        for number in reads:
            before = len(sending.sent)
            sending.streams.read(LogRead(stream_id="s", chunks=number))
            await asyncio.sleep(0)
            assert len([chunk for chunk in sending.sent if chunk.lines]) <= max([before, *reads]) + unread
        async with asyncio.timeout(5):
            while not (sending.sent and sending.sent[-1].end):
                sending.streams.read(LogRead(stream_id="s", chunks=len(sending.sent)))
                await asyncio.sleep(0)
        told = [int(line) for chunk in sending.sent for line in chunk.lines]
        assert told == list(range(lines))

    asyncio.run(run())


async def test_more_streams_than_there_may_be_are_refused_and_the_others_go_on() -> None:
    sending = Sending(1, Bounds(streams=1))
    sending.streams.open(OpenLog(stream_id="a", replica_id="r", follow=True))
    sending.streams.open(OpenLog(stream_id="b", replica_id="r"))
    await until(lambda: len(sending.sent) == 2)
    ends = {chunk.stream_id: chunk.error for chunk in sending.sent if chunk.end}
    assert ends == {"b": "1 logs are sent from here already; try again later"}
    sending.streams.close_all()
    await until(lambda: sending.streams.count == 0 and sending.over == 1)


@pytest.mark.parametrize("error", [LogsRefused("not here"), ValueError("odd")])
async def test_why_a_log_breaks_is_told(error: Exception) -> None:
    async def broken(_: OpenLog) -> AsyncGenerator[str, None]:
        yield "first"
        raise error

    sending = Sending(0, Bounds())
    streams = LogStreams(broken, sending._send)
    streams.open(WANTED)
    await until(lambda: len(sending.sent) == 2)
    assert sending.sent[0].lines == ("first",)
    assert sending.sent[1].end
    assert str(error) in sending.sent[1].error
