"""Image tasks that ended, on their way to the control plane: repeated until they are stored."""

import asyncio

from fallow.model.image_jobs import TaskReport
from fallow.model.wire import ImageTasksReported

BATCH_REPORTS = 100
REPEAT_SECONDS = 2.0
MAX_BATCH_BYTES = 4 * 1024 * 1024  # verdicts of two thousand images each would not go into one frame


class TaskOutbox:
    """Holds the newest report of each task, sends one batch at a time, and repeats it until it is acknowledged."""

    def __init__(self, repeat_seconds: float = REPEAT_SECONDS) -> None:
        self._repeat_seconds = repeat_seconds
        self._waiting: dict[str, TaskReport] = {}
        self._flying: ImageTasksReported | None = None
        self._batch = 0
        self._sent_at = 0.0
        self._changed = asyncio.Event()

    def put(self, report: TaskReport) -> None:
        """Take in a report; an older one of the same task that has not left is forgotten."""
        self._waiting[report.task_id] = report
        self._changed.set()

    def ack(self, batch: int) -> None:
        """Forget what the control plane has stored."""
        if self._flying is not None and self._flying.batch == batch:
            self._flying = None
            self._changed.set()

    def restart(self) -> None:
        """Begin anew on a new session: what was not acknowledged is sent again, at once."""
        if self._flying is not None:
            self._waiting = {**{report.task_id: report for report in self._flying.reports}, **self._waiting}
            self._flying = None
        self._changed.set()

    @property
    def empty(self) -> bool:
        """Say whether everything has been acknowledged."""
        return self._flying is None and not self._waiting

    async def next(self) -> ImageTasksReported:
        """Return the next frame to send, when there is one: a new batch, or the last one once more."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            pause: float | None = None
            if self._flying is not None:
                pause = self._sent_at + self._repeat_seconds - loop.time()
                if pause <= 0:
                    self._sent_at = loop.time()
                    return self._flying
            elif self._waiting:
                self._sent_at = loop.time()
                self._flying = self._pack()
                return self._flying
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _pack(self) -> ImageTasksReported:
        reports: list[TaskReport] = []
        size = 0
        for task_id in list(self._waiting)[:BATCH_REPORTS]:
            report = self._waiting[task_id]
            size += 4096 + 3000 * len(report.verdicts) + 512 * len(report.log)
            if reports and size > MAX_BATCH_BYTES:
                break
            reports.append(self._waiting.pop(task_id))
        self._batch += 1
        return ImageTasksReported(batch=self._batch, reports=tuple(reports))
