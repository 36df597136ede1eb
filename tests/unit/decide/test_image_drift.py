"""Images that nodes pulled and lack: by the newest of what they did, however often they did it."""

import msgspec
import pytest
from image_world import job
from records import NOW, member, snapshot

from fallow.control.image_drift import AT_ONCE, image_drift_controller
from fallow.decide.image_drift import drift
from fallow.model.image_jobs import ImageAction, ImageTask, TaskState, Verdict
from fallow.model.images import NodeImage, NodeImages

SHOP = "registry.example/shop/api:1"
DIGEST = "registry.example/shop/api@sha256:" + "1" * 64


def task(job_id: str, at: float, node: str = "a", state: TaskState = TaskState.DONE, *deleted: str) -> ImageTask:
    return ImageTask(
        id=f"{job_id}.n-{node}", created_at=NOW, updated_at=NOW, revision=3, job_id=job_id, member_id=f"n-{node}",
        member_name=node, state=state, ended_at=NOW + at,
        verdicts=tuple(Verdict(reference=each, outcome="deleted") for each in deleted),
    )  # fmt: skip


def has(*references: str, node: str = "a", at: float = 50.0, **more: object) -> NodeImages:
    images = tuple(NodeImage(id=f"sha256:{each}", references=(each,)) for each in references)
    return NodeImages(**{"id": f"n-{node}", "created_at": NOW, "updated_at": NOW, "images": images, "seen_at": NOW + at}
                      | more)  # fmt: skip


CLEAN = job("c", action=ImageAction.CLEAN, reference="")


@pytest.mark.parametrize(
    ("steps", "inventory", "missing"),
    [
        ("pull", has(), "p1"),
        ("pull", has(SHOP), ""),
        ("pull", has(at=5.0), ""),
        ("pull", has(omitted=1), ""),
        ("pull clean", has(), ""),
        ("clean pull", has(), "p1"),
        ("pull clean pull", has(), "p2"),
        ("pull pull", has(), "p2"),
        ("failed", has(), ""),
    ],
    ids=[
        "lacks it",
        "has it",
        "told before",
        "tells not all",
        "deleted",
        "pulled again",
        "and again",
        "twice",
        "failed",
    ],
)
def test_what_a_node_pulled_last_it_should_have(steps: str, inventory: NodeImages, missing: str) -> None:
    done: list[ImageTask] = []
    pulls = 0
    for at, what in enumerate(steps.split(), 10):
        if what == "clean":
            done.append(task("c", at, "a", TaskState.DONE, SHOP))
            continue
        pulls += 1
        done.append(task(f"p{pulls}", at, "a", TaskState.FAILED if what == "failed" else TaskState.DONE))
    jobs = (CLEAN, *(job(f"p{number}", reference=SHOP) for number in (1, 2)))
    found = drift(snapshot(member("a"), inventory, *jobs, *done))
    assert [each.because for each in found] == ([f"image job {missing}"] if missing else [])


@pytest.mark.parametrize(
    ("digests", "pulled", "there"),
    [((DIGEST,), "sha256:x", True), ((), "sha256:x", True), ((), "sha256:y", False)],
    ids=["by its name", "by its id", "not at all"],
)
def test_an_image_pulled_by_its_digest_is_known_by_it(digests: tuple[str, ...], pulled: str, there: bool) -> None:
    held = NodeImage(id="sha256:x", digests=digests)
    done = msgspec.structs.replace(task("p1", 10), image_id=pulled)
    found = drift(snapshot(member("a"), has(images=(held,)), job("p1", reference=DIGEST), done))
    assert [each.kind for each in found] == ([] if there else ["missing"])


def test_what_is_too_much_for_one_run_is_told_by_the_next() -> None:
    nodes = [f"w{number:03d}" for number in range(AT_ONCE + 30)]
    before = snapshot(*(member(node) for node in nodes), job("p1", reference=SHOP))
    controller = image_drift_controller(lambda: "e")
    assert controller.decide(before, NOW).steps == []
    lost = (record for node in nodes for record in (member(node), has(node=node), task("p1", 10, node)))
    after = snapshot(*lost, job("p1", reference=SHOP))
    assert [len(controller.decide(after, NOW).steps) for _ in range(4)] == [AT_ONCE, 30, 0, 0]
    assert not controller.kinds, "it looks at all tasks, so it is not woken by every inventory"
