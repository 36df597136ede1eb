"""Images on real nodes, Podman and Docker, from the command line: pulled, listed, updated, deleted, cleaned, on record.

The tests follow each other on one cluster. The registry asks for a password, which no node is ever told to keep.
"""

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import images, noise, parts, processes, registry
from testbed.cluster import FALLOW, Cluster
from testbed.engines import DockerNode, EngineNode, PodmanNode
from testbed.fabric import Fabric
from testbed.ports import free_port
from testbed.processes import TestbedError
from testbed.registry import Registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NODES: dict[str, type[EngineNode]] = {"p1": PodmanNode, "p2": PodmanNode, "d1": DockerNode}
COMPOSE = """
services:
  web:
    image: {image}
    expose: ["8080"]
    deploy: {{replicas: {replicas}}}
    x-fallow: {{health: {{http: /healthz}}, selector: "kind=podman"}}
"""


class Imaged(Cluster):
    """Nodes with different engines, and a registry with a password."""

    registry: Registry

    def push(self, name: str, image: images.LocalImage) -> str:
        return images.push(self.registry.address, name, image, username=registry.USERNAME, password=registry.PASSWORD)

    def job(self, *arguments: str) -> dict[str, Any]:
        """Run an instruction to its end, whatever that is, and return the job with its tasks by node."""
        done = subprocess.run(
            [FALLOW, "image", *arguments, "--json"], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        assert done.stdout, done.stderr
        told = json.loads(done.stdout)
        return {**told["job"], "by_node": {task["node"]: task for task in told["tasks"]}, "exit": done.returncode}

    def has(self, node: str, image: str) -> bool:
        """Say whether a node's own engine has an image, asked without us."""
        command = [*self.engine(node), "image", "inspect", image]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def engine(self, node: str) -> list[str]:
        """Return how a node's own engine is commanded."""
        program = "podman" if NODES[node] is PodmanNode else "docker"
        return [program, "--url" if program == "podman" else "--host", self.nodes[node].url]

    def saved(self, node: str, name: str, made: images.LocalImage, file: Path, *options: str) -> None:
        """Have a node's engine write a file of an image, and forget the image."""
        given = file.with_suffix(".given")
        given.write_bytes(images.archive(name, made))
        processes.run(*self.engine(node), "load", "--input", str(given))
        processes.run(*self.engine(node), "save", *options, "--output", str(file), name)
        processes.run(*self.engine(node), "rmi", name)

    def deploy(self, image: str, replicas: int = 2) -> str:
        file = self.fabric.folder / "compose.yaml"
        file.write_text(COMPOSE.format(image=image, replicas=replicas))
        return self.fallow("deploy", str(file), "--project", "shop", "--timeout", "90s")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Imaged]:
    parts.require("namespaces", "registry", "busybox", "podman", "docker")
    with Fabric() as fabric:
        made = Imaged(fabric, port=free_port(17443))
        made.registry = Registry(fabric, password=True)
        made.insecure_registries = (made.registry.address,)
        try:
            for name, kind in NODES.items():
                made.nodes[name] = kind(fabric, name, insecure_registries=made.insecure_registries)
                made.nodes[name].power_on(wait=False)
            made.start_server()
            for name, kind in NODES.items():
                made.nodes[name].wait_ready()
                made.join(name, "--name", name, token=made.token("node", "--label", f"kind={kind.kind}"))
            made.wait_ready(*NODES)
            subprocess.run(
                [FALLOW, "registry", "add", made.registry.address, "--insecure", "--username", registry.USERNAME,
                 "--password-stdin"],
                input=registry.PASSWORD, text=True, check=True, env={**os.environ, **made.environment},
            )  # fmt: skip
            yield made
        finally:
            made.close()


def test_an_image_is_pulled_on_all_that_a_selector_picks(cluster: Imaged) -> None:
    image = cluster.push("tools:1", images.busybox())
    pulled = cluster.job("pull", image, "--on", "kind=podman")
    assert pulled["state"] == "completed"
    assert {name: task["state"] for name, task in pulled["by_node"].items()} == {"p1": "done", "p2": "done"}
    assert all(task["image_id"] == images.image_id(images.busybox()) for task in pulled["by_node"].values())
    assert {name: cluster.has(name, image) for name in NODES} == {"p1": True, "p2": True, "d1": False}
    again = cluster.job("pull", image, "--on", "all")
    assert {name: task["unchanged"] for name, task in again["by_node"].items()} == {
        "p1": True, "p2": True, "d1": False,
    }  # fmt: skip
    assert cluster.has("d1", image)


def test_who_has_what_is_listed(cluster: Imaged) -> None:
    image = f"{cluster.registry.address}/tools:1"

    def listed() -> bool:
        items = cluster.call("image", "list", "--image", image, "--json")["items"]
        return bool(items) and set(items[0]["nodes"]) == set(NODES)

    cluster.wait(listed, 20, "inventory of all nodes")


def test_a_tag_that_moved_is_drift_until_it_is_updated(cluster: Imaged) -> None:
    image = cluster.push("tools:1", images.shop("1"))
    with pytest.raises(TestbedError):
        cluster.fallow("image", "drift", "--resolve")
    updated = cluster.job("update", image, "--on", "all", "--strategy", "canary")
    assert {task["state"] for task in updated["by_node"].values()} == {"done"}
    assert {task["image_id"] for task in updated["by_node"].values()} == {images.image_id(images.shop("1"))}
    cluster.wait(lambda: "tools" not in cluster.fallow("image", "list", "--image", images.image_id(images.busybox())),
                 20, "old image without its name")  # fmt: skip


def test_what_runs_is_not_deleted_and_a_dry_run_says_so(cluster: Imaged) -> None:
    image = cluster.push("web:1", images.shop("2"))
    cluster.deploy(image)
    cluster.job("pull", image, "--on", "d1")
    foretold = cluster.job("delete", image, "--on", "all", "--dry-run")
    said = {name: task["verdicts"][0]["outcome"] for name, task in foretold["by_node"].items()}
    assert said["p1"] == said["p2"] == "in-use"
    assert all(cluster.has(name, image) for name in NODES)
    done = cluster.job("delete", image, "--on", "all")
    became = {name: task["verdicts"][0]["outcome"] for name, task in done["by_node"].items()}
    assert became == {name: {"delete": "deleted"}.get(outcome, outcome) for name, outcome in said.items()}
    assert cluster.has("p1", image)


def test_an_update_has_its_image_before_it_begins(cluster: Imaged) -> None:
    image = cluster.push("web:2", images.shop("3"))
    cluster.deploy(image)
    jobs = cluster.call("image", "job", "list", "--json")["items"]
    ahead = [job for job in jobs if job.get("deployment_id") or job.get("deployment")]
    assert ahead, "no image job was made for the update"
    running = [item for item in cluster.replicas() if item["state"] == "running"]
    assert {item["image"] for item in running} == {image}
    shown = cluster.call("deployment", "show", "shop/web", "--json")["pulled_ahead"]
    assert (shown["nodes"], shown["pending"], shown["failed"]) == (2, 0, 0)
    assert 0 < shown["longest_seconds"] <= shown["seconds"]
    assert re.search(r"pulled ahead +2 nodes in \d", cluster.fallow("deployment", "show", "shop/web"))


def test_clean_keeps_what_is_needed(cluster: Imaged) -> None:
    foretold = cluster.job("clean", "--on", "all", "--unused-for", "0s", "--keep", "*/tools", "--dry-run")
    done = cluster.job("clean", "--on", "all", "--unused-for", "0s", "--keep", "*/tools*")
    assert done["state"] == foretold["state"] == "completed"
    assert cluster.has("p1", f"{cluster.registry.address}/web:2"), "it runs"
    assert cluster.has("p1", f"{cluster.registry.address}/web:1"), "a rollback needs it"
    assert cluster.has("d1", f"{cluster.registry.address}/tools:1"), "it was to be kept"
    cluster.fallow("deployment", "rollback", "shop/web")


@pytest.mark.parametrize(
    ("node", "options"),
    [("d1", ()), ("p1", ("--format", "docker-archive")), ("p1", ("--format", "oci-archive"))],
    ids=["docker save", "podman save", "podman save as OCI"],
)
def test_a_file_an_engine_wrote_reaches_nodes_without_any_registry(
    cluster: Imaged, tmp_path: Path, node: str, options: tuple[str, ...]
) -> None:
    name, file = f"air.example/gap:{len(str(options))}", tmp_path / "app.tar"
    cluster.saved(node, name, noise.image(len(name), 200_000), file, *options)
    foretold = cluster.fallow("image", "load", str(file), "--on", "all", "--dry-run")
    assert foretold.splitlines()[1:] == ["  d1", "  p1", "  p2"]
    assert not any(cluster.has(each, name) for each in NODES)
    cluster.fallow("image", "load", str(file), "--on", "all", "--strategy", "canary")
    assert all(cluster.has(each, name) for each in NODES)
    ids = [processes.run(*cluster.engine(each), "images", "--quiet", "--no-trunc", name).strip() for each in NODES]
    assert set(ids) == {_id_in(file)}, "it is the very same image"
    tasks = cluster.call("image", "job", "list", "--json")["items"]
    assert next(job for job in tasks if job["reference"] == name)["canary"]
    cleaned = cluster.job("clean", "--on", "all", "--unused-for", "0s")
    outcomes = {
        each["outcome"]
        for task in cleaned["by_node"].values()
        for each in task["verdicts"]
        if each["reference"] == name
    }
    assert outcomes == {"protected"}, "no registry can give it back"
    assert all(cluster.has(each, name) for each in NODES)


def _id_in(file: Path) -> str:
    """Return the id of the one image in a file, by what its writer says."""
    with tarfile.open(file) as archive:

        def read(name: str) -> Any:
            found = archive.extractfile(name)
            assert found is not None
            return json.load(found)

        if "manifest.json" in archive.getnames():
            return "sha256:" + str(read("manifest.json")[0]["Config"]).removesuffix(".json").rpartition("/")[2]
        (manifest,) = read("index.json")["manifests"]
        return str(read("blobs/" + manifest["digest"].replace(":", "/"))["config"]["digest"])


def test_every_outcome_is_on_record(cluster: Imaged) -> None:
    with pytest.raises(TestbedError, match="No such image"):
        cluster.fallow("image", "pull", f"{cluster.registry.address}/nothing:9", "--on", "p1")
    jobs = cluster.call("image", "job", "list", "--json")["items"]
    assert {"pull", "update", "delete", "clean"} <= {job["action"] for job in jobs}
    table = cluster.fallow("image", "job", "export", "--format", "csv")
    assert "p1" in table


def test_the_password_is_nowhere(cluster: Imaged) -> None:
    image = cluster.push("secret:1", noise.image(77, 8_000_000))
    id_ = cluster.call("image", "pull", image, "--on", "all", "--detach", "--json")["id"]
    seen = set[str]()  # of all processes, while logins are on their way
    while cluster.call("image", "job", "show", id_, "--json")["job"]["state"] == "running":
        seen |= {text for path in Path("/proc").glob("[0-9]*/cmdline") if (text := _text(path))}
    assert not [line for line in seen if registry.PASSWORD in line]
    for command in ("events --json", "registry list --json", "image job logs", "image job export"):
        assert registry.PASSWORD not in cluster.fallow(*command.split()), command
    found = subprocess.run(
        ["grep", "-rlF", registry.PASSWORD, str(cluster.fabric.folder)], capture_output=True, text=True, check=False
    ).stdout.split()
    assert [path for path in found if "/registry-" not in path] == []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
