"""The life of an image task: begun, reported, lost, tried again, ended. Each function returns the task after it."""

from datetime import UTC, datetime
from zlib import crc32

import msgspec

from fallow.model.image_jobs import ImageJob, ImageTask, JobState, TaskReport, TaskState
from fallow.model.images import ImageErrorKind
from fallow.model.members import Member
from fallow.model.units import format_bytes

SLACK_SECONDS = 30.0  # an agent ends an attempt by itself; so much later nothing more is expected of it
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 120.0
RATE_LIMITED_SECONDS = 15.0  # when the registry does not say for how long
MAX_LOG = 200
MAX_LINE = 512

# Trying again cannot help.
FINAL: frozenset[ImageErrorKind] = frozenset(
    {"not-found", "denied", "wrong-platform", "untrusted", "bad-request", "protected", "in-use"}
)


def task_id(job: ImageJob, member_id: str) -> str:
    """Return the id of a job's task on a node."""
    return f"{job.id}.{member_id}"


def begun(job: ImageJob, member: Member, before: ImageTask | None, now: float) -> ImageTask:
    """Return the task with its next attempt under way."""
    if before is None:
        task = ImageTask(
            id=task_id(job, member.id), created_at=now, updated_at=now, job_id=job.id, member_id=member.id,
            member_name=member.name, state=TaskState.WORKING, attempt=1,
        )  # fmt: skip
    else:
        another_turn = before.state in (TaskState.FAILED, TaskState.CANCELLED)
        task = msgspec.structs.replace(
            before,
            attempt=before.attempt + 1,
            last_attempt=before.attempt + job.attempts if another_turn else before.last_attempt,
        )
    return msgspec.structs.replace(
        task,
        state=TaskState.WORKING,
        updated_at=now,
        started_at=now,
        ended_at=0.0,
        not_before=0.0,
        lease_until=now + job.attempt_seconds + SLACK_SECONDS,
        kind="",
        text="",
        log=_logged(task, now, f"attempt {task.attempt} begins"),
    )


def not_begun(job: ImageJob, member: Member, before: ImageTask | None, now: float, why: TaskReport) -> ImageTask:
    """Return the task of a node that need not be asked: what it would do cannot be done."""
    task = begun(job, member, before, now)
    return msgspec.structs.replace(
        task, state=TaskState.FAILED, ended_at=now, lease_until=0.0, kind=why.kind, text=why.text,
        log=(*task.log[:-1], _line(now, f"not asked: {why.text}")),
    )  # fmt: skip


def reported(job: ImageJob | None, task: ImageTask, report: TaskReport, now: float) -> ImageTask | None:
    """Return the task after what its agent says; None when that is nothing new: another attempt, or it has ended."""
    if task.state is not TaskState.WORKING or report.attempt != task.attempt:
        return None
    task = msgspec.structs.replace(
        task,
        fetched_bytes=task.fetched_bytes + report.fetched_bytes,
        total_bytes=report.total_bytes or task.total_bytes,
        freed_bytes=task.freed_bytes + report.freed_bytes,
        image_id=report.image_id,
        unchanged=report.unchanged,
        verdicts=report.verdicts,
        log=tuple((*task.log, *report.log)[-MAX_LOG:]),
    )
    if report.state == "done":
        told = f"attempt {task.attempt} is done after {report.seconds:.1f} s"
        if report.unchanged:
            told += ", nothing had to be changed"
        elif report.fetched_bytes:
            told += f", {format_bytes(report.fetched_bytes)} fetched"
        return _ended(task, TaskState.DONE, now, told)
    kind = report.kind or "failed"
    text = report.text or ("the agent gave it up" if report.state == "cancelled" else "the agent does not say why")
    return failed(job, task, now, kind, text, report.retry_after_seconds)


def failed(
    job: ImageJob | None, task: ImageTask, now: float, kind: ImageErrorKind, text: str, retry_after: float = 0.0
) -> ImageTask:
    """Return the task after an attempt that failed: tried again later, or failed for good."""
    open_still = job is not None and job.state in (JobState.RUNNING, JobState.PAUSED)
    last = task.last_attempt or (job.attempts if job is not None else 1)
    told = f"attempt {task.attempt} failed: {kind}: {text}"
    again = now + _pause(task, kind, retry_after)
    task = msgspec.structs.replace(task, kind=kind, text=text[:2048], not_before=again)
    if kind in FINAL or task.attempt >= last or not open_still:
        return _ended(task, TaskState.FAILED, now, told)
    told += f"; tried again in {again - now:.0f} s"
    return msgspec.structs.replace(
        task, state=TaskState.WAITING, updated_at=now, lease_until=0.0, log=_logged(task, now, told)
    )


def cancelled(task: ImageTask, now: float, why: str) -> ImageTask:
    """Return the task taken back."""
    return _ended(msgspec.structs.replace(task, text=why), TaskState.CANCELLED, now, f"cancelled: {why}")


def given_up(task: ImageTask, now: float, text: str) -> ImageTask:
    """Return the task of a node that did not come back."""
    lost = msgspec.structs.replace(task, kind="unreachable", text=text)
    return _ended(lost, TaskState.FAILED, now, f"given up: {text}")


def _ended(task: ImageTask, state: TaskState, now: float, told: str) -> ImageTask:
    return msgspec.structs.replace(
        task, state=state, updated_at=now, ended_at=now, lease_until=0.0, log=_logged(task, now, told)
    )


def _pause(task: ImageTask, kind: ImageErrorKind, retry_after: float) -> float:
    """Return for how long to wait: doubling to a cap, up to a quarter more for each task alike, as asked for at least.

    The jitter is made of the task's id and attempt: no chance is needed, and no two nodes come back together.
    """
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(task.attempt - 1, 10), LONGEST_PAUSE_SECONDS)
    if kind == "rate-limited":
        pause = max(pause, retry_after or RATE_LIMITED_SECONDS)
    pause = max(pause, retry_after)
    return pause * (1.0 + crc32(f"{task.id}/{task.attempt}".encode()) / 2**32 / 4)


def _logged(task: ImageTask, now: float, told: str) -> tuple[str, ...]:
    return (*task.log[-(MAX_LOG - 1) :], _line(now, told))


def _line(now: float, told: str) -> str:
    return f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ} {told}"[:MAX_LINE]
