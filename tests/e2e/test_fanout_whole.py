"""One image to every node of a cluster: the registry gives each layer once, to Podman and Docker alike."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from watched import Watched, watched_cluster

from testbed import images, noise, processes
from testbed.engines import DockerNode, PodmanNode
from testbed.faulty import Fault

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NODES = {"n1": PodmanNode, "n2": PodmanNode, "n3": PodmanNode, "d1": DockerNode}
APP = """
services:
  {name}:
    image: {image}
    deploy:
      replicas: {replicas}
      resources: {{reservations: {{memory: 16M}}}}
"""


class Fanned(Watched):
    """Four nodes, Podman and Docker."""

    def push(self, name: str, seed: int, size: int = 3_000_000) -> tuple[str, set[str]]:
        """Push an image of noise; return its reference and the digests of its layers."""
        image = noise.image(seed, size)
        return self.push_image(name, image), set(noise.layer_digests(image))

    def deploy(self, name: str, image: str, replicas: int = 4, *options: str) -> None:
        file = self.fabric.folder / f"{name}.yaml"
        file.write_text(APP.format(name=name, image=image, replicas=replicas))
        self.fallow("deploy", str(file), "--project", name, "--timeout", "90s", *options)

    def given(self, layers: set[str]) -> dict[str, int]:
        """Return how often the registry gave each layer, by the requests for it."""
        asked = Counter(each.path.rpartition("/")[2] for each in self.watched.seen if each.method == "GET")
        return {layer: asked[layer] for layer in layers}

    def names(self, node: str) -> list[str]:
        """Return every name of every image in a node's engine."""
        listing = self.nodes[node].run(
            "curl", "-s", "--unix-socket", self.nodes[node].socket_inside, "http://d/images/json"
        )
        return [name for each in json.loads(listing) for name in (each["RepoTags"] or []) + (each["RepoDigests"] or [])]

    def first_to_fetch(self) -> str:
        """Return a node that has some bytes of a layer, as soon as there is one."""
        folders = {name: node.folder / "agent/blobs/partial" for name, node in self.nodes.items()}

        def begun() -> list[str]:
            return [name for name, folder in folders.items() if any(path.stat().st_size for path in folder.iterdir())]

        processes.wait_until(lambda: bool(begun()), 30, "bytes of a layer")
        return begun()[0]

    def running(self, project: str) -> list[str]:
        """Return the nodes of a project's running replicas."""
        found = [item for item in self.replicas() if item["project"] == project and item["state"] == "running"]
        return [item["node"] for item in found]

    def nodes_of(self, project: str) -> set[str]:
        return set(self.running(project))


@pytest.fixture(scope="module")
def fanned() -> Iterator[Fanned]:
    with watched_cluster(Fanned, NODES, 17543) as cluster:
        yield cluster


def test_the_registry_gives_every_layer_once_for_all_nodes(fanned: Fanned) -> None:
    image, layers = fanned.push("web:1", 1)
    fanned.deploy("web", image)
    assert fanned.given(layers) == dict.fromkeys(layers, 1)
    assert fanned.nodes_of("web") == set(NODES)
    for node in NODES:
        names = fanned.names(node)
        assert image in names
        assert not any(name.startswith("127.0.0.1:") for name in names), "the place's own name is gone"


def test_a_registry_that_dies_after_the_first_node_is_not_missed(fanned: Fanned) -> None:
    image, layers = fanned.push("db:1", 2)
    fanned.deploy("db", image, 1)
    assert fanned.given(layers).keys() == layers
    fanned.watched.faults.append(Fault(path="/v2/", status=503))
    try:
        fanned.deploy("db", image, 4)
    finally:
        fanned.watched.faults.clear()
    assert fanned.nodes_of("db") == set(NODES)


def test_an_agent_killed_while_it_fetches_goes_on_after_its_start(fanned: Fanned) -> None:
    image, layers = fanned.push("mq:1", 3)
    fanned.watched.faults.extend(Fault(path=f"/blobs/{layer}", pause_seconds=0.3) for layer in layers)
    try:
        fanned.deploy("mq", image, 4, "--no-wait")
        victim = fanned.first_to_fetch()
        fanned.agents[victim].kill()
        fanned.agents[victim].wait(10)
        fanned.join(victim)
    finally:
        fanned.watched.faults.clear()
    # Where the agent was away for too long, its replica is elsewhere by now.
    fanned.wait(lambda: len(fanned.running("mq")) == 4, 60, "four replicas")
    fanned.wait_ready(*NODES)
    assert max(fanned.given(layers).values()) <= 3


def test_a_node_whose_cable_is_pulled_while_it_fetches_holds_nobody_up(fanned: Fanned) -> None:
    image, layers = fanned.push("cut:1", 5)
    fanned.watched.faults.extend(Fault(path=f"/blobs/{layer}", pause_seconds=0.3) for layer in layers)
    victim = ""
    try:
        fanned.deploy("cut", image, 4, "--no-wait")
        victim = fanned.first_to_fetch()
        fanned.fabric.cut(victim)
        others = set(NODES) - {victim}
        fanned.wait(lambda: fanned.nodes_of("cut") >= others, 90, "a replica on every other node")
    finally:
        fanned.watched.faults.clear()
        if victim:
            fanned.fabric.restore(victim)
    fanned.wait_ready(*NODES)


def test_an_image_from_a_file_reaches_every_engine_without_a_registry(fanned: Fanned) -> None:
    name = "air.test/gap/app:1"
    made = noise.image(4, 3_000_000)
    file = fanned.fabric.folder / "app.tar"
    file.write_bytes(images.archive(name, made))
    fanned.watched.seen.clear()
    fanned.fallow("image", "load", str(file), "--on", "all")
    assert not fanned.watched.seen
    for node in NODES:
        assert name in fanned.names(node)
    fanned.deploy("gap", name)
    assert len(fanned.running("gap")) == 4
