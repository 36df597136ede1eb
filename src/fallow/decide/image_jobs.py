"""Which node is next for which image job, and when a job is over.

A job's parallel limit counts leases - tasks that are WORKING in the store - and nothing that was observed. A node
without a task has not had its turn, so that who joins later takes part, and a job costs two writes a node.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from fallow.decide.events import event
from fallow.decide.image_redated import redated
from fallow.decide.image_renewals import renewal
from fallow.decide.image_standing import Queued, Standing, standing_of
from fallow.decide.image_tasks import begun, cancelled, failed, given_up, not_begun
from fallow.decide.plan import Plan, Step
from fallow.decide.prepull import told_ahead
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTask, JobState, TaskReport, TaskState
from fallow.model.images import ImageErrorKind
from fallow.model.members import Member, MemberState
from fallow.model.references import parse_reference
from fallow.model.units import format_duration

AWAY_SECONDS = 120.0  # so long a job that waits for nothing else waits for nodes that are away
AT_ONCE = 2000  # orders of one run; the rest follows in the next
PULLING = (ImageAction.PULL, ImageAction.UPDATE)
OPEN = (JobState.RUNNING, JobState.PAUSED)

MakeId = Callable[[], str]


@dataclass(kw_only=True)
class _Board:
    """What is under way everywhere, kept true while orders are given."""

    per_registry: int  # pulls at once of one registry
    busy: set[str]  # nodes with a task of a job that can wait
    pulls: Counter[str]  # by registry
    held: dict[str, float] = field(default_factory=dict)  # registry -> until when it asked to be left alone


@dataclass(kw_only=True)
class _Turn:
    """A job that may begin with so many nodes, and those nodes in order."""

    job: ImageJob
    registry: str
    room: int  # for nodes at work
    new: int  # for nodes that had no turn yet
    due: Iterator[Queued]
    queued: Iterator[Queued]


def advance(snapshot: Snapshot, now: float, new_id: MakeId, heard: Heard, per_registry: int) -> Plan:
    """Return the orders due now, the attempts that have run out, and the ends of jobs that are over."""
    steps: list[Step] = []
    waits: list[float] = []
    turns: list[_Turn] = []
    board = _board(snapshot, now, per_registry)
    waits.extend(until - now for until in board.held.values())
    steps.extend(_of_ended_jobs(snapshot, now))
    for job in snapshot.image_jobs.values():
        if job.state not in OPEN:
            continue
        if misdated := list(redated(job, snapshot.image_tasks_open.get(job.id, ()), now)):
            steps.extend(Step(puts=(record,)) for record in misdated)
            continue
        found = standing_of(snapshot, job, heard, now)
        if decided := list(_lapsed(snapshot, found, now)) or _over(snapshot, found, now, new_id):
            steps.extend(decided)  # what follows from it is decided once it is stored
            if job.deployment_id and not found.unsettled and (told := told_ahead(snapshot, job, now, new_id)):
                steps.append(Step(puts=(told,)))
        elif job.state is JobState.RUNNING and (turn := _turn(found)) is not None:
            turns.append(turn)
        waits.extend(_waits(found, now))
    steps.extend(_orders(turns, board, now))
    if len(steps) >= AT_ONCE:
        waits.append(0.0)
    return Plan(steps=steps, wake_after_seconds=min((max(0.01, wait) for wait in waits), default=None))


def registry_of(job: ImageJob) -> str:
    """Return the registry a job pulls of; empty when it asks none."""
    if job.action not in PULLING:
        return ""
    try:
        return parse_reference(job.reference).registry
    except ValueError:
        return ""


def _board(snapshot: Snapshot, now: float, per_registry: int) -> _Board:
    """Return what is under way; a registry that answered a node with 429 is held back for all of them."""
    at_work = {task.job_id for tasks in snapshot.image_tasks_at_work.values() for task in tasks}
    jobs = {id_: job for id_, job in snapshot.image_jobs.items() if job.state in OPEN or id_ in at_work}
    registries = {id_: registry_of(job) for id_, job in jobs.items()}
    board = _Board(per_registry=per_registry, busy=set(), pulls=Counter())
    for node_id, tasks in snapshot.image_tasks_at_work.items():
        for task in tasks:
            job = jobs.get(task.job_id)
            if job is None or not job.deployment_id:
                board.busy.add(node_id)
            board.pulls[registries.get(task.job_id, "")] += 1
    for id_, registry in registries.items():
        if registry and jobs[id_].state in OPEN:
            until = max(
                (task.not_before for task in snapshot.image_tasks_by_job.get(id_, ()) if task.kind == "rate-limited"),
                default=0.0,
            )
            if until > now:
                board.held[registry] = max(board.held.get(registry, 0.0), until)
    return board


# what ends


def _of_ended_jobs(snapshot: Snapshot, now: float) -> Iterator[Step]:
    """End the tasks of jobs that ended before them: cancelled ones at once, of a stopped one those that still wait."""
    for job_id, tasks in snapshot.image_tasks_open.items():
        job = snapshot.image_jobs.get(job_id)
        if job is None:
            yield from (
                Step(puts=(cancelled(task, now, "its job is gone"),))
                for task in tasks
                if task.state is TaskState.WORKING
            )
            continue
        if job.state in (JobState.RUNNING, JobState.PAUSED, JobState.COMPLETED):
            continue
        at_once = job.state is JobState.CANCELLED or _late(job, now)
        for task in tasks:
            if task.state is TaskState.WAITING or (task.state is TaskState.WORKING and at_once):
                yield Step(puts=(cancelled(task, now, f"its job is {job.state}"),))
            elif task.state is TaskState.WORKING and (trouble := _trouble(snapshot, task, now)):
                yield Step(puts=(failed(job, task, now, "timeout", trouble),))


def _trouble(snapshot: Snapshot, task: ImageTask, now: float) -> str:
    """Return why nothing more is expected of an attempt; empty while something is."""
    node = snapshot.members.get(task.member_id)
    if node is None:
        return "its node was removed"
    if node.state is MemberState.DEAD:
        return "its node was lost"
    if now > task.lease_until:
        return f"nothing was heard of it for {format_duration(now - task.started_at)}"
    return ""


def _lapsed(snapshot: Snapshot, found: Standing, now: float) -> Iterator[Step]:
    """Fail attempts that have run out or whose node is lost, and let go of nodes that were removed."""
    for task in (*found.working, *found.waiting):
        if task.member_id not in snapshot.members:
            yield Step(puts=(cancelled(task, now, "its node was removed"),))
        elif task.state is TaskState.WORKING and (trouble := _trouble(snapshot, task, now)):
            kind: ImageErrorKind = "timeout" if now > task.lease_until else "unreachable"
            yield Step(puts=(failed(found.job, task, now, kind, trouble),))


def _late(job: ImageJob, now: float) -> bool:
    return 0 < job.deadline_at <= now


def _over(snapshot: Snapshot, found: Standing, now: float, new_id: MakeId) -> list[Step]:
    """Return what ends a job, or is to be done before it ends; nothing while it goes on."""
    job = found.job
    if not found.unsettled and (found.ended or not job.wait_for_nodes):
        renewing = renewal(snapshot, job, now, new_id) if job.roll and not found.failed else None
        return [renewing or ended(job, JobState.COMPLETED, _told(found), now, new_id)]
    if _late(job, now):
        left = found.working + found.waiting
        reason = f"its deadline passed; {len(found.queued) + len(left)} nodes had not ended, {_told(found)}"
        return [ended(job, JobState.STOPPED, reason, now, new_id)]
    if len(found.failed) > found.failures_allowed:
        names = "; ".join(f"{task.member_name}: {task.text}" for task in found.failed[:3])
        reason = f"{len(found.failed)} nodes failed, {found.failures_allowed} may: {names}"
        return [ended(job, JobState.STOPPED, reason, now, new_id)]
    if found.only_away_left and now >= found.away_since + AWAY_SECONDS:
        return list(_given_up(found, now))
    return []


def _given_up(found: Standing, now: float) -> Iterator[Step]:
    why = TaskReport(task_id="", attempt=0, state="failed", kind="unreachable", text="its node is not connected")
    for task in found.waiting:
        yield Step(puts=(given_up(task, now, why.text),), guards=(found.job,))
    for member, before in found.queued:
        yield Step(puts=(not_begun(found.job, member, before, now, why),), guards=(found.job,))


def _told(found: Standing) -> str:
    told = f"{len(found.done)} of {found.nodes} nodes are done"
    for count, what in ((len(found.failed), "failed"), (len(found.cancelled), "were cancelled")):
        told += f", {count} {what}" if count else ""
    if found.job.roll:
        told += f"; deployments renewed: {len(found.job.renewed)}"
        told += ", since not every node has it" if found.failed else ""
    return told


def ended(job: ImageJob, state: JobState, reason: str, now: float, new_id: MakeId, actor: str = "") -> Step:
    """Return the step that ends a job, with its event."""
    what = f"{job.action} of {job.reference}" if job.reference else str(job.action)
    told = event(
        new_id(), now, actor or "loop:image-jobs", "image-job", job.id, job.id, f"ImageJob{state.title()}",
        f"image job {job.id} ({what}) is {state}: {reason}", "warning" if state is JobState.STOPPED else "info",
    )  # fmt: skip
    return Step(puts=(msgspec.structs.replace(job, state=state, reason=reason, ended_at=now, updated_at=now), told))


def _waits(found: Standing, now: float) -> Iterator[float]:
    yield from (task.not_before - now for task in found.waiting if task.not_before > now)
    if found.working:
        yield min(task.lease_until for task in found.working) - now
    if found.job.deadline_at > now:
        yield found.job.deadline_at - now
    if found.only_away_left:
        yield found.away_since + AWAY_SECONDS - now


# what begins


def _turn(found: Standing) -> _Turn | None:
    room = found.parallel - len(found.working)
    if room <= 0:
        return None
    return _Turn(
        job=found.job,
        registry=registry_of(found.job),
        room=room,
        new=max(0, found.opened - found.begun),
        due=iter(found.due),
        queued=(each for each in found.queued if each[0].state is MemberState.READY),
    )


def _orders(turns: list[_Turn], board: _Board, now: float) -> Iterator[Step]:
    """Give out orders: what a deployment waits for first, then one to each job in turn, the oldest begins."""
    turns.sort(key=lambda turn: (turn.job.created_at, turn.job.id))
    given = 0
    for first in (True, False):
        waiting = [turn for turn in turns if bool(turn.job.deployment_id) is first]
        while waiting and given < AT_ONCE:
            for turn in list(waiting):
                step = _next_order(turn, board, now)
                if step is None:
                    waiting.remove(turn)
                    continue
                given += 1
                yield step


def _next_order(turn: _Turn, board: _Board, now: float) -> Step | None:
    job = turn.job
    hurried = bool(job.deployment_id)
    if turn.room <= 0 or board.held.get(turn.registry, 0.0) > now:
        return None
    if turn.registry and board.pulls[turn.registry] >= board.per_registry and not hurried:
        return None
    found = next((each for each in turn.due if hurried or each[0].id not in board.busy), None)
    if found is None and turn.new > 0:
        found = next((each for each in turn.queued if hurried or each[0].id not in board.busy), None)
        turn.new -= 1
    if found is None:
        return None
    member, before = found
    trouble = _cannot(job, member)
    if trouble is not None:
        return Step(puts=(not_begun(job, member, before, now, trouble),), guards=(job,))
    turn.room -= 1
    board.pulls[turn.registry] += 1
    if not hurried:
        board.busy.add(member.id)
    return Step(puts=(begun(job, member, before, now),), guards=(job,))


def _cannot(job: ImageJob, member: Member) -> TaskReport | None:
    """Return why a node need not be asked; None when it is to be."""
    architecture = member.facts.architecture
    if job.image is None or not architecture or job.image.for_architecture(architecture) is not None:
        return None
    has = ", ".join(each.platform for each in job.image.platforms) or "no platform at all"
    text = f"{job.reference} is there for {has}, and the node is linux/{architecture}"
    return TaskReport(task_id="", attempt=0, state="failed", kind="wrong-platform", text=text)
