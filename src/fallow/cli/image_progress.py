"""Following an image job: bars on a terminal, a line for each node elsewhere, a summary at the end."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from fallow.cli import output
from fallow.client.errors import Unreachable
from fallow.model.image_jobs import JobState, TaskState
from fallow.model.image_requests import ImageJobView, ImageTaskView
from fallow.model.units import format_bytes

if TYPE_CHECKING:
    from fallow.client.api import Client

FIRST_POLL_SECONDS = 0.05
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0  # how long the control plane may be away
BARS = 20
EACH_TOLD = 200  # of more nodes only those that failed are told one by one
OPEN = (JobState.RUNNING, JobState.PAUSED)
WOULD = {"delete": "would delete", "in-use": "in use", "needed": "needed by a deployment"}


def follow(client: "Client", job: ImageJobView) -> tuple[ImageJobView, list[ImageTaskView]]:
    """Show a job until it has ended; return it, and what became of every node. Raises ClientError."""
    shown: Bars | Lines = Bars() if output.on_terminal(sys.stderr) else Lines()
    pause, lost_at = FIRST_POLL_SECONDS, 0.0
    with shown:
        while True:
            try:
                job = client.images.job(job.id)
                few = job.counts.nodes <= EACH_TOLD
                asked = {"job": job.id} if few else {"job": job.id, "state": str(TaskState.WORKING)}
                tasks = list(client.images.tasks(asked, limit=EACH_TOLD).items)
                lost_at = 0.0
            except Unreachable:  # it may be restarting
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_SECONDS:
                    raise
                time.sleep(POLL_SECONDS)
                continue
            shown.draw(job, tasks)
            if job.state not in OPEN and not job.counts.working:
                break
            time.sleep(pause)
            pause = min(pause * 2, POLL_SECONDS)
    return job, list(client.images.all_tasks({"job": job.id}))


class Lines:
    """A line for each node that has ended."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    def draw(self, job: ImageJobView, tasks: Sequence[ImageTaskView]) -> None:
        """Tell what is new."""
        for task in sorted(tasks, key=lambda each: (each.ended_at, each.node)):
            if task.ended_at and f"{task.id}/{task.attempt}" not in self._told:
                self._told.add(f"{task.id}/{task.attempt}")
                output.note(f"{task.node}: {task.state}{_detail(task)}")


class Bars:
    """A bar for each node at work, and one for all."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"),
            console=output.stderr(), auto_refresh=False,
        )  # fmt: skip
        self._bars: dict[str, TaskID] = {}
        self._all = self._progress.add_task("all", total=1, told="")

    def __enter__(self) -> "Bars":
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave only the bar of all."""
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._progress.__exit__(None, None, None)

    def draw(self, job: ImageJobView, tasks: Sequence[ImageTaskView]) -> None:
        """Show how far all is."""
        working = [task for task in tasks if task.state is TaskState.WORKING][:BARS]
        for id_ in self._bars.keys() - {task.id for task in working}:
            self._progress.remove_task(self._bars.pop(id_))
        for task in working:
            if task.id not in self._bars:
                self._bars[task.id] = self._progress.add_task(output.clean(task.node), total=None, told="")
            told = format_bytes(task.current_bytes) if task.current_bytes else output.clean(task.text)
            if task.total_bytes:
                told += f" of {format_bytes(task.total_bytes)}"
            self._progress.update(
                self._bars[task.id], completed=task.current_bytes, total=task.total_bytes or None, told=told
            )
        come = job.fetched_bytes + sum(task.current_bytes for task in tasks if task.state is TaskState.WORKING)
        told = counted(job) + (f", {format_bytes(come)}" if come else "")
        self._progress.update(self._all, total=max(1, job.counts.nodes), completed=_over(job), told=output.clean(told))
        self._progress.refresh()


def counted(job: ImageJobView) -> str:
    """Return how far a job is, in words."""
    counts = job.counts
    told = [f"{counts.done} of {counts.nodes} done"]
    for count, what in (
        (counts.working, "working"),
        (counts.waiting, "waiting to try again"),
        (counts.failed, "failed"),
        (counts.cancelled, "cancelled"),
        (counts.away, "away"),
    ):
        told += [f"{count} {what}"] if count else []
    return ", ".join(told)


def summary(job: ImageJobView, tasks: Sequence[ImageTaskView]) -> list[Table | Text]:
    """Return what came of a job: a table of nodes, of images for a delete or a clean, and one line in words."""
    parts: list[Table | Text] = []
    if any(task.verdicts for task in tasks):
        parts.append(_verdicts(tasks))
        tasks = [task for task in tasks if task.state is not TaskState.DONE]
    if len(tasks) > EACH_TOLD:
        tasks = [task for task in tasks if task.state is not TaskState.DONE]
    if tasks:
        parts.append(
            output.rows(
                output.table("NODE", "STATE", "TRIES", "TIME", "FETCHED", "DETAIL"),
                (
                    (each.node, each.state, each.attempt, f"{each.seconds:.1f} s",
                     format_bytes(each.fetched_bytes) if each.fetched_bytes else "", _why(each))
                    for each in sorted(tasks, key=lambda each: each.node)
                ),
            )
        )  # fmt: skip
    told = f"{job.id} is {job.state}: {job.reason or counted(job)}"
    if job.fetched_bytes:
        told += f"; {format_bytes(job.fetched_bytes)} fetched"
    if job.freed_bytes:
        told += f"; {format_bytes(job.freed_bytes)} freed"
    parts.append(Text(output.clean(told)))
    return parts


def _verdicts(tasks: Sequence[ImageTaskView]) -> Table:
    return output.rows(
        output.table("NODE", "IMAGE", "OUTCOME", "SIZE", "DETAIL"),
        (
            (task.node, each.reference or each.image_id[:19], WOULD.get(each.outcome, each.outcome),
             format_bytes(each.size_bytes) if each.size_bytes else "", each.text)
            for task in sorted(tasks, key=lambda task: task.node)
            for each in task.verdicts
        ),
    )  # fmt: skip


def _why(task: ImageTaskView) -> str:
    if task.state is TaskState.DONE:
        return "it was there already" if task.unchanged else ""
    return f"{task.kind}: {task.text}" if task.kind else task.text


def _detail(task: ImageTaskView) -> str:
    told = f" after {task.seconds:.1f} s"
    if task.fetched_bytes:
        told += f", {format_bytes(task.fetched_bytes)}"
    return told + (f": {_why(task)}" if _why(task) else "")


def _over(job: ImageJobView) -> int:
    return job.counts.done + job.counts.failed + job.counts.cancelled
