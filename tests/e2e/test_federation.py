"""A host and two member clusters of the real command, with real engines and a real HAProxy, under real requests.

The tests follow each other on one federation.
"""

import json
import sys
import time
from collections.abc import Iterator

import pytest
from joined import PATH, Joined, federation, no_request_fails, requests, told_by

from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


class Divided(Joined):
    """The clusters west and east, and one deployment of which west gets twice as much as east."""


@pytest.fixture(scope="module")
def joined() -> Iterator[Divided]:
    with federation({"west": 2, "east": 2}, Divided) as found:
        yield found


def test_a_total_is_divided_by_weight_and_served_at_one_address(joined: Divided) -> None:
    joined.deploy(6)
    joined.wait_shares(west=4, east=2)
    assert (joined.containers("west"), joined.containers("east")) == (4, 2)
    assert joined.host.get("web.test")[0] == 200
    told = joined.host.fallow("cluster", "list")
    assert "west" in told
    assert "east" in told


def test_logs_of_all_clusters_are_read_at_the_host(joined: Divided) -> None:
    ids = {name: {str(found["id"]) for found in joined.members[name].replicas()} for name in joined.members}
    lines = joined.host.fallow("logs", PATH).splitlines()
    told = {line.partition(" | ")[0] for line in lines if "listens on port 8080" in line}
    assert told == {f"{name}/{id_}" for name, found in ids.items() for id_ in found}
    one = min(ids["east"])
    assert joined.host.fallow("logs", one) == joined.members["east"].fallow("logs", one)


def test_a_scale_up_takes_nothing_from_anybody(joined: Divided) -> None:
    with no_request_fails(joined.host.http_port):
        joined.host.fallow("deployment", "scale", f"{PATH}=9", "--wait", "--timeout", "30s")
        joined.wait_shares(west=6, east=3)


def test_a_new_version_reaches_all_clusters_and_no_request_fails(joined: Divided) -> None:
    old = {f"{name}/{found['id']}" for name, cluster in joined.members.items() for found in cluster.replicas()}
    with no_request_fails(joined.host.http_port), told_by(joined.host, "logs", PATH, "--follow") as lines:
        joined.host.wait(lambda: len(lines()) == len(old), 20, "what all have printed")
        joined.deploy(9, "2")
        joined.wait_shares(60, west=6, east=3)
        joined.host.wait(lambda: {f"{id_} | leaving" for id_ in old} <= set(lines()), 20, "the last words of all")
    joined.wait_versions("2")


def test_a_member_refuses_to_change_what_belongs_to_the_host(joined: Divided) -> None:
    with pytest.raises(TestbedError, match="host"):
        joined.members["west"].fallow("deployment", "scale", f"{PATH}=1")
    with pytest.raises(TestbedError, match="member of a host itself"):
        joined.members["east"].fallow("cluster", "token", "create")


def test_a_drained_cluster_ends_empty_and_no_request_fails(joined: Divided) -> None:
    foretold = after(joined, joined.host.fallow("plan", "drain", "west", "--json"))
    assert foretold == {"east": 9}
    with no_request_fails(joined.host.http_port):
        told = joined.host.fallow("cluster", "drain", "west", "--timeout", "90s")
        assert "west is empty: it can be shut down (0 requests failed)" in told
        joined.wait_shares(**foretold)
    assert joined.containers("west") == 0
    joined.host.fallow("cluster", "uncordon", "west")


def after(joined: Divided, plan: str) -> dict[str, int]:
    """Return the shares of the web service that a plan foretells, but for none."""
    found = json.loads(plan)
    assert found["unplaced"] == {}
    changes = {each["cluster"]: each["after"] for each in found["changes"] if each["deployment"] == PATH}
    return {name: count for name, count in (joined.told() | changes).items() if count}


def test_who_is_back_takes_nothing_by_itself_but_what_is_new(joined: Divided) -> None:
    joined.wait_shares(east=9)
    joined.host.fallow("deployment", "scale", f"{PATH}=12", "--wait", "--timeout", "30s")
    joined.wait_shares(west=3, east=9)


def test_a_glitch_moves_nothing(joined: Divided) -> None:
    west = joined.members["west"]
    before = joined.division()["history"]
    with no_request_fails(joined.host.http_port):
        west.fabric.cut(west.control_name)
        time.sleep(5)  # of silence, the glitch itself
        west.fabric.restore(west.control_name)
        joined.host.wait(lambda: joined.state_of("west") == "ready", 30, "west is heard again")
    joined.wait_shares(west=3, east=9)
    assert joined.division()["history"] == before


def test_a_cluster_with_thresholds_of_its_own_may_be_silent_for_longer(joined: Divided) -> None:
    west = joined.members["west"]
    joined.host.fallow("cluster", "set", "west", "--suspect-after", "40s", "--dead-after", "1m")
    assert "suspect after 40s, dead after 60s" in joined.host.fallow("cluster", "show", "west")
    with pytest.raises(TestbedError, match="contradict"):
        joined.host.fallow("cluster", "set", "west", "--dead-after", "30s")
    west.fabric.cut(west.control_name)
    time.sleep(7)  # of silence, longer than the usual 5 s
    assert joined.state_of("west") == "ready"
    joined.host.fallow("cluster", "set", "west", "--suspect-after", "5s")
    joined.host.wait(lambda: joined.state_of("west") == "suspect", 10, "west is judged by what is said now")
    west.fabric.restore(west.control_name)
    joined.host.wait(lambda: joined.state_of("west") == "ready", 30, "west is heard again")
    joined.host.fallow("cluster", "set", "west", "--default")
    assert "suspect after 5s, dead after 10s, as all clusters" in joined.host.fallow("cluster", "show", "west")


def heard(joined: Divided, name: str) -> bool:
    """Say whether the host has itself heard a cluster that is ready, not only read so in its store."""
    member = joined.clusters()[name]["member"]
    return bool(member["state"] == "ready" and member["last_seen_at"] > 0)


def test_members_serve_on_without_the_host_and_its_return_moves_nothing(joined: Divided) -> None:
    before = joined.division()["history"]
    with no_request_fails(joined.host.http_port):
        joined.host.kill_server()
        joined.members["east"].fallow("node", "list")
        assert joined.host.get("web.test")[0] == 200
        joined.host.start_server()
        joined.host.wait(lambda: heard(joined, "east") and heard(joined, "west"), 30, "members back")
        joined.wait_shares(west=3, east=9)
    assert joined.division()["history"] == before


def test_what_a_lost_cluster_had_serves_elsewhere_within_seconds(
    joined: Divided, capsys: pytest.CaptureFixture[str]
) -> None:
    foretold = after(joined, joined.host.fallow("plan", "cluster-loss", "west", "--json"))
    assert foretold == {"east": 12}
    with requests(joined.host.http_port) as load, told_by(joined.host, "logs", PATH, "--follow") as lines:
        joined.host.wait(lambda: len(lines()) == 12, 20, "what all have printed")
        joined.kill("west")
        last_seen_at = joined.clusters()["west"]["member"]["last_seen_at"]
        joined.wait_shares(60, **foretold)
        ready_at = time.time()
        joined.host.wait(lambda: joined.state_of("west") == "dead", 30, "west dead")
        state_since = joined.clusters()["west"]["member"]["state_since"]
        gone = "west | (the log breaks off here: the cluster's session ended)"
        joined.host.wait(lambda: gone in lines(), 10, "that there is nothing more of west")
    with capsys.disabled():
        passed = ready_at - last_seen_at
        sys.stderr.write(f"\nready again {passed:.1f} s after the last sign of life of the cluster that was lost\n")
    late = [failure for failure in load.failures if failure.at > state_since]
    assert late == [], "requests failed after it was known to be dead"
    assert "west" in joined.host.fallow("events", "--since", "2m")


def test_a_cluster_that_comes_back_gives_up_what_others_took_over(joined: Divided) -> None:
    west = joined.members["west"]
    with no_request_fails(joined.host.http_port):
        for node in west.nodes.values():
            node.power_on()
        west.start_server()
        for name in west.nodes:
            west.join(name)
        joined.host.wait(lambda: joined.state_of("west") == "ready", 60, "west is back")
        joined.wait_shares(60, east=12)
        joined.host.wait(lambda: joined.containers("west") == 0, 30, "west has stopped its surplus")


def test_a_deleted_deployment_is_gone_everywhere(joined: Divided) -> None:
    joined.host.fallow("deployment", "delete", PATH)
    joined.host.wait(lambda: PATH not in joined.host.deployments(), 30, "the deployment is gone")
    for name in ("west", "east"):
        joined.host.wait(lambda name=name: joined.containers(name) == 0, 30, f"{name} runs nothing")
        assert joined.members[name].deployments() == {}


def test_a_removed_cluster_is_free_again(joined: Divided) -> None:
    joined.host.fallow("cluster", "remove", "east", "--force")
    joined.host.wait(lambda: "east" not in joined.clusters(), 10, "east is gone")
    joined.members["east"].fallow("cluster", "leave")
