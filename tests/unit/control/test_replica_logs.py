"""What a host may read here, and lines of several replicas as one log."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from control_rig import storing
from records import deployment, member, replica
from test_hub import Line

from fallow.control.hub import Hub, HubError
from fallow.control.replica_logs import OrderedLogs, merged
from fallow.model.deployments import Origin, ReplicaState
from fallow.model.wire import Digest, LogChunk, MemberNews, OpenLog, ToMember

ORDERED = deployment("web", 2, share=2, origin=Origin(revision=7, generation=1, taken_as=1), revision=0)
OWN = deployment("mine", 1, revision=0)


class Printing(Line):
    """A node whose replicas have printed one line each."""

    def __init__(self, member_id: str, hub: Hub) -> None:
        super().__init__(member_id)
        self._hub = hub
        hub.open(self)

    def send(self, frame: ToMember) -> None:
        super().send(frame)
        if isinstance(frame, OpenLog):
            line = f"{frame.replica_id} {frame.tail} {frame.follow}"
            self._hub.log_chunk(self.member_id, LogChunk(stream_id=frame.stream_id, lines=(line,), end=True))


async def lines(hub: Hub, replica_id: str = "", deployment_id: str = "d-web") -> list[str]:
    records = [
        member("a", revision=0), member("b", revision=0), member("c", revision=0), ORDERED, OWN,
        replica(ORDERED, 0, node_id="n-a", revision=0), replica(ORDERED, 1, node_id="n-b", revision=0),
        replica(ORDERED, 2, node_id="n-c", revision=0), replica(OWN, 0, node_id="n-a", revision=0),
        replica(ORDERED, 3, ReplicaState.STOPPED, node_id="n-a", revision=0),
    ]  # fmt: skip
    async with storing(*records) as stored:
        wanted = OpenLog(stream_id="s", replica_id=replica_id, deployment_id=deployment_id, tail=7)
        return [line async for line in OrderedLogs(stored.cache, hub).lines(wanted)]


async def test_a_host_reads_what_it_ordered_and_nothing_else() -> None:
    hub = Hub(time.time)
    Printing("n-a", hub)
    assert await lines(hub) == ["web-0 | web-0 7 False"]
    assert await lines(hub, "web-0") == ["web-0 7 False"]
    for replica_id, deployment_id in (("", "d-mine"), ("mine-0", "d-mine"), ("", "d-none"), ("", "")):
        with pytest.raises(HubError, match="nothing that its host has ordered"):
            await lines(hub, replica_id, deployment_id)
    for replica_id in ("mine-0", "web-9"):
        with pytest.raises(HubError, match="shop/web has no replica"):
            await lines(hub, replica_id)
    with pytest.raises(HubError, match="on a node that is connected"):
        await lines(Hub(time.time))


async def test_what_another_process_holds_is_said_and_not_left_out() -> None:
    hub = Hub(time.time)
    Printing("n-a", hub)
    hub.absorb("p-2", Digest(members=(MemberNews("n-b", 0.0),)))
    found = await lines(hub)
    assert found[0] == "web-0 | web-0 7 False"
    assert found[1].startswith("web-1 | (the log breaks off here: its node is connected to another process")


async def test_sources_are_closed_when_nobody_reads_any_more() -> None:
    closed: list[str] = []

    async def source(name: str) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield name
                await asyncio.sleep(0)
        finally:
            closed.append(name)

    found: Any = merged({"r": source("a")}, {"west": source("west/b | c")})
    assert {await anext(found) for _ in range(40)} == {"r | a", "west/b | c"}
    for _ in range(100):  # until both wait for the reader
        await asyncio.sleep(0)
    await found.aclose()
    assert sorted(closed) == ["a", "west/b | c"]
