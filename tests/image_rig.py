"""What a node does with images, on a scripted engine, with a control plane that answers as it is told."""

import asyncio
import contextlib
import time
from pathlib import Path

from fallow.agent.images import Images
from fallow.drivers.engine.contract import ContainerRequest, Engine
from fallow.model.containers import ContainerSpec
from fallow.model.frames import Frame
from fallow.model.image_frames import (
    ImageProgressed,
    ImagesReported,
    ImageTasksReported,
    ImageTasksStored,
    PullAsked,
    PullGranted,
    SetImageTasks,
)
from fallow.model.image_jobs import CleanRules, ImageAction, ImageOrder, TaskReport
from fallow.model.images import PlatformImage, PullGrant
from fallow.model.members import Lease
from fallow.model.wire import IMAGES_PROTOCOL, Welcome

DEADLINE_SECONDS = 30.0
LEASE = Lease(address="10.0.0.9")


async def until(check, what="", seconds=DEADLINE_SECONDS):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.01)


class Control:
    """A control plane on one session with one node. `grants` are answers by reference; None stays silent."""

    def __init__(self, engine: Engine, folder: Path, **options):
        self.frames: list[Frame] = []
        self.reports: list[TaskReport] = []
        self.grants: dict[str, PullGrant | None] = {}
        self.acknowledges = True
        self.needed: set[str] = set()
        self.images = Images(engine, folder, self.send, lambda: self.needed, **options)
        self._running: asyncio.Task[None] | None = None
        self._open = False
        self.protocol = IMAGES_PROTOCOL

    async def __aenter__(self):
        self._running = asyncio.create_task(self.images.run())
        self.open()
        return self

    async def __aexit__(self, *_):
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    def open(self):
        self._open = True
        self.images.opened(Welcome(member_id="n", name="n", heartbeat_seconds=1, lease=LEASE, protocol=self.protocol))

    def close(self):
        self._open = False
        self.images.closed()

    async def send(self, frame):
        if not self._open:
            raise ConnectionError("there is no session")
        self.frames.append(frame)
        if isinstance(frame, ImageTasksReported):
            self.reports += frame.reports
            if self.acknowledges:
                self.images.received(ImageTasksStored(batch=frame.batch))
        if isinstance(frame, PullAsked):
            grant = self.grants.get(frame.reference, PullGrant(reference=frame.reference))
            if grant is not None:
                self.images.received(PullGranted(pull_id=frame.pull_id, grant=grant))

    def grant(self, reference, image, **fields):
        self.grants[reference] = PullGrant(reference=reference, image=image, **fields)

    def order(self, *orders, full=False, cancelled=()):
        self.images.received(SetImageTasks(full=full, orders=orders, cancelled=cancelled))

    async def done(self, task_id, attempt=1):
        """Return the report of a task when it has come."""
        await until(lambda: self.of(task_id, attempt), f"a report of {task_id}")
        return self.of(task_id, attempt)[0]

    def of(self, task_id, attempt=1):
        return [each for each in self.reports if (each.task_id, each.attempt) == (task_id, attempt)]

    def sent(self, kind):
        return [frame for frame in self.frames if isinstance(frame, kind)]

    @property
    def inventory(self):
        """Return the newest inventory that was told."""
        told = self.sent(ImagesReported)
        return told[-1] if told else None

    @property
    def progress(self):
        return [task for frame in self.sent(ImageProgressed) for task in frame.tasks]


def pull(task_id, reference, image: PlatformImage | None = None, **fields):
    return ImageOrder(
        task_id=task_id, attempt=fields.pop("attempt", 1), action=fields.pop("action", ImageAction.PULL),
        reference=reference, image=image, **fields,
    )  # fmt: skip


def delete(task_id, *references, attempt=1, **rules):
    return ImageOrder(
        task_id=task_id, attempt=attempt, action=ImageAction.DELETE, reference=references[0],
        rules=CleanRules(references=references, **rules),
    )  # fmt: skip


def clean(task_id, attempt=1, **rules):
    return ImageOrder(task_id=task_id, attempt=attempt, action=ImageAction.CLEAN, rules=CleanRules(**rules))


def container(reference, image_id="", name="web-0"):
    return ContainerRequest(
        replica_id=name, deployment="default/web", spec=ContainerSpec(image=reference), spec_hash="h", image_id=image_id
    )
