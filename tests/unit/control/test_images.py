"""What sessions are told and say of images: orders, outcomes, progress, inventories."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from image_world import job
from records import deployment, member, template
from test_hub import Line

from fallow.control import image_inventory
from fallow.control.hub import Hub
from fallow.control.images import Images
from fallow.decide.image_tasks import begun
from fallow.model.containers import ContainerSpec
from fallow.model.image_frames import (
    ImageProgressed,
    ImagesReported,
    ImageTasksReported,
    ImageTasksStored,
    SetImageTasks,
)
from fallow.model.image_jobs import CleanRules, ImageAction, ImageJob, ImageTask, TaskProgress, TaskReport, TaskState
from fallow.model.images import Blob, NodeImage, NodeImages, PlatformImage, ResolvedImage
from fallow.model.members import Role
from fallow.model.wire import IMAGES_PROTOCOL

NOW = 1_000_000.0
DIGEST = "sha256:" + "d" * 64
NODE = member("a", revision=0)


class Rig:
    """A store with a node, its session, and the part under test."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.hub = Hub(lambda: NOW)
        self.images = Images(stored.cache, stored.applier, self.hub, lambda: NOW)
        self.line = self.new_line()

    def new_line(self, member_id: str = "n-a", protocol: int = IMAGES_PROTOCOL) -> Line:
        line = Line(member_id)
        line.protocol = protocol
        line.agent_version = "0.0.9"
        return line

    def open(self, line: Line) -> None:
        self.hub.open(line)
        self.images.greet(line)

    async def begin(self, found: ImageJob, node: Any = NODE) -> ImageTask:
        await self.stored.write(msgspec.structs.replace(found, revision=0))
        task = begun(found, node, None, NOW)
        await self.stored.write(task)
        return self.task(task.id)

    def task(self, id_: str) -> ImageTask:
        found = self.stored.cache.get("image-tasks", id_)
        assert isinstance(found, ImageTask)
        return found

    def told(self, line: Line | None = None) -> list[SetImageTasks]:
        return [frame for frame in (line or self.line).sent if isinstance(frame, SetImageTasks)]

    def stored_batches(self) -> list[int]:
        return [frame.batch for frame in self.line.sent if isinstance(frame, ImageTasksStored)]

    async def say(self, batch: int, *reports: TaskReport, line: Line | None = None) -> None:
        await self.images.heard(line or self.line, ImageTasksReported(batch=batch, reports=reports))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with storing(NODE) as stored:
        found = Rig(stored)
        running = asyncio.create_task(found.images.run())
        yield found
        assert not running.done()
        await ended(running)


def report(task: ImageTask, **more: Any) -> TaskReport:
    return TaskReport(**{"task_id": task.id, "attempt": task.attempt, "state": "done"} | more)


async def test_a_session_is_told_all_its_tasks_then_what_changes(rig: Rig) -> None:
    image = ResolvedImage(
        reference="r.example/a:1", digest=DIGEST,
        platforms=(
            PlatformImage(platform="linux/arm64", manifest=Blob(digest=DIGEST, size_bytes=1), image_id=DIGEST),
            PlatformImage(platform="linux/amd64", manifest=Blob(digest=DIGEST, size_bytes=2), image_id=DIGEST),
        ),
    )  # fmt: skip
    first = await rig.begin(job(image=image))
    await rig.stored.write(msgspec.structs.replace(first, id="j1.n-b", member_id="n-b", revision=0))
    rig.open(rig.line)
    (full,) = rig.told()
    (order,) = full.orders
    assert (full.full, order.task_id, order.attempt, order.digest) == (True, "j1.n-a", 1, DIGEST)
    assert order.image is not None
    assert order.image.platform == "linux/amd64"

    second = await rig.begin(job("j2"))
    await until(lambda: len(rig.told()) == 2)
    assert [each.task_id for each in rig.told()[1].orders] == ["j2.n-a"]

    # Taken back, tried again, done: each told as far as the node does not know it.
    await rig.stored.write(msgspec.structs.replace(first, state=TaskState.CANCELLED))
    await until(lambda: len(rig.told()) == 3)
    assert rig.told()[2].cancelled == ("j1.n-a",)
    await rig.stored.write(msgspec.structs.replace(second, attempt=2))
    await until(lambda: len(rig.told()) == 4)
    assert rig.told()[3].orders[0].attempt == 2
    await rig.say(1, report(rig.task("j2.n-a")))
    await until(lambda: rig.stored_batches() == [1])
    await asyncio.sleep(0)
    assert len(rig.told()) == 4, "what the node itself has done is not taken back"


async def test_an_older_agent_is_sent_nothing_and_its_tasks_fail_with_what_to_do(rig: Rig) -> None:
    old = rig.new_line(protocol=IMAGES_PROTOCOL - 1)
    rig.open(old)
    task = await rig.begin(job())
    await until(lambda: rig.task(task.id).state is TaskState.FAILED)
    assert "its agent (0.0.9) is too old" in rig.task(task.id).text
    assert rig.told(old) == []


async def test_a_gateway_is_told_nothing(rig: Rig) -> None:
    await rig.stored.write(member("g", role=Role.GATEWAY, revision=0))
    line = rig.new_line("n-g")
    rig.open(line)
    assert rig.told(line) == []


async def test_a_delete_carries_what_deployments_need_when_it_is_sent(rig: Rig) -> None:
    web = deployment()
    spec = msgspec.structs.replace(web.spec, container=ContainerSpec(image="shop:2"))
    newer = msgspec.structs.replace(web, generation=2, good_generation=1, spec=spec, revision=0)
    first, second = template(web, 1), template(newer, 2)
    await rig.stored.write(newer, *(msgspec.structs.replace(each, revision=0) for each in (first, second)))
    rig.open(rig.line)
    await rig.begin(job(action=ImageAction.CLEAN, reference="", rules=CleanRules(keep=("x*",))))
    await until(lambda: len(rig.told()) == 2)
    (order,) = rig.told()[1].orders
    assert order.rules is not None
    assert order.rules.keep == ("x*",)
    assert order.rules.needed == ("docker.io/library/shop:1", "docker.io/library/shop:2")


async def test_an_outcome_is_stored_once_then_acknowledged(rig: Rig) -> None:
    task = await rig.begin(job())
    rig.open(rig.line)
    for batch in (1, 2):
        await rig.say(batch, report(task, fetched_bytes=7, image_id=DIGEST, log=("pulled",)))
    await until(lambda: rig.stored_batches() == [1, 2])
    found = rig.task(task.id)
    assert (found.state, found.fetched_bytes, found.image_id, found.ended_at) == (TaskState.DONE, 7, DIGEST, NOW)
    assert "pulled" in found.log


async def test_only_the_node_whose_task_it_is_may_report_it_and_only_this_attempt(rig: Rig) -> None:
    await rig.stored.write(member("b", revision=0))
    task = await rig.begin(job())
    other = rig.new_line("n-b")
    rig.open(rig.line)
    rig.open(other)
    await rig.say(1, report(task), line=other)
    await rig.say(2, report(task, attempt=2), report(task, task_id="none"))
    await until(lambda: rig.stored_batches() == [2])
    assert rig.task(task.id) == task


async def test_a_failure_is_tried_again_as_long_as_its_job_is_open(rig: Rig) -> None:
    task = await rig.begin(job())
    rig.open(rig.line)
    await rig.say(1, report(task, state="failed", kind="rate-limited", text="429", retry_after_seconds=40.0))
    await until(lambda: rig.stored_batches() == [1])
    assert rig.task(task.id).state is TaskState.WAITING
    assert rig.task(task.id).not_before >= NOW + 40
    assert rig.told()[-1].cancelled == (task.id,)


async def test_progress_stays_in_memory_and_is_only_ones_own(rig: Rig) -> None:
    task = await rig.begin(job())
    revision = rig.stored.cache.revision
    told = TaskProgress(task_id=task.id, current_bytes=5, total_bytes=9)
    await rig.images.heard(rig.new_line("n-b"), ImageProgressed(tasks=(told,)))
    assert rig.images.reports.progress(task.id) is None
    await rig.images.heard(rig.line, ImageProgressed(tasks=(told, TaskProgress(task_id="none"))))
    assert rig.images.reports.progress(task.id) == told
    assert rig.images.reports.progress("none") is None
    assert rig.stored.cache.revision == revision
    await rig.say(1, report(task))
    await until(lambda: rig.images.reports.progress(task.id) is None)


async def test_what_a_node_has_is_stored_when_it_changes_and_not_more_often(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_inventory, "LOOK_SECONDS", 0.01)
    image = NodeImage(id=DIGEST, references=("r.example/a:1",))

    def stored() -> NodeImages | None:
        found = rig.stored.cache.get("node-images", "n-a")
        return found if isinstance(found, NodeImages) else None

    async def say(*images: NodeImage, free: int = 0) -> None:
        await rig.images.heard(rig.line, ImagesReported(images=images, disk_free_bytes=free))

    await say(image)
    await until(stored)
    first = stored()
    assert first is not None
    await say(image, free=5)  # nothing new but free space
    monkeypatch.setattr(image_inventory, "CHANGED_SECONDS", 0.0)
    used = msgspec.structs.replace(image, last_needed_at=NOW)
    await say(used)  # only its use is new: that may wait
    await asyncio.sleep(0.05)
    assert stored() == first
    await say(used, NodeImage(id="sha256:" + "e" * 64))
    await until(lambda: (found := stored()) is not None and len(found.images) == 2)
    found = stored()
    assert found is not None
    assert found.images[0].last_needed_at == NOW


async def test_a_stranger_has_no_inventory(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_inventory, "LOOK_SECONDS", 0.001)
    await rig.images.heard(rig.new_line("n-gone"), ImagesReported(images=()))
    await rig.images.heard(rig.line, ImagesReported(images=()))
    await until(lambda: rig.stored.cache.get("node-images", "n-a"))
    assert rig.stored.cache.get("node-images", "n-gone") is None


async def test_what_a_node_had_to_do_by_itself_is_told_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_inventory, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(image_inventory, "CHANGED_SECONDS", 0.0)
    full = ImagesReported(images=(), warning="its disk was nearly full")
    for frame in (full, full, ImagesReported(images=(NodeImage(id=DIGEST),))):
        await rig.images.heard(rig.line, frame)
        await until(lambda: not rig.images.inventory.waiting)
    assert rig.stored.reasons().count("NodeDiskFull") == 1
