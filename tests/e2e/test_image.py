"""The control plane as an image: built from the Containerfile, run by Podman as a user of its own, joined by a node."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import parts, processes
from testbed.cluster import Cluster
from testbed.fabric import Fabric
from testbed.ports import free_port

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/fallow:test"
pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "{runtime}"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""


class Podman:
    """Podman with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(CONFIGURATION.format(runtime=parts.runtime()))
        self.name = f"fallow-control-{os.getpid()}"

    def run(self, *words: str, check: bool = True) -> str:
        places = ("--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run", "--tmpdir", f"{self.folder}/tmp")
        done = subprocess.run(
            ["podman", *places, *words], capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")},
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"podman {words}: {done.stderr}"
        return done.stdout + done.stderr

    def close(self) -> None:
        self.run("rm", "--force", "--volumes", self.name, check=False)
        subprocess.run(["umount", f"{self.folder}/root/overlay"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    parts.require("podman", "buildah", "busybox", "curl")
    with Fabric() as fabric:  # for its folder, which is removed with what is mounted in it
        found = Podman(fabric.folder)
        try:
            script = str(ROOT / "scripts/build_image.py")
            command = [sys.executable, script, "--tag", IMAGE, "--storage", str(found.folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
            yield found
        finally:
            found.close()


def start(podman: Podman, address: str, port: int) -> None:
    podman.run(
        "run", "--detach", "--name", podman.name, "--network", "host", "--read-only", "--cap-drop", "all",
        "--volume", "fallow-state:/var/lib/fallow", IMAGE,
        "server", "--data", "/var/lib/fallow/server", "--no-write-context", "--log-format", "json",
        "--listen", f"{address}:{port}", "--session-listen", f"{address}:{port + 1}",
    )  # fmt: skip


def test_a_control_plane_in_a_container(podman: Podman) -> None:
    with Fabric() as fabric:
        cluster = Cluster(fabric, port=free_port(27443))
        try:
            start(podman, fabric.host_address, cluster.port)
            processes.wait_until(lambda: "fallow-api." in podman.run("logs", podman.name), 30, "the first token")
            said = podman.run("logs", podman.name)
            token = said[said.index("fallow-api.") :].split()[0]
            ca = podman.folder / "ca.pem"  # not by `podman exec`: in a chroot it does not enter the container's root
            subprocess.run(["curl", "--silent", "--insecure", "--output", ca, f"{cluster.url}/v1/ca"], check=True)
            cluster.fallow("context", "add", "image", cluster.url, "--ca-file", str(ca), env={"FALLOW_TOKEN": token})
            cluster.wait(lambda: cluster.call("node", "list", "--json", check=False) is not None, 30, "the API")
            cluster.boot("n1")
            cluster.join("n1", "--name", "n1", token=cluster.token("node"))
            cluster.wait_ready("n1")
            assert podman.run("inspect", podman.name, "--format", "{{.Config.User}}").strip() == "10001:10001"
            audit = cluster.call("events", "--audit", "--json")["items"]
            (joined,) = [one for one in audit if one["operation"] == "join"]
            assert joined["subject"] == "n1"
            diagnosis = cluster.call("doctor", "--only", "control", "--json")
            assert diagnosis["verdict"] in ("ok", "note"), diagnosis

            podman.run("stop", "--time", "20", podman.name)
            assert podman.run("inspect", podman.name, "--format", "{{.State.ExitCode}}").strip() == "0"
            podman.run("rm", podman.name)
            start(podman, fabric.host_address, cluster.port)  # another container, the same state
            cluster.wait(lambda: cluster.call("node", "list", "--json", check=False) is not None, 30, "the API again")
            cluster.wait_ready("n1")
        finally:
            cluster.close()
