"""Image tasks that ended, on their way to the control plane."""

from fallow.agent.repeating import Repeating
from fallow.model.image_frames import ImageTasksReported
from fallow.model.image_jobs import TaskReport
from fallow.model.portions import portions

BATCH_REPORTS = 100
MAX_BATCH_BYTES = 4 * 1024 * 1024  # verdicts of two thousand images each would not go into one frame


class TaskOutbox(Repeating[TaskReport, ImageTasksReported]):
    """Holds the newest report of each task."""

    def put(self, report: TaskReport) -> None:
        """Take in a report; an older one of the same task that has not left is forgotten."""
        self._waiting[report.task_id] = report
        self._changed.set()

    def pack(self, batch: int) -> ImageTasksReported:
        """Take the first ones, as many as one frame holds."""
        reports = next(portions(self._waiting.values(), BATCH_REPORTS, MAX_BATCH_BYTES, _weigh), ())
        for report in reports:
            del self._waiting[report.task_id]
        return ImageTasksReported(batch=batch, reports=reports)

    def take_back(self, frame: ImageTasksReported) -> None:
        """Let reports wait again, before those that came since."""
        self._waiting = {**{report.task_id: report for report in frame.reports}, **self._waiting}


def _weigh(report: TaskReport) -> tuple[int, int]:
    """Return one, and how many bytes a report has at the most."""
    return 1, 4096 + 3000 * len(report.verdicts) + 512 * len(report.log)
