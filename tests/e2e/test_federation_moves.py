"""What makes replicas move between clusters beside a drain, on real parts: never fewer ready, and no request fails.

The tests follow each other on one federation of a host and two clusters, whose nodes have room for five replicas each.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from joined import PATH, Joined, federation, never_fewer_ready, no_request_fails, requests
from whole_cluster import replicas_on

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    with federation({"west": 1, "east": 1}, Joined) as found:
        found.cpus = "0.35"
        yield found


@contextmanager
def nobody_notices(joined: Joined, total: int) -> Iterator[None]:
    """Let something be moved meanwhile that nobody who uses it should notice."""
    with no_request_fails(joined.host.http_port), never_fewer_ready(joined, total):
        yield


def grow(joined: Joined, name: str, node: str) -> None:
    """Let another node join a cluster."""
    cluster = joined.members[name]
    cluster.boot(node)
    cluster.join(node, "--name", node, token=cluster.token("node"))
    cluster.wait_ready(node)


def test_a_node_that_joins_draws_replicas_where_the_policy_rebalances(joined: Joined) -> None:
    joined.clusters_policy = "divide: capacity, where: region, rebalance: {after: 1s, at_once: 1}"
    joined.deploy(6)
    joined.wait_shares(west=3, east=3)
    with nobody_notices(joined, 6):
        grow(joined, "east", "east-2")
        joined.wait_shares(60, west=2, east=4)
    joined.host.wait(lambda: joined.containers("west") == 2, 20, "west has stopped what left")
    assert joined.containers("east") == 4


def test_edited_weights_move_replicas(joined: Joined) -> None:
    with nobody_notices(joined, 6):
        joined.clusters_policy = "divide: weighted, where: region, weights: {west: 2, east: 1}"
        joined.deploy(6)
        joined.wait_shares(60, west=4, east=2)
    with nobody_notices(joined, 6):
        joined.clusters_policy = "divide: weighted, where: 'region in (west,east)'"
        joined.deploy(6)
        joined.wait_shares(60, west=3, east=3)


def test_a_label_that_changes_makes_replicas_leave(joined: Joined) -> None:
    with nobody_notices(joined, 6):
        joined.host.fallow("cluster", "label", "west", "region=south")
        joined.wait_shares(60, east=6)
        joined.host.wait(lambda: joined.containers("west") == 0, 30, "west runs nothing")
    joined.host.fallow("cluster", "label", "west", "region=west")
    joined.host.fallow("deployment", "scale", f"{PATH}=8", "--wait", "--timeout", "30s")
    joined.wait_shares(west=2, east=6)


def test_a_taint_keeps_new_replicas_away_or_makes_those_leave_that_are_there(joined: Joined) -> None:
    with nobody_notices(joined, 8):
        joined.host.fallow("cluster", "taint", "west", "work")
        joined.host.fallow("deployment", "scale", f"{PATH}=9", "--wait", "--timeout", "30s")
        joined.wait_shares(west=2, east=7)
        joined.host.fallow("cluster", "taint", "west", "work:move")
        joined.wait_shares(60, east=9)
        joined.host.wait(lambda: joined.containers("west") == 0, 30, "west runs nothing")
    joined.host.fallow("cluster", "taint", "west", "work-")


def test_what_a_cluster_has_no_room_for_after_it_lost_a_node_goes_to_another(joined: Joined) -> None:
    east = joined.members["east"]
    lost = len(replicas_on(east.nodes["east-2"]))
    assert lost > 0
    with requests(joined.host.http_port) as load:
        with never_fewer_ready(joined, 9 - lost):
            east.nodes["east-2"].power_cut()
            joined.wait_shares(90, west=4, east=5)
        load.phase = "after"
        joined.host.wait(lambda: load.sent["after"] > 50, 10, "requests afterwards")
    assert load.failed("after") == 0
    assert joined.containers("west") == 4
