"""Image tasks of a node, and the pulls of its replicas: the shell around decide/agent/images.py."""

import asyncio
import functools
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from fallow.agent.grants import Grants
from fallow.agent.image_notes import ImageNotes
from fallow.agent.image_reports import TaskOutbox
from fallow.agent.inventory import Inventory
from fallow.agent.pulling import Fetched, Fetcher, Pull, Puller, PullFailed
from fallow.agent.removing import Remover
from fallow.client.tasks import first_to_end
from fallow.decide.agent import images as m
from fallow.decide.image_removal import under_pressure
from fallow.drivers.engine.contract import Engine
from fallow.model.frames import Frame
from fallow.model.image_frames import ImageProgressed, ImagesReported, ImageTasksStored, PullGranted, SetImageTasks
from fallow.model.image_jobs import ImageAction, ImageOrder, TaskProgress, TaskReport
from fallow.model.images import PlatformImage
from fallow.model.watermarks import Watermarks
from fallow.model.wire import IMAGES_PROTOCOL, Welcome

__all__ = ["Fetched", "Fetcher", "Images"]

_log = structlog.get_logger("fallow.agent.images")

PROGRESS_SECONDS = 1.0
MAX_PROGRESS = 100  # tasks of one frame
_CANCELLED = TaskReport(task_id="", attempt=0, state="cancelled", text="nobody waits for it any more")

Send = Callable[[Frame], Awaitable[None]]


class Images:
    """Everything a node's agent does with images. `clock` gives UTC seconds; `needed` names what replicas wait for.

    `high` and `low` are shares of the engine's disk: above the first one, unused images go until the second one holds.
    Nothing of a task is kept on the disk: after a restart the control plane orders it anew, and what is done already
    is found to be done.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        send: Send,
        needed: Callable[[], set[str]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._send = send
        self._clock = clock
        self.watermarks: Watermarks | None = Watermarks()
        self._grants = Grants(send)
        self.notes = ImageNotes(folder)
        self.inventory = Inventory(engine, self.notes, clock=clock)
        self._puller = Puller(engine, self._grants, self.inventory)
        self._remover = Remover(engine, self.inventory, needed)
        self._machine = m.ImageMachine()
        self._outbox = TaskOutbox()
        self._pulls: dict[int, tuple[Pull, asyncio.Task[TaskReport]]] = {}
        self._removals: dict[int, asyncio.Task[TaskReport]] = {}
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._waiting: dict[int, asyncio.Future[TaskReport]] = {}
        self._tickets = itertools.count(1)
        self._speaks = asyncio.Event()
        self._shown: dict[str, TaskProgress] = {}
        self._closed = False

    def fetches_with(self, fetcher: Fetcher | None, fetched: Fetched | None = None) -> None:
        """Let pulls go through a place on this machine; None: straight to registries.

        `fetched` says how many bytes of an image have come there: Podman tells none of a pull over plain HTTP.
        """
        self._puller.fetcher, self._puller.fetched = fetcher, fetched

    # the session

    def opened(self, welcome: Welcome) -> None:
        """Note that a session is open; nothing of this is said to a control plane that does not know it."""
        self._grants.opened(welcome.protocol)
        if welcome.protocol >= IMAGES_PROTOCOL:
            self._outbox.restart()
            self._shown = {}
            self._speaks.set()
            self.inventory.new_session()

    def closed(self) -> None:
        """Note that the session has ended; tasks go on without."""
        self._speaks.clear()
        self._grants.closed()

    def received(self, frame: SetImageTasks | ImageTasksStored | PullGranted) -> None:
        """Take in orders and answers."""
        match frame:
            case SetImageTasks():
                self._feed(m.TasksOrdered(full=frame.full, orders=frame.orders, cancelled=frame.cancelled))
            case ImageTasksStored(batch=batch):
                self._outbox.ack(batch)
            case PullGranted():
                self._grants.received(frame)

    # replicas

    async def find(self, reference: str, replica_id: str) -> tuple[str | None, PlatformImage | None]:
        """Return the id of the image a replica is to be started from, None when it has to be pulled first.

        The second value is which image it has to be, where that is known. Raises EngineError and PullFailed.
        """
        image, wanted = await self._puller.found(reference, replica_id)
        return (image.id if image is not None else None), wanted

    async def pull(self, reference: str, replica_id: str, wanted: PlatformImage | None) -> str:
        """Pull an image for a replica, before any task's turn, and return its id. Raises PullFailed."""
        ticket = next(self._tickets)
        answer: asyncio.Future[TaskReport] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = answer
        self._feed(m.ReplicaWaits(ticket=ticket, reference=reference, replica_id=replica_id, image=wanted))
        try:
            report = await answer
        finally:
            del self._waiting[ticket]
        if report.state != "done":
            raise PullFailed(report.kind or "failed", report.text, report.retry_after_seconds)
        return report.image_id

    # the work

    async def run(self) -> None:
        """Work until cancelled; then what is under way is dropped, and the engine stops pulling."""
        self.notes.load()
        try:
            await first_to_end(self._tell(), self._show(), self.inventory.run(self._tell_images, self._relieve))
        finally:
            self._closed = True
            for timer in self._deadlines.values():
                timer.cancel()
            tasks = [*(task for _, task in self._pulls.values()), *self._removals.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _feed(self, event: m.Event) -> None:
        if self._closed:
            return
        for order in self._machine.handle(event, self._clock()):
            self._take(order)

    def _take(self, order: m.Instruction) -> None:
        match order:
            case m.StartPull():
                pull = Pull(order=order)
                pulling = asyncio.create_task(self._puller.run(pull))
                self._pulls[order.flight] = pull, pulling
                pulling.add_done_callback(functools.partial(self._pull_ended, pull))
            case m.StopPull(flight=flight):
                self._pulls[flight][1].cancel()
            case m.StartRemoval():
                removing = self._removals[order.removal] = asyncio.create_task(self._remove(order.order))
                removing.add_done_callback(functools.partial(self._removal_ended, order.removal))
            case m.StopRemoval(removal=removal):
                self._removals[removal].cancel()
            case m.SetDeadline():
                self._set_deadline(order)
            case m.TellEnded(report=report):
                self._ended(report)
            case m.ReplicaAnswered(ticket=ticket, report=report):
                waiting = self._waiting.get(ticket)
                if waiting is not None and not waiting.done():
                    waiting.set_result(report)

    def _pull_ended(self, pull: Pull, task: asyncio.Task[TaskReport]) -> None:
        """Tell the machine how a pull ended, also one that was cancelled before it began."""
        del self._pulls[pull.order.flight]
        report = _CANCELLED if task.cancelled() else task.result()
        self._feed(m.PullEnded(flight=pull.order.flight, report=report))

    def _removal_ended(self, number: int, task: asyncio.Task[TaskReport]) -> None:
        del self._removals[number]
        report = _CANCELLED if task.cancelled() else task.result()
        self._feed(m.RemovalEnded(removal=number, report=report))

    async def _remove(self, order: ImageOrder) -> TaskReport:
        try:
            return await self._remover.run(order, self._clock(), lambda: not self._pulls)
        except Exception as error:  # noqa: BLE001 - a removal without an end would hold up all others
            _log.error("removal failed", exc_info=True)
            text = f"{type(error).__name__}: {error}"[:2048]
            return TaskReport(task_id="", attempt=0, state="failed", kind="failed", text=text)

    def _set_deadline(self, order: m.SetDeadline) -> None:
        before = self._deadlines.pop(order.task_id, None)
        if before is not None:
            before.cancel()
        delay = max(0.0, order.at - self._clock())
        self._deadlines[order.task_id] = asyncio.get_running_loop().call_later(delay, self._due, order)

    def _due(self, order: m.SetDeadline) -> None:
        self._deadlines.pop(order.task_id, None)
        self._feed(m.AttemptDue(task_id=order.task_id, attempt=order.attempt))

    def _ended(self, report: TaskReport) -> None:
        timer = self._deadlines.pop(report.task_id, None)
        if timer is not None:
            timer.cancel()
        _log.info("image task ended", task=report.task_id, state=report.state, kind=report.kind, reason=report.text)
        if report.task_id == m.OWN_TASK:
            self.inventory.warn(f"its images' disk was nearly full: {report.log[-1]}" if report.log else "")
        else:
            self._outbox.put(report)

    # what is told

    async def _tell(self) -> None:
        while True:
            await self._speaks.wait()
            frame = await self._outbox.next()
            if self._speaks.is_set():  # the session may be another one by now
                await self._try(frame)

    async def _tell_images(self, report: ImagesReported) -> bool:
        return self._speaks.is_set() and await self._try(report)

    async def _try(self, frame: Frame) -> bool:
        """Send a frame on the session, if there is one."""
        try:
            await self._send(frame)
        except (OSError, ValueError) as error:
            _log.debug("not told", frame=type(frame).__name__, reason=str(error))
            return False
        return True

    async def _show(self) -> None:
        """Tell how far pulls of tasks are, at most once a second, and only what has changed."""
        while True:
            await self._speaks.wait()
            fresh = [each for each in self._progress() if self._shown.get(each.task_id) != each][:MAX_PROGRESS]
            if fresh and await self._try(ImageProgressed(tasks=tuple(fresh))):
                self._shown.update({each.task_id: each for each in fresh})
            working = set(self._machine.working)
            self._shown = {id_: shown for id_, shown in self._shown.items() if id_ in working}
            await asyncio.sleep(PROGRESS_SECONDS)

    def _progress(self) -> list[TaskProgress]:
        return [
            TaskProgress(
                task_id=task_id, current_bytes=pull.current_bytes, total_bytes=pull.total_bytes, text=pull.text[:256]
            )
            for flight, (pull, _) in self._pulls.items()
            for task_id in self._machine.tasks_of(flight)
        ]

    def _relieve(self) -> None:
        """Make room when the disk of the images is nearly full, by the same plan as a clean that somebody ordered."""
        look = self.inventory.last
        if self.watermarks is None:
            return
        rules = under_pressure(look.disk_bytes, look.disk_free_bytes, self.watermarks)
        if rules is None:
            self.inventory.well()
        if rules is None or m.OWN_TASK in self._machine.working:
            return
        _log.warning("the disk of the images is nearly full", free=look.disk_free_bytes, of=look.disk_bytes)
        order = ImageOrder(task_id=m.OWN_TASK, attempt=int(self._clock()), action=ImageAction.CLEAN, rules=rules)
        self._feed(m.TasksOrdered(full=False, orders=(order,)))
