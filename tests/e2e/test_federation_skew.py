"""A host and member clusters of neighbouring releases on real parts, replaced one after the other under requests.

The earlier release is a real one, from the history of this tree. The tests follow each other on one federation.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from joined import PATH, Joined, federation, no_request_fails
from releases import earlier

from testbed.cluster import Cluster
from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]


class Mixed(Joined):
    """A host and its members west and north of the earlier release, and the member east of this one."""

    source: Path

    def __post_init__(self) -> None:
        self.host.server_environment = self.host.agent_environment = self.of_the_earlier

    @property
    def of_the_earlier(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.source)}

    def cluster(self, name: str) -> Cluster:
        found = super().cluster(name)
        if name in ("west", "north"):
            found.server_environment = found.agent_environment = self.of_the_earlier
        return found

    def started(self, cluster: Cluster) -> None:
        """Make the registry known there too: hosts of the earlier release do not tell of theirs."""
        for registry in cluster.insecure_registries:
            cluster.fallow("registry", "add", registry, "--insecure")

    def replace(self, cluster: Cluster) -> None:
        """Kill a control plane of the earlier release, and start one of this release in its place."""
        cluster.kill_server()
        cluster.server_environment = {}
        cluster.start_server()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    Mixed.source = earlier(tmp_path_factory.mktemp("earlier"))
    with federation({"west": 2, "east": 2}, Mixed) as found:
        yield found


def test_a_member_of_this_release_serves_a_host_of_the_one_before(mixed: Mixed) -> None:
    mixed.deploy(3)
    mixed.wait_shares(west=2, east=1)
    assert mixed.host.get("web.test")[0] == 200


def test_a_member_goes_first_and_its_host_of_the_release_before_goes_on(mixed: Mixed) -> None:
    with no_request_fails(mixed.host.http_port):
        mixed.replace(mixed.members["west"])
        mixed.wait_state(west="ready", east="ready")
        mixed.host.fallow("deployment", "scale", "test/web=6", "--wait", "--timeout", "60s")
        mixed.wait_shares(west=4, east=2)


def test_the_host_follows_and_its_members_are_drained_and_used_again(mixed: Mixed) -> None:
    with no_request_fails(mixed.host.http_port):
        mixed.replace(mixed.host)
        mixed.wait_state(west="ready", east="ready")
        mixed.deploy(6, "2")
        mixed.wait_shares(90, west=4, east=2)
        mixed.host.fallow("cluster", "drain", "west", "--timeout", "60s")
        mixed.wait_shares(60, east=6)


def test_a_host_of_this_release_has_a_member_of_the_one_before(mixed: Mixed) -> None:
    mixed.add({"north": 1})
    mixed.join("north", "region=north")
    with no_request_fails(mixed.host.http_port):
        mixed.clusters_policy = "divide: weighted, where: 'region in (east,north)', weights: {east: 1, north: 1}"
        mixed.deploy(6, "2")
        mixed.wait_shares(60, east=3, north=3)
    lines = mixed.host.fallow("logs", PATH).splitlines()
    assert len({line.partition(" | ")[0] for line in lines if line.startswith("east/")}) >= 3  # some may be leaving
    (other,) = [line for line in lines if line.startswith("north")]
    assert f"fallow --context north logs {PATH}" in other
    one = str(mixed.members["north"].replicas()[0]["id"])
    with pytest.raises(TestbedError, match=r"runs in other clusters \(north 1\)"):
        mixed.host.fallow("logs", one)
