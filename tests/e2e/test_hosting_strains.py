"""A server that lends and runs out of memory, or whose clock jumps: what is lent goes, or stays, as it should.

Nothing that is lent gives memory back when it is asked to: a control group on a kernel that minds no soft limit is
like a virtual machine that ignores its balloon. The tests follow each other on one server, with one node beside it.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from joined import no_request_fails
from lender import OTHER, SERVER, VM, Lender, serving

from fallow.client.api import Client
from testbed import parts, processes

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
MEMORY_BYTES = 2 * 2**30
ABOVE, FAR = 0.93, 0.975  # of its memory: above its ceiling, and more than half way from there to the end
CEILING = 0.90
FAKETIME = f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1"
REACTION_SECONDS = 1.5


@pytest.fixture(scope="module")
def lender() -> Iterator[Lender]:
    with serving(2**29, memory_bytes=MEMORY_BYTES, memory_ceiling=CEILING) as found:
        yield found


def fill(lender: Lender, share: float) -> None:
    """Let the primary grow until the server uses this share of its memory."""
    lender.grow(int(share * MEMORY_BYTES) - lender.used_bytes())


def shrink(lender: Lender, client: Client) -> None:
    """Let the primary begin anew, with little."""
    lender.end()
    lender.begin()
    lender.cluster.wait(lambda: lender.lends(client), 10, "a primary that is back")


def test_above_the_ceiling_what_is_lent_moves_away_without_a_failed_request(lender: Lender, client: Client) -> None:
    lender.home(client)
    with no_request_fails(lender.cluster.http_port):
        fill(lender, ABOVE)
        lender.cluster.wait(lambda: VM not in lender.where(client), 40, "what is lent to leave")
        lender.wait_where(client, OTHER, OTHER)
    view = lender.view(client)
    assert view.evictions > 0
    assert "memory" in view.evicted_why
    assert lender.machine_agent(client), "no machine stops for that"
    shrink(lender, client)


def test_far_above_it_a_machine_stops_even_if_nobody_helps(lender: Lender, client: Client) -> None:
    lender.restart(client)
    lender.home(client)
    lender.cluster.kill_server()
    try:
        fill(lender, FAR)
        began = time.monotonic()
        processes.wait_until(lambda: not lender.lent_processes(), 40, "the machine to stop")
        assert time.monotonic() - began > 5, "it was asked to give memory back before"
    finally:
        lender.cluster.start_server()
    lender.cluster.wait(lambda: lender.where(client) == [OTHER, OTHER], 60, "what it held is replaced")
    shrink(lender, client)


def around(ahead_seconds: float) -> str:
    """Return two lending hours around a moment that is so far ahead."""
    ends = [time.strftime("%H:%M", time.gmtime(time.time() + ahead_seconds + off)) for off in (-3600, 3600)]
    return "-".join(ends)


def test_a_clock_that_jumps_changes_no_limit(lender: Lender, client: Client) -> None:
    parts.require("faketime")
    off = Path(lender.cluster.fabric.folder) / "clock"
    off.write_text("+0\n")
    lender.kill_agent()
    lender.join(
        environment={
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(off),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    )
    lender.policy(client, cpu_threshold=0.4, cpu_ceiling=0.5)
    lender.cluster.wait(lambda: lender.lends(client) and 0.9 < lender.limit() < 1.0, 30, "an agent that lends")
    lender.policy(client, hours=(around(7200),))
    lender.cluster.wait(lambda: not lender.lends(client), 10, "hours that have not begun")
    off.write_text("+2h\n")
    lender.cluster.wait(lambda: lender.lends(client), 10, "hours that have begun by the server's own clock")
    lender.policy(client, hours=())
    for jump in ("+3h", "-2h", "+0"):
        held = lender.limit()
        off.write_text(f"{jump}\n")
        time.sleep(3)  # past the moment in which it is noticed
        assert lender.limit() == pytest.approx(held, abs=0.2)
        age = lender.view(client).age_seconds
        assert lender.lends(client)
        assert age is not None
        assert age < 3, "its reports are as young as before"
        assert lender.reaction(0.3) < REACTION_SECONDS
        lender.calm()
        lender.cluster.wait(lambda: lender.limit() > 0.9, 20, "the limit to rise")
    assert client.member(SERVER).state == "ready"
