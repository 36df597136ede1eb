"""A mirror that we run: made by one command, asked before the registry, and not missed when it is away."""

import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
from watched import Watched, watched_cluster

from testbed import images, noise
from testbed.engines import DockerNode, PodmanNode
from testbed.faulty import Fault

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

NODES = {"m1": PodmanNode, "n1": PodmanNode, "d1": DockerNode}
OTHERS = "n1,d1"
NODE, MIRROR = "fallow", "Go-http-client"  # as whom they ask
PASSED_ON_AND_STORED = 2  # what the distribution registry asks for until its version 3, where it has nothing yet


class Mirrored(Watched):
    """Three nodes and a registry that can be watched; m1 is for the mirror."""

    def given(self, image: images.LocalImage, agent: str) -> list[int]:
        """Return how often the registry gave each layer to a program."""
        asked = Counter(
            each.path.rpartition("/")[2]
            for each in self.watched.seen
            if each.method == "GET" and each.headers.get("User-Agent", "").startswith(agent)
        )
        return [asked[layer] for layer in noise.layer_digests(image)]

    def mirror(self) -> dict[str, str]:
        (found,) = self.ask(lambda client: client.registries.mirrors())["items"]
        return dict(found)

    def forget_blobs(self, *names: str) -> None:
        """Let agents hold no blobs that another node could be given."""
        for name in names:
            self.agents[name].kill()
            self.agents[name].wait(10)
            shutil.rmtree(self.nodes[name].folder / "agent/blobs")
            self.join(name)
        self.wait_ready(*names)


@pytest.fixture(scope="module")
def mirrored() -> Iterator[Mirrored]:
    with watched_cluster(Mirrored, NODES, 17643) as cluster:
        image = cluster.push_image("registry:2", images.registry())
        options = ("--for", cluster.watched.address, "--on", "m1", "--image", image)
        assert "does not serve yet" in cluster.fallow("registry", "mirror", "create", "cache", *options)
        cluster.wait(lambda: bool(cluster.mirror()["address"]), 60, "the mirror")
        yield cluster


def test_a_mirror_is_made_where_it_should_be_and_asks_the_registry_once(mirrored: Mirrored) -> None:
    made = mirrored.mirror()
    assert (made["registry"], made["node"], made["state"]) == (mirrored.watched.address, "m1", "serving")
    (known,) = mirrored.call("registry", "list", "--json")["items"]
    assert (known["mirror"], known["mirrored_by"]) == (made["address"], "cache")
    image = noise.image(11, 2_000_000)
    name = mirrored.push_image("web:1", image)
    mirrored.fallow("image", "pull", name, "--on", OTHERS)
    assert mirrored.given(image, NODE) == [0, 0, 0]
    assert set(mirrored.given(image, MIRROR)) <= {1, PASSED_ON_AND_STORED}
    mirrored.watched.seen.clear()
    # Nobody but the mirror has it now.
    mirrored.fallow("image", "delete", name, "--on", OTHERS)
    mirrored.forget_blobs("n1", "d1")
    mirrored.watched.faults.extend(Fault(path=layer, status=503) for layer in noise.layer_digests(image))
    try:
        mirrored.fallow("image", "pull", name, "--on", OTHERS)
    finally:
        mirrored.watched.faults.clear()
    assert mirrored.given(image, MIRROR) == mirrored.given(image, NODE) == [0, 0, 0]


def test_a_mirror_that_lost_its_power_fails_no_pull(mirrored: Mirrored) -> None:
    image = noise.image(12, 2_000_000)
    name = mirrored.push_image("web:2", image)
    mirrored.nodes["m1"].power_cut()
    assert mirrored.mirror()["address"], "it is not known yet"
    mirrored.fallow("image", "pull", name, "--on", OTHERS)
    assert max(mirrored.given(image, NODE)) == 1
    assert max(mirrored.given(image, MIRROR)) == 0
    mirrored.nodes["m1"].power_on()
    mirrored.join("m1")
    mirrored.wait(lambda: bool(mirrored.mirror()["address"]), 90, "the mirror again")


def test_a_mirror_that_is_deleted_is_asked_no_more(mirrored: Mirrored) -> None:
    mirrored.fallow("registry", "mirror", "delete", "cache")
    assert mirrored.call("registry", "mirror", "list", "--json")["items"] == []
    mirrored.wait(lambda: "mirrors/cache" not in mirrored.deployments(), 60, "the end of the mirror")
    image = noise.image(13, 1_000_000)
    mirrored.fallow("image", "pull", mirrored.push_image("web:3", image), "--on", OTHERS)
    assert max(mirrored.given(image, NODE)) == 1
    assert max(mirrored.given(image, MIRROR)) == 0
