"""Image jobs on real nodes: shown, held up, taken back, tried again, killed; and what is told of them."""

import contextlib
import csv
import io
import json
import os
import pty
import re
import subprocess
import termios
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from watched import Watched, watched_cluster

from testbed import images, noise, processes
from testbed.cluster import FALLOW
from testbed.engines import DockerNode, PodmanNode
from testbed.faulty import Fault
from testbed.processes import TestbedError

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NODES = {"p1": PodmanNode, "p2": PodmanNode, "d1": DockerNode}
SLOW = 0.6  # seconds for each tenth of a layer


class Jobs(Watched):
    """Three nodes, Podman and Docker, and a registry that can be made to misbehave."""

    def push(self, name: str, seed: int, size: int = 1_000_000) -> tuple[str, list[str]]:
        """Push an image of noise; return its reference and its layers, the large ones."""
        image = noise.image(seed, size)
        return self.push_image(name, image), noise.layer_digests(image)[-2:]

    def slowed(self, layers: list[str]) -> None:
        self.watched.faults.extend(Fault(path=f"/blobs/{layer}", pause_seconds=SLOW) for layer in layers)

    def begun(self, *arguments: str) -> str:
        """Begin a job and return its id."""
        return str(self.call("image", *arguments, "--detach", "--json")["id"])

    def shown(self, job: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Return a job, and its tasks by node."""
        with self.client() as client:  # a command's start would take longer than some of what is looked for
            found, tasks = client.images.job(job), client.images.all_tasks({"job": job})
            return msgspec.to_builtins(found), {task.node: msgspec.to_builtins(task) for task in tasks}

    def until(self, job: str, state: str, seconds: float = 60) -> dict[str, dict[str, Any]]:
        """Wait until a job is in that state and return its tasks by node."""
        self.wait(lambda: self.shown(job)[0]["state"] == state, seconds, f"{job} {state}")
        return self.shown(job)[1]

    def bytes_come(self, job: str) -> None:
        """Wait until a node is in the middle of a pull."""
        self.wait(
            lambda: any(task["current_bytes"] > 0 for task in self.shown(job)[1].values()), 30, f"bytes for {job}"
        )

    def has(self, node: str, image: str) -> bool:
        """Say whether a node's own engine has an image, asked without us."""
        program = ["podman", "--url"] if NODES[node] is PodmanNode else ["docker", "--host"]
        command = [*program, self.nodes[node].url, "image", "inspect", image]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def states(self, job: str) -> dict[str, str]:
        return {node: task["state"] for node, task in self.shown(job)[1].items()}


@pytest.fixture(scope="module")
def started() -> Iterator[Jobs]:
    with watched_cluster(Jobs, NODES, 17843) as cluster:
        yield cluster


@pytest.fixture
def cluster(started: Jobs) -> Iterator[Jobs]:
    yield started
    started.watched.faults.clear()


def test_a_terminal_shows_a_bar_for_each_node_with_its_bytes_and_one_for_all(cluster: Jobs) -> None:
    image, layers = cluster.push("bars:1", 20)
    cluster.slowed(layers)
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, 120))
    command = subprocess.Popen(
        [FALLOW, "image", "pull", image, "--on", "all"], stderr=its, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **cluster.environment, "TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    screen = b""
    with contextlib.suppress(OSError):  # its end
        while chunk := os.read(ours, 65536):
            screen += chunk
    summary = command.communicate(timeout=60)[0]
    os.close(ours)
    assert command.returncode == 0
    shown = screen.decode(errors="replace")
    for node in NODES:
        assert re.search(rf"{node} .*[0-9] [KM]iB of [0-9.]+ MiB", shown), shown[-2000:]
    assert re.search(r"all .*0 of 3 done, 3 working, [0-9.]+ [KM]iB", shown)
    assert "3 of 3 nodes are done" in summary


def test_a_job_is_paused_and_goes_on(cluster: Jobs) -> None:
    image, layers = cluster.push("pause:1", 1)
    cluster.slowed(layers)
    job = cluster.begun("pull", image, "--on", "all", "--parallel", "1")
    cluster.bytes_come(job)
    assert "paused" in cluster.fallow("image", "job", "pause", job)
    cluster.wait(lambda: "done" in cluster.states(job).values(), 60, "the node at work to end")
    told, tasks = cluster.shown(job)
    assert (told["state"], told["counts"]["queued"], len(tasks)) == ("paused", 2, 1), "nobody else has begun"
    assert sum(cluster.has(node, image) for node in NODES) == 1
    cluster.fallow("image", "job", "resume", job)
    assert {task["state"] for task in cluster.until(job, "completed").values()} == {"done"}
    assert all(cluster.has(node, image) for node in NODES)


def test_a_job_is_cancelled_in_the_middle_of_its_pulls_and_a_retry_does_it(cluster: Jobs) -> None:
    image, layers = cluster.push("cancel:1", 2)
    cluster.slowed(layers)
    job = cluster.begun("pull", image, "--on", "all")
    cluster.bytes_come(job)
    assert "cancelled" in cluster.fallow("image", "job", "cancel", job)
    cluster.wait(lambda: set(cluster.states(job).values()) == {"cancelled"}, 30, "every node cancelled")
    assert not any(cluster.has(node, image) for node in NODES)
    cluster.watched.faults.clear()
    cluster.fallow("image", "job", "retry", job, "--follow")
    assert set(cluster.states(job).values()) == {"done"}


@pytest.mark.slow  # Docker asks for a layer that it is refused five times, with longer and longer pauses
def test_a_retry_asks_only_those_that_failed(cluster: Jobs, tmp_path: Path) -> None:
    image, layers = cluster.push("retry:1", 3)
    file = tmp_path / "retry.tar"
    file.write_bytes(images.archive(image, noise.image(3, 1_000_000)))
    processes.run("podman", "--url", cluster.nodes["p1"].url, "load", "--input", str(file))
    cluster.watched.faults.extend(Fault(path=f"/blobs/{layer}", status=403) for layer in layers)
    job = cluster.begun("pull", image, "--on", "all", "--attempts", "1", "--max-failures", "100%")
    before = cluster.until(job, "completed", 120)
    assert {node: task["state"] for node, task in before.items()} == {"p1": "done", "p2": "failed", "d1": "failed"}
    cluster.watched.faults.clear()
    cluster.fallow("image", "job", "retry", job, "--follow")
    after = cluster.shown(job)[1]
    assert {node: (task["state"], task["attempt"]) for node, task in after.items()} == {
        "p1": ("done", 1), "p2": ("done", 2), "d1": ("done", 2),
    }  # fmt: skip
    assert after["p1"] == before["p1"]


def test_why_it_failed_is_told_for_each_node_and_the_next_try_does_it(cluster: Jobs) -> None:
    image, layers = cluster.push("refused:1", 10)
    cluster.watched.faults.extend(Fault(path=f"/blobs/{layer}", status=403) for layer in layers)
    job = cluster.begun("pull", image, "--on", "all", "--attempts", "1", "--max-failures", "100%")
    tasks = cluster.until(job, "completed", 120)
    told = {node: (task["state"], task["kind"]) for node, task in tasks.items()}
    assert told == dict.fromkeys(NODES, ("failed", "denied"))
    assert all("the registry answered 403" in task["text"] and task["log"] for task in tasks.values())
    assert not any(cluster.has(node, image) for node in NODES)
    cluster.watched.faults.clear()
    cluster.fallow("image", "job", "retry", job, "--follow")
    assert {(task["state"], task["attempt"]) for task in cluster.shown(job)[1].values()} == {("done", 2)}


def test_control_plane_agent_and_machine_are_killed_and_every_node_does_it_once(cluster: Jobs) -> None:
    image, layers = cluster.push("killed:1", 5)
    cluster.slowed(layers)
    job = cluster.begun("pull", image, "--on", "all", "--parallel", "2")
    cluster.bytes_come(job)
    cluster.kill_server()
    cluster.start_server()
    cluster.agents["p1"].kill()
    cluster.agents["p1"].wait(10)
    cluster.join("p1")
    assert cluster.shown(job)[0]["state"] == "running"
    cluster.nodes["d1"].reboot()
    cluster.join("d1")
    tasks = cluster.until(job, "completed")
    assert {node: task["state"] for node, task in tasks.items()} == dict.fromkeys(NODES, "done")
    assert cluster.shown(job)[0]["counts"]["done"] == len(NODES)
    assert all(cluster.has(node, image) for node in NODES)
    record = json.loads(cluster.fallow("image", "job", "export", "--image", image))
    assert Counter(task["node"] for task in record) == dict.fromkeys(NODES, 1)
    ends = [each for each in cluster.call("events", "--json")["items"] if each["reason"] == "ImageJobCompleted"]
    assert len([each for each in ends if job in each["message"]]) == 1


def test_two_jobs_for_one_image_at_once_fetch_it_once(cluster: Jobs) -> None:
    image, layers = cluster.push("twice:1", 6)
    cluster.slowed(layers)
    jobs = [cluster.begun("pull", image, "--on", "all", "--parallel", "3") for _ in range(2)]
    for job in jobs:
        assert {task["state"] for task in cluster.until(job, "completed").values()} == {"done"}
    asked = Counter(each.path.rpartition("/")[2] for each in cluster.watched.seen if each.method == "GET")
    assert {layer: asked[layer] for layer in layers} == dict.fromkeys(layers, 1)


def test_who_joins_while_a_job_is_open_takes_part(cluster: Jobs) -> None:
    image, _ = cluster.push("late:1", 7)
    job = cluster.begun("pull", image, "--on", "role=late", "--wait-for-nodes")
    assert cluster.shown(job)[0]["counts"]["nodes"] == 0
    cluster.fallow("node", "label", "p2", "role=late")
    assert {node: task["state"] for node, task in cluster.until(job, "completed").items()} == {"p2": "done"}
    assert cluster.has("p2", image)


@pytest.mark.slow
def test_a_roll_goes_on_without_the_command_that_asked_for_it(cluster: Jobs, tmp_path: Path) -> None:
    image, _ = cluster.push("rolled:1", 8)
    file = tmp_path / "rolled.yaml"
    file.write_text(f"services: {{app: {{image: '{image}', deploy: {{replicas: 2}}}}}}")
    cluster.fallow("deploy", str(file), "--project", "rolled", "--timeout", "90s")
    before = {item["id"] for item in cluster.replicas() if item["project"] == "rolled"}
    cluster.push("rolled:1", 9)
    told = cluster.fallow("image", "update", image, "--on", "all", "--roll", "--dry-run")
    assert told.splitlines()[-1] == "would then renew rolled/app"
    job = cluster.begun("update", image, "--on", "all", "--roll")
    cluster.until(job, "completed")
    assert cluster.shown(job)[0]["renewed"] == ("rolled/app",)

    def renewed() -> bool:
        running = {
            item["id"] for item in cluster.replicas() if item["project"] == "rolled" and item["state"] == "running"
        }
        return len(running) == 2 and not running & before

    cluster.wait(renewed, 60, "two new replicas")


def test_the_record_is_searched_by_node_state_image_and_time_and_written_as_a_table(cluster: Jobs) -> None:
    image, _ = cluster.push("record:1", 21)
    cluster.fallow("image", "pull", image, "--on", "p1,p2")

    def found(*filters: str) -> list[str]:
        return sorted(task["node"] for task in cluster.call("image", "job", "logs", *filters, "--json"))

    of_image = ("--image", image)
    assert found(*of_image) == ["p1", "p2"]
    assert found(*of_image, "--node", "p1", "--state", "done", "--since", "10m") == ["p1"]
    assert found(*of_image, "--state", "failed") == found(*of_image, "--node", "d1") == []
    assert found(*of_image, "--since", "0s") == []
    table = list(csv.DictReader(io.StringIO(cluster.fallow("image", "job", "export", "--format", "csv", *of_image))))
    assert sorted(row["node"] for row in table) == ["p1", "p2"]
    assert all(f"image pull {image}" in row["instruction"] and float(row["ended_at"]) > 0 for row in table)
    assert "the engine has sha256:" in cluster.fallow("image", "job", "logs", *of_image, "--node", "p1")


def test_nodes_are_meant_by_how_much_of_their_disk_is_free(cluster: Jobs) -> None:
    image, _ = cluster.push("room:1", 22)
    told = cluster.fallow("image", "pull", image, "--on", "disk.free>=1MiB", "--dry-run")
    assert [line.strip() for line in told.splitlines()[1:]] == sorted(NODES)
    with pytest.raises(TestbedError, match="there is none that"):
        cluster.fallow("image", "clean", "--on", "disk.free<1KiB", "--keep", "shop/*", "--until-free", "40GiB")
