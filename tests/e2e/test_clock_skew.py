"""Machines whose clock is wrong: the real command under libfaketime, a real gateway, a real control plane."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from testbed import parts, processes
from testbed.cluster import FALLOW, Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def no_leftovers() -> None:
    """Remove what killed processes with a clock of their own left in shared memory: pids come again."""
    for found in Path("/dev/shm").glob("*faketime_s*_*"):
        if not Path(f"/proc/{found.name.rpartition('_')[2]}").exists():
            found.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    parts.require("namespaces", "haproxy", "faketime")
    with Fabric() as fabric:
        found = Cluster(fabric, port=free_port(17443))
        try:
            found.start_server()
            yield found
        finally:
            found.close()


def command(cluster: Cluster, name: str, offset: str) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that joins a gateway on a machine whose clock is off by `offset`, and its environment."""
    folder = cluster.folder / name
    folder.mkdir()
    environment = {"FALLOW_JOIN_TOKEN": cluster.token("gateway"), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    port = str(free_port(18090))
    words = ["gateway", cluster.url, "--data", str(folder), "--name", name, "--http-port", port]
    return ["faketime", "-f", offset, FALLOW, *words], {**cluster.environment, **environment}


@pytest.mark.parametrize(("name", "offset", "told"), [("early", "-1d", "1d behind"), ("late", "+25h", "ahead")])
def test_a_machine_with_a_clock_a_day_off_is_told_by_how_much(
    cluster: Cluster, name: str, offset: str, told: str
) -> None:
    argv, environment = command(cluster, name, offset)
    done = subprocess.run(
        argv, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "clock is off by 1d" in done.stderr
    assert told in done.stderr
    assert "set the clock" in done.stderr
    assert "Traceback" not in done.stderr
    assert name not in cluster.members()
    tokens = [found for found in cluster.call("token", "list", "--json")["items"] if found["role"] == "gateway"]
    assert all(found["uses_left"] == 1 for found in tokens), "a refusal costs no use"


def test_a_machine_an_hour_ahead_joins_and_stays_ready(cluster: Cluster) -> None:
    argv, environment = command(cluster, "ahead", "+1h")
    process = processes.start(argv, cluster.folder / "ahead.log", environment)
    cluster.fabric.remember(process)
    cluster.gateways["ahead"] = process
    cluster.wait_ready("ahead")
    assert abs(cluster.members()["ahead"]["last_seen_at"] - cluster.members()["ahead"]["state_since"]) < 60
