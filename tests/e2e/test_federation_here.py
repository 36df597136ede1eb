"""A host that has a node itself: its own nodes are a cluster among the others, for whoever divides, drains and serves.

The tests follow each other on a host with a node and a gateway, which the cluster west joins.
"""

import json
from collections.abc import Iterator

import pytest
from joined import PATH, Joined, federation, never_fewer_ready, no_request_fails, requests

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    with federation({}, Joined, own_nodes=1) as found:
        found.clusters_policy = "divide: weighted, weights: {here: 1, west: 1}"
        yield found


def answered_by(joined: Joined, count: int = 30) -> set[str]:
    """Return the clusters whose replicas answer requests at the host's gateway."""
    with requests(joined.host.http_port) as load:
        joined.host.wait(lambda: load.sent.total() >= count, 15, "requests")
    assert load.failures == []
    owners = {
        found["id"]: name for name in ("here", *joined.members) for found in joined.site(name).replicas()
    }  # fmt: skip
    return {owners[json.loads(answer)["replica"]] for answer in load.served_by}


def test_what_a_cluster_ran_alone_stays_on_it_whole_when_it_becomes_a_host(joined: Joined) -> None:
    joined.deploy(4)
    joined.host.healthy(PATH, 4)
    before = {found["id"] for found in joined.host.running(PATH)}
    with no_request_fails(joined.host.http_port):
        joined.add({"west": 1})
        joined.join("west", "region=west")
        joined.wait_shares(here=4)
    assert joined.containers("here") == 4
    assert {found["id"] for found in joined.host.running(PATH)} == before
    assert joined.containers("west") == 0


def test_a_scale_up_is_divided_over_here_and_a_member_and_takes_from_nobody(joined: Joined) -> None:
    before = {found["id"] for found in joined.host.running(PATH)}
    with no_request_fails(joined.host.http_port), never_fewer_ready(joined, 4):
        joined.host.fallow("deployment", "scale", f"{PATH}=6", "--wait", "--timeout", "30s")
        joined.wait_shares(here=4, west=2)
    assert {found["id"] for found in joined.host.running(PATH)} == before
    assert (joined.containers("here"), joined.containers("west")) == (4, 2)
    assert answered_by(joined) == {"here", "west"}


def test_a_new_version_reaches_here_and_the_member_and_no_request_fails(joined: Joined) -> None:
    with no_request_fails(joined.host.http_port):
        joined.deploy(6, "2")
        joined.wait_shares(60, here=4, west=2)
    joined.wait_versions("2")


def test_own_nodes_are_drained_and_come_back_and_no_request_fails(joined: Joined) -> None:
    with no_request_fails(joined.host.http_port), never_fewer_ready(joined, 6):
        told = joined.host.fallow("cluster", "drain", "here", "--timeout", "90s")
        assert "here is empty: it can be shut down (0 requests failed)" in told
        joined.wait_shares(west=6)
        assert joined.containers("here") == 0
        assert answered_by(joined) == {"west"}
        joined.host.fallow("cluster", "uncordon", "here")
        joined.host.fallow("deployment", "scale", f"{PATH}=8", "--wait", "--timeout", "30s")
        joined.wait_shares(here=2, west=6)
        joined.host.fallow("cluster", "drain", "west", "--timeout", "90s")
        joined.wait_shares(here=8)
        joined.host.fallow("cluster", "uncordon", "west")
    joined.host.wait(lambda: joined.containers("west") == 0, 30, "west runs nothing")
    assert joined.containers("here") == 8


def test_requests_stay_in_the_region_of_the_gateway_while_it_has_enough(joined: Joined) -> None:
    with no_request_fails(joined.host.http_port):
        joined.host.fallow("deployment", "scale", f"{PATH}=12", "--wait", "--timeout", "30s")
        joined.wait_shares(here=8, west=4)
        joined.host.fallow("cluster", "label", "here", "region=home")
        joined.host.wait(lambda: answered_by(joined) == {"here"}, 15, "the gateway asks its own region")
        joined.host.fallow("cluster", "drain", "here", "--timeout", "90s")
        joined.wait_shares(west=12)
        assert answered_by(joined) == {"west"}
        joined.host.fallow("cluster", "uncordon", "here")
        joined.host.fallow("cluster", "label", "here", "region-")
        joined.host.fallow("deployment", "scale", f"{PATH}=14", "--wait", "--timeout", "30s")
        joined.wait_shares(here=2, west=12)


def test_own_nodes_and_members_serve_while_the_hosts_control_plane_is_away(joined: Joined) -> None:
    before = joined.division()["history"]
    with no_request_fails(joined.host.http_port) as load:
        joined.host.kill_server()
        sent = load.sent.total()
        joined.host.wait(lambda: load.sent.total() > sent + 100, 15, "requests meanwhile")
        assert (joined.containers("here"), joined.containers("west")) == (2, 12)
        joined.host.start_server()
        joined.host.wait_ready("here-1")
        joined.wait_state(west="ready")
        joined.settled()
        joined.wait_shares(here=2, west=12)
    assert joined.division()["history"] == before
    assert (joined.containers("here"), joined.containers("west")) == (2, 12)


def test_what_own_nodes_ran_goes_to_the_member_when_they_are_lost(joined: Joined) -> None:
    with requests(joined.host.http_port) as load:
        joined.host.nodes["here-1"].power_cut()
        joined.wait_shares(90, west=14)
        load.phase = "after"
        joined.host.wait(lambda: load.sent["after"] > 50, 10, "requests afterwards")
    assert load.failed("after") == 0
    joined.host.nodes["here-1"].power_on()
    joined.host.join("here-1")
    joined.host.wait_ready("here-1")


def test_with_the_last_member_all_runs_here_whole_again(joined: Joined) -> None:
    with no_request_fails(joined.host.http_port):
        joined.host.fallow("cluster", "drain", "west", "--timeout", "120s")
        joined.wait_shares(here=14)
        joined.host.fallow("cluster", "remove", "west")
        joined.host.wait(lambda: joined.clusters() == {}, 20, "there is no cluster but this one")
        joined.host.healthy(PATH, 14)
    assert len(joined.host.running(PATH)) == 14
