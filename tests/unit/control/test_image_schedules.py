"""Schedules begin jobs once, whoever leads; drift is told once."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from control_rig import Stored, ended, storing, until
from image_world import job
from records import member

from fallow.control import image_schedules
from fallow.control.hub import Hub
from fallow.control.ids import new_id
from fallow.control.image_drift import image_drift_controller
from fallow.control.image_requests import ImageRequests
from fallow.control.image_schedules import ImageSchedules
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTarget
from fallow.model.image_requests import ImageJobRequest
from fallow.model.image_schedules import ImageSchedule, ImageScheduleRequest
from fallow.model.images import Blob, NodeImage, NodeImages, PlatformImage, ResolvedImage
from fallow.store.applier import Applier

DAY = 86400.0
REQUEST = ImageJobRequest(action=ImageAction.PULL, reference="shop/api:prod", target=ImageTarget(selector="role=web"))
OURS, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


class Rig:
    """Two processes' worth of schedules over one store, and a clock."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.now = 1000.0
        self.parts = [self._part() for _ in range(2)]

    def _part(self) -> ImageSchedules:
        applier = Applier(self.stored.store, self.stored.cache)
        requests = ImageRequests(self.stored.cache, applier, Hub(lambda: 0.0), lambda: self.now, new_id)
        return ImageSchedules(self.stored.cache, applier, requests, lambda: self.now, new_id)

    def jobs(self) -> list[ImageJob]:
        return [job for job in self.stored.cache.records("image-jobs").values() if isinstance(job, ImageJob)]

    def schedule(self) -> ImageSchedule:
        found = self.stored.cache.get("image-schedules", "nightly")
        assert isinstance(found, ImageSchedule)
        return found


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(image_schedules, "LOOK_SECONDS", 0.005)
    async with storing(member("w", labels={"role": "web"}, revision=0)) as stored:
        found = Rig(stored)
        running = [asyncio.create_task(part.run()) for part in found.parts]
        yield found
        for task in running:
            assert not task.done()
            await ended(task)


async def test_a_job_is_made_once_at_its_time_and_missed_times_count_once(rig: Rig) -> None:
    await rig.parts[0].create(ImageScheduleRequest(name="nightly", cron="0 3 * * *", request=REQUEST), "api:ci")
    assert rig.schedule().next_at == 3 * 3600
    await asyncio.sleep(0.05)
    assert rig.jobs() == []
    rig.now = 3 * 3600 + 1
    await until(lambda: rig.schedule().last_job)
    await asyncio.sleep(0.05)
    (first,) = rig.jobs()
    assert (first.schedule_id, first.created_by, first.reference) == (
        "nightly", "schedule:nightly", "docker.io/shop/api:prod",
    )  # fmt: skip
    assert rig.schedule().next_at == DAY + 3 * 3600
    rig.now = 5 * DAY + 12 * 3600  # nobody led for days
    await until(lambda: len(rig.jobs()) == 2)
    await asyncio.sleep(0.05)
    assert len(rig.jobs()) == 2
    assert rig.schedule().next_at == 6 * DAY + 3 * 3600


async def test_what_cannot_be_begun_says_why_and_is_tried_at_its_next_time(rig: Rig) -> None:
    nobody = msgspec.structs.replace(REQUEST, target=ImageTarget(selector="role=gpu"))
    await rig.parts[0].create(ImageScheduleRequest(name="nightly", cron="0 3 * * *", request=nobody), "api:ci")
    rig.now = 4 * 3600
    await until(lambda: rig.schedule().problem)
    assert "none that 'role=gpu' selects" in rig.schedule().problem
    assert rig.schedule().next_at == DAY + 3 * 3600
    assert "ImageScheduleFailed" in rig.stored.reasons()
    assert rig.jobs() == []


async def test_drift_is_told_once_and_again_when_it_comes_back() -> None:
    image = ResolvedImage(
        reference="registry.example/shop/api:1", digest=OURS, resolved_at=5.0,
        platforms=(
            PlatformImage(platform="linux/amd64", manifest=Blob(digest=OURS, size_bytes=1), image_id=OURS),
        ),
    )  # fmt: skip
    async with storing(member("a", revision=0), job(image=image, revision=0)) as stored:
        controller = image_drift_controller(new_id)

        def told() -> list[str]:
            plan = controller.decide(stored.cache.snapshot(), 9.0)
            return [getattr(put, "message", "") for step in plan.steps for put in step.puts]

        async def has(id_: str) -> None:
            images = (NodeImage(id=id_, references=("registry.example/shop/api:1",)),)
            old = stored.cache.get("node-images", "n-a")
            revision = old.revision if old is not None else 0
            await stored.write(NodeImages(id="n-a", created_at=0, updated_at=0, images=images, revision=revision))

        await has(OURS)
        assert told() == []
        await has(OTHER)
        (text,) = told()
        assert text.startswith("a has sha256:222222222222 as registry.example/shop/api:1, and by image job j1 it is")
        assert told() == []
        await has(OURS)
        assert told() == []
        await has(OTHER)
        assert len(told()) == 1
