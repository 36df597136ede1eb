"""Clusters that are not heard, do not hear, or say what is not so, and many drains at once, on real control planes.

The tests follow each other on one federation of a host and two clusters, whose nodes have room for five replicas each.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from joined import PATH, Joined, federation, never_fewer_ready, no_request_fails, one_way, requests

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.slow]

STEPS = 20  # drains, ends of drains and scale-ups, none of which waits for the one before
LIE = """
import msgspec
from fallow.drivers.clusters import counting
true = counting.answers_to
counting.answers_to = lambda *asked: tuple(msgspec.structs.replace(each, more=each.more + 100) for each in true(*asked))
"""


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    with federation({"west": 1, "east": 1}, Joined) as found:
        found.clusters_policy = "divide: weighted, where: region"
        yield found


def replaced_and_back(joined: Joined, total: int) -> None:
    """Wait until the other cluster has all, and until the one that was silent has given it up."""
    joined.wait_state(west="ready")
    joined.host.wait(lambda: joined.containers("west") == 0, 40, "the surplus goes")
    joined.wait_shares(30, east=total)
    joined.host.fallow("cluster", "drain", "east", "--timeout", "60s")
    joined.host.fallow("cluster", "uncordon", "east")
    joined.wait_shares(60, west=total)


def test_who_is_cut_off_both_ways_for_a_minute_goes_on_and_gives_up_what_was_replaced(joined: Joined) -> None:
    west = joined.members["west"]
    joined.deploy(6)
    joined.wait_shares(west=3, east=3)
    with no_request_fails(joined.host.http_port):
        west.fabric.cut(west.control_name)
        began = time.monotonic()
        joined.wait_state(west="dead")
        joined.wait_shares(30, east=6)
        time.sleep(max(0.0, 60 - (time.monotonic() - began)))  # of silence, the fault itself
        assert joined.containers("west") == 3
        west.fabric.restore(west.control_name)
        replaced_and_back(joined, 6)


def test_who_hears_and_is_not_heard_is_replaced(joined: Joined) -> None:
    west = joined.members["west"]
    with no_request_fails(joined.host.http_port):
        with one_way(joined, west, "OUTPUT"):
            joined.wait_state(west="dead")
            joined.wait_shares(30, east=6)
            assert joined.containers("west") == 6
        replaced_and_back(joined, 6)


def test_drains_and_scale_ups_in_any_order_lose_nothing(joined: Joined) -> None:
    total = 6
    with no_request_fails(joined.host.http_port), never_fewer_ready(joined, total):
        for step in range(STEPS):
            if step % 4 == 3:
                total += 1
                joined.host.fallow("deployment", "scale", f"{PATH}={total}", "--no-wait")
            elif step % 4 == 1:
                joined.host.fallow("cluster", "uncordon", "west" if step % 8 == 1 else "east")
            else:
                joined.host.fallow("cluster", "drain", "west" if step % 8 == 0 else "east", "--no-wait")
        for name in joined.members:
            joined.host.fallow("cluster", "uncordon", name)
        assert sum(joined.settled().values()) == total
    joined.host.wait(
        lambda: sum(joined.containers(name) for name in joined.members) == total, 30, "no more runs than is wanted"
    )


def test_a_cluster_that_lies_about_its_room_keeps_nothing_from_running(joined: Joined, tmp_path: Path) -> None:
    west = joined.members["west"]
    joined.host.fallow("deployment", "delete", PATH, "--wait")
    (tmp_path / "sitecustomize.py").write_text(LIE)
    west.kill_server()
    west.server_environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    west.start_server()
    joined.wait_state(west="ready")
    joined.clusters_policy, joined.cpus = "divide: aggregate, where: region", "0.35"
    joined.deploy(7, "1", "--no-wait")
    joined.host.wait(lambda: joined.told() == {"west": 7}, 20, "it is believed at first")
    with requests(joined.host.http_port) as load:
        joined.wait_shares(60, west=5, east=2)
        load.phase = "after"
        joined.host.wait(lambda: load.sent["after"] > 50, 10, "requests afterwards")
    assert load.failed("after") == 0
    joined.host.fallow("deployment", "scale", f"{PATH}=8", "--wait", "--timeout", "30s")
    joined.wait_shares(west=5, east=3)
