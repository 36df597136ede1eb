"""Machines whose clock is wrong: the real command under libfaketime, a real gateway, a real control plane."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

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


def clock(offset: str) -> dict[str, str]:
    """Return what gives a process a clock that is off; with `faketime` in front, a signal would end that alone."""
    words = ["faketime", "-f", offset, "printenv", "LD_PRELOAD"]
    library = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return {"LD_PRELOAD": library, "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def command(cluster: Cluster, name: str, offset: str) -> tuple[list[str], Mapping[str, str]]:
    """Return the command that joins a gateway on a machine whose clock is off by `offset`, and its environment."""
    folder = cluster.folder / name
    folder.mkdir()
    environment = {"FALLOW_JOIN_TOKEN": cluster.token("gateway"), **clock(offset)}
    port = str(free_port(18090))
    words = ["gateway", cluster.url, "--data", str(folder), "--name", name, "--http-port", port]
    return [FALLOW, *words], {**cluster.environment, **environment}


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


@dataclass
class Elsewhen(Cluster):
    """A cluster, and people who use it, at another time: all that is started from now on has that clock."""

    clock: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.clock

    def members(self, role: str = "") -> dict[str, dict[str, Any]]:
        """Return members by name, asked by a command, since this process has a clock of its own."""
        return {found["name"]: found for found in self.call("node", "list", "--role", role or "all", "--json")["items"]}


def expiry(folder: Path) -> float:
    """Return until when the certificate of a member is valid."""
    pem = json.loads((folder / "identity.json").read_text())["identity"]["certificate_pem"]
    return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()


def test_a_certificate_is_renewed_past_half_its_life_and_long_after_its_end() -> None:
    """A gateway is started again after fifteen hours, then after forty days: its key has not been revoked."""
    parts.require("namespaces", "haproxy", "faketime")
    with Fabric() as fabric:
        cluster = Elsewhen(fabric, port=free_port(17643))
        try:
            cluster.start_server()
            cluster.start_gateway("gw", free_port(18190), cluster.token("gateway", "--label", "zone=a"))
            cluster.wait_ready("gw")
            before, folder = cluster.members()["gw"], cluster.folder / "gw"
            for offset, hours in (("+15h", 14), ("+40d", 24 * 39)):
                ends = expiry(folder)
                processes.stop(cluster.gateways["gw"], 10)
                cluster.kill_server()
                cluster.clock = clock(offset)
                cluster.start_server()
                cluster.start_gateway("gw", free_port(18190))
                renewed = lambda least=ends + hours * 3600: expiry(folder) > least  # noqa: E731
                cluster.wait(renewed, 30, f"renewed at {offset}", folder / "gateway.log")
                cluster.wait(lambda: cluster.members()["gw"]["connected"], 30, "back", folder / "gateway.log")
            after = cluster.members()["gw"]
            kept = ("id", "address", "labels", "created_at")
            assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
            assert after["state"] == "ready"
        finally:
            cluster.close()
