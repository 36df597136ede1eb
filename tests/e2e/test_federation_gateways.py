"""Gateways of member clusters: they serve what the host deploys, their own region first, and go on without the host.

Each of the clusters west and east has a node and a gateway. The tests follow each other on one federation.
"""

import http.client
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from joined import Joined, federation, no_request_fails, requests, told_by

from testbed import processes
from testbed.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SECONDS_TO_FIND_OTHERS = 10.0  # of a gateway whose region is gone all at once


class Served(Joined):
    """The federation, and the port on which the gateway of each cluster serves HTTP."""

    ports: dict[str, int]

    def start_gateways(self) -> None:
        """Start a gateway in each cluster; only one says in which region it is, the other is where its cluster is."""
        self.ports = {name: free_port(18180 + number) for number, name in enumerate(self.members)}
        options = {"west": ("--label", "region=west")}
        for name, cluster in self.members.items():
            token = cluster.token("gateway", *options.get(name, ()))
            cluster.start_gateway(f"gw-{name}", self.ports[name], token)
        for name, cluster in self.members.items():
            cluster.wait_ready(f"gw-{name}")

    def ask(self, port: int, method: str, path: str) -> int:
        """Return the status of one request at a gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path, headers={"Host": "web.test"})
            return connection.getresponse().status
        finally:
            connection.close()

    def regions(self, answers: Counter[str]) -> Counter[str]:
        """Return how many answers came from each cluster."""
        owners = {found["id"]: name for name, cluster in self.members.items() for found in cluster.replicas()}
        found: Counter[str] = Counter()
        for answer, count in answers.items():
            found[owners[json.loads(answer)["replica"]]] += count
        return found

    def served_from(self, gateway: str, region: str, seconds: float = 15) -> None:
        """Wait until a gateway has had a hundred requests in a row answered by one region alone, and none failed."""
        told = ""

        def so() -> bool:
            nonlocal told
            with requests(self.ports[gateway]) as load:
                processes.wait_until(lambda: load.sent.total() >= 100, 15, "a hundred requests")
            found = self.regions(load.served_by)
            told = f"{dict(found)}, failed: {load.failures[:3]}"
            return not load.failures and set(found) == {region}

        try:
            self.host.wait(so, seconds, f"gateway of {gateway} served from {region}")
        except processes.TestbedError as error:
            raise processes.TestbedError(f"{told}\n{error}") from None


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with federation({"west": 1, "east": 1}, Served) as found:
        found.start_gateways()
        yield found


def test_a_cluster_that_runs_nothing_of_it_serves_it(served: Served) -> None:
    served.clusters_policy = "where: region=east"
    served.deploy(2)
    served.wait_shares(east=2)
    served.served_from("west", "east")
    assert served.containers("west") == 0


def test_a_drain_counts_requests_that_fail_at_gateways_of_members(served: Served) -> None:
    """What may run in east alone cannot leave it, so the drain goes on until it is called off."""
    host = served.host
    with told_by(host, "cluster", "drain", "east", "--timeout", "2m") as lines:
        host.wait(lambda: any("0 requests failed" in line for line in lines()), 20, "the drain counts")
        assert served.ask(served.ports["west"], "POST", "/crash") == 502
        host.wait(lambda: any(", 1 requests failed" in line for line in lines()), 20, "the drain has heard of it")
        host.fallow("cluster", "uncordon", "east")
    (route,) = host.ask(lambda client: client.routes())["items"]
    assert (route["errors_5xx"], route["gateways"], route["clusters"]) == (1, ["gw1"], ["east", "west"])
    served.wait_shares(60, east=2)


def test_requests_stay_in_their_region(served: Served) -> None:
    served.clusters_policy = "divide: weighted, where: region"
    with no_request_fails(served.ports["west"]), no_request_fails(served.ports["east"]):
        served.deploy(4)
        served.wait_shares(west=2, east=2)
    served.served_from("west", "west")
    served.served_from("east", "east")


def test_a_region_that_is_drained_is_served_from_the_other_and_no_request_fails(served: Served) -> None:
    with no_request_fails(served.ports["west"]), no_request_fails(served.ports["east"]):
        served.host.fallow("cluster", "drain", "west", "--timeout", "60s")
        served.served_from("west", "east")
        served.host.fallow("cluster", "uncordon", "west")
        served.host.fallow("deployment", "scale", "test/web=6", "--wait", "--timeout", "30s")
        served.wait_shares(west=2, east=4)
        served.served_from("west", "west")


def test_without_the_host_and_through_restarts_it_serves_on_and_finds_the_other_region(served: Served) -> None:
    west, east = served.members["west"], served.members["east"]
    with no_request_fails(served.ports["west"]), no_request_fails(served.ports["east"]):
        served.host.kill_server()
        west.kill_server()
        west.start_server()
        west.wait_ready("gw-west", "west-1")
        served.served_from("west", "west")
        west.gateways["gw-west"].kill()
        west.gateways["gw-west"].wait(10)
        west.start_gateway("gw-west", served.ports["west"])
        west.wait_ready("gw-west")
    with requests(served.ports["west"]) as load, no_request_fails(served.ports["east"]):
        west.nodes["west-1"].power_cut()
        cut_at = time.time()
        served.served_from("west", "east", 30)
        load.phase = "after"
        east.wait(lambda: load.sent["after"] > 100, 15, "requests afterwards")
    late = [failure for failure in load.failures if failure.at > cut_at + SECONDS_TO_FIND_OTHERS]
    assert late == []
    served.host.start_server()
    west.nodes["west-1"].power_on()
    west.join("west-1")
    served.wait_shares(60, west=2, east=4)
    served.served_from("west", "west", 30)
