"""What can go wrong between a host and its clusters, on real control planes: cut off, killed, restored, copied.

The tests follow each other on one federation of a host and two clusters with a node each, in two regions.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from joined import PATH, Joined, federation, no_request_fails, one_way, requests, watching
from whole_cluster import replicas_on

from testbed.cluster import Cluster
from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.slow]

SINGLE = """
services:
  one:
    image: {image}
    stop_grace_period: 1s
    deploy:
      replicas: 1
      resources: {{reservations: {{cpus: "0.05", memory: 32M}}}}
    x-fallow:
      clusters: {{divide: aggregate, fallback: [region=west, region=east], fence: 2s}}
"""
ONE = "test/one"
MANY = 6
SERVICE = """
  s{number}:
    image: {image}
    deploy:
      replicas: 2
      resources: {{reservations: {{cpus: "0.01", memory: 16M}}}}
    x-fallow:
      clusters: {{divide: weighted, where: region}}
"""
FAKETIME = f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketimeMT.so.1"


@pytest.fixture(scope="module")
def joined() -> Iterator[Joined]:
    with federation({"west": 1, "east": 1}, Joined) as found:
        found.clusters_policy = "divide: weighted, where: region"
        yield found


@contextmanager
def nothing_starts(cluster: Cluster) -> Iterator[None]:
    """Hold the agents of a cluster's nodes, so that a move towards it stays in its middle."""
    agents = {agent.pid: agent.inner_pid for agent in cluster.agents.values()}
    for inner in agents.values():
        os.kill(inner, signal.SIGSTOP)
    try:
        yield
    finally:
        for outer, inner in agents.items():  # `nsenter` stops itself when what it runs is stopped
            os.kill(inner, signal.SIGCONT)
            os.kill(outer, signal.SIGCONT)


def events(cluster: Cluster) -> str:
    return cluster.fallow("events", "--since", "10m")


def running(cluster: Cluster) -> list[str]:
    """Return which deployments the engines of a cluster really run, once a replica; as they are named there."""
    return [name.rsplit("-", 2)[0] for node in cluster.nodes.values() for name in replicas_on(node)]


@contextmanager
def never_twice(joined: Joined, deployment: str) -> Iterator[dict[str, bool]]:
    """Look all the time which clusters run a replica of a deployment, name -> True; it may never be two at once."""
    seen: dict[str, bool] = {}
    twice: list[str] = []

    def look() -> None:
        where = [name for name, cluster in joined.members.items() if deployment in running(cluster)]
        seen.update(dict.fromkeys(where, True))
        if len(where) > 1:
            twice.append(f"{time.time()}: {where}")

    with watching(look):
        yield seen
    assert twice == []


def test_a_drain_goes_on_when_the_host_is_killed_in_its_middle(joined: Joined) -> None:
    joined.deploy(6)
    joined.wait_shares(west=3, east=3)
    with no_request_fails(joined.host.http_port):
        with nothing_starts(joined.members["east"]):
            joined.host.fallow("cluster", "drain", "west", "--no-wait")
            joined.host.wait(lambda: joined.told() == {"west": 3, "east": 6}, 10, "replacements ordered")
            joined.host.kill_server()
        joined.host.start_server()
        joined.wait_shares(60, east=6)
        joined.host.wait(lambda: joined.containers("west") == 0, 20, "west is empty")
    assert joined.containers("east") == 6
    joined.host.fallow("cluster", "uncordon", "west")


def test_a_drain_is_called_off_in_its_middle_and_taken_up_again(joined: Joined) -> None:
    with no_request_fails(joined.host.http_port):
        with nothing_starts(joined.members["west"]):
            joined.host.fallow("cluster", "drain", "east", "--no-wait")
            joined.host.wait(lambda: joined.told().get("west") == 6, 10, "replacements ordered")
            joined.host.fallow("cluster", "uncordon", "east")
            joined.host.wait(lambda: joined.told() == {"east": 6}, 10, "what has not moved, stays")
        joined.wait_shares(east=6)
        joined.host.wait(
            lambda: joined.clusters()["west"]["left"] == 0, 30, "west has nothing left, nor anything to begin"
        )
        joined.host.fallow("cluster", "drain", "east", "--timeout", "60s")
        joined.wait_shares(west=6)
    joined.host.fallow("cluster", "uncordon", "east")


def test_two_drains_without_room_remove_nothing_and_say_so(joined: Joined) -> None:
    with no_request_fails(joined.host.http_port) as load:
        joined.host.fallow("cluster", "drain", "east", "--no-wait")
        with pytest.raises(TestbedError) as refused:
            joined.host.fallow("cluster", "drain", "west", "--timeout", "3s")
        sent = load.sent.total()
        joined.host.wait(lambda: load.sent.total() > sent + 50, 10, "requests meanwhile")
        assert joined.ready(PATH) == {"west": 6}
    assert "west still runs 6 replicas" in str(refused.value)
    assert PATH in str(refused.value), "it says what cannot leave"
    assert joined.containers("west") == 6
    assert "fit nowhere" in events(joined.host)
    assert PATH in joined.host.fallow("cluster", "show", "west")
    with no_request_fails(joined.host.http_port):  # room comes: the drain that waits for it goes on by itself
        joined.host.fallow("cluster", "uncordon", "east")
        joined.wait_shares(60, east=6)
    joined.host.fallow("cluster", "uncordon", "west")


def test_orders_are_taken_in_whole_though_the_member_is_killed_meanwhile(joined: Joined) -> None:
    west = joined.members["west"]
    file = joined.host.folder / "many.yaml"
    services = "".join(SERVICE.format(number=number, image=joined.host.image) for number in range(MANY))
    file.write_text("services:" + services)
    joined.host.fallow("deploy", str(file), "--project", "many", "--no-wait")
    with west.client() as client:
        west.wait(lambda: any(found.project == "many" for found in client.deployments().items), 20, "orders come")
    for _ in range(2):
        west.kill_server()
        west.start_server()
    for number in range(MANY):
        joined.wait_shares(60, f"many/s{number}", west=1, east=1)
    assert (joined.containers("west"), joined.containers("east")) == (MANY, MANY + 6)
    for number in range(MANY):
        joined.host.fallow("deployment", "delete", f"many/s{number}")
    joined.host.wait(lambda: joined.containers("west") == 0, 30, "what is deleted is gone")


def test_a_member_restored_from_an_old_backup_is_told_anew(joined: Joined) -> None:
    west = joined.members["west"]
    joined.deploy(8)
    joined.wait_shares(west=2, east=6)
    store = f"sqlite:{west.folder / 'server/fallow.db'}"
    west.fallow("store", "backup", "--store", store, str(west.folder / "old.backup"))
    joined.deploy(10, "2")
    joined.wait_shares(60, west=4, east=6)
    west.kill_server()
    west.fallow("store", "restore", "--store", store, "--replace", str(west.folder / "old.backup"))
    restored_at = time.time()

    def renewed() -> bool:
        """What was heard before the restore would say so at once."""
        (share,) = [found for found in joined.division()["shares"] if found["cluster"] == "west"]
        return share["reported_at"] > restored_at and share["ready"] == share["updated"] == 4

    with requests(joined.host.http_port) as load:
        west.start_server()
        joined.host.wait(renewed, 60, "what the backup knew is renewed")
        joined.wait_shares(60, west=4, east=6)
        joined.host.wait(lambda: joined.containers("west") == 4, 30, "west runs what it should")
        load.phase = "after"
        joined.host.wait(lambda: load.sent["after"] > 50, 10, "requests afterwards")
    assert load.failed("after") == 0
    assert joined.containers("east") == 6
    joined.wait_versions("2", 10)


def start_with_clock(joined: Joined, cluster: Cluster, offset: str) -> None:
    """Start a control plane again with a clock that is off; without `offset` with the right one."""
    off = {"LD_PRELOAD": FAKETIME, "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    cluster.kill_server()
    cluster.server_environment = off if offset else {}
    cluster.start_server()
    joined.host.wait(lambda: not silent(joined), 30, "all clusters speak")
    joined.settled()


def silent(joined: Joined) -> bool:
    """Say whether nothing was heard of a cluster for a while, as the host's own clock has it."""
    found = [each["member"] for each in joined.clusters().values() if each["member"]["id"] != "here"]
    newest = max(each["last_seen_at"] for each in found)
    return any(each["state"] != "ready" or newest - each["last_seen_at"] > 2 for each in found)


@pytest.mark.parametrize("offsets", [{"west": "+1h", "east": "-1h"}, {"host": "+1h"}])
def test_clocks_hours_apart_move_nothing(joined: Joined, offsets: Mapping[str, str]) -> None:
    with no_request_fails(joined.host.http_port):
        for wrong in (True, False):
            for name, offset in offsets.items():
                start_with_clock(joined, joined.members.get(name, joined.host), offset if wrong else "")
            before = joined.settled()
            total = sum(before.values())
            joined.host.fallow("deployment", "scale", f"{PATH}={total + (1 if wrong else -1)}", "--wait")
            after = joined.settled()
            changes = [after.get(name, 0) - before.get(name, 0) for name in ("west", "east")]
            assert sorted(map(abs, changes)) == [0, 1], "one more, or one fewer, moves nothing else"


def test_a_second_host_is_refused(joined: Joined) -> None:
    other = Cluster(joined.host.fabric, name="other")
    try:
        other.start_server()
        token = other.fallow("cluster", "token", "create", "--quiet").strip()
        with pytest.raises(TestbedError, match="already"):
            joined.members["west"].fallow("cluster", "join", other.url, token)
        assert joined.state_of("west") == "ready"
    finally:
        other.close()


def test_a_copy_of_a_member_is_fenced_and_nothing_runs_twice(joined: Joined) -> None:
    west = joined.members["west"]
    copy = Cluster(joined.host.fabric, name="copy")
    before = joined.settled()
    with no_request_fails(joined.host.http_port):
        west.kill_server()
        for folder in ("server", "config"):
            shutil.copytree(west.folder / folder, copy.folder / folder)
        west.start_server()
        joined.wait_state(west="ready")
        try:
            copy.server = copy._launch("server", copy.port, copy.network)
            joined.host.wait(lambda: bool(joined.clusters()["west"]["member"]["fence"]), 20, "the copy shows itself")
        finally:
            copy.close()
        assert "two" in joined.clusters()["west"]["member"]["fence"]
        joined.wait_state(west="dead")
        joined.wait_shares(east=10)
        assert joined.containers("west") == before["west"], "nodes know nothing of it"
        joined.host.fallow("cluster", "unfence", "west")
        joined.wait_state(west="ready")
        joined.host.wait(lambda: joined.containers("west") == 0, 40, "the surplus goes")


def test_what_is_fenced_never_runs_twice_and_a_member_cut_off_for_long_goes_on(joined: Joined) -> None:
    west = joined.members["west"]
    joined.host.deploy(SINGLE.format(image=joined.host.image))
    joined.wait_shares(path=ONE, west=1)
    joined.host.fallow("cluster", "drain", "east", "--timeout", "60s")
    joined.host.fallow("cluster", "uncordon", "east")
    joined.wait_shares(60, west=10)
    with no_request_fails(joined.host.http_port), never_twice(joined, "one") as seen:
        with one_way(joined, west, "INPUT"):
            joined.wait_state(west="dead")
            joined.wait_shares(30, east=10)
            assert joined.containers("west") >= 10, "it goes on with what it has"
            joined.host.wait(lambda: seen == {"west": True, "east": True}, 60, "the host replaces what is fenced")
            assert "ShareFenced" in events(west)
        joined.wait_state(west="ready")
        joined.host.wait(lambda: joined.containers("west") == 0, 40, "the surplus goes")
        joined.wait_shares(30, east=10)


def test_who_is_removed_while_it_is_cut_off_gives_all_up_when_it_hears_of_it(joined: Joined) -> None:
    west = joined.members["west"]
    joined.host.fallow("cluster", "drain", "east", "--timeout", "60s")
    joined.host.fallow("cluster", "uncordon", "east")
    joined.wait_shares(60, west=10)
    with requests(joined.host.http_port) as load:
        with one_way(joined, west, "INPUT"):
            joined.wait_state(west="suspect")
            joined.host.fallow("cluster", "remove", "west", "--force")  # it has all: force does not wait for others
            joined.wait_shares(30, east=10)
            load.phase = "replaced"
            assert joined.containers("west") == 10
        joined.host.wait(lambda: joined.containers("west") == 0, 40, "west has given all up")
        joined.host.wait(lambda: west.deployments() == {}, 10, "west has forgotten what it ran")
        assert "removed" in west.fallow("cluster", "host")
    assert load.sent["replaced"] > 20
    assert load.failed("replaced") == 0
