"""How far an image job is: its nodes by what became of them, and what its limits allow now."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fallow.decide.image_targets import targeted
from fallow.decide.snapshot import Snapshot
from fallow.decide.upgrades import allowance
from fallow.decide.variables import Heard
from fallow.model.image_jobs import ImageJob, ImageTask, TaskState
from fallow.model.members import Member, MemberState

AWAY = (MemberState.DEAD, MemberState.JOINING)

Queued = tuple[Member, ImageTask | None]  # with what it did before, when it gets another turn


@dataclass(kw_only=True)
class Standing:
    """The nodes of one job: those it means now, and those that had their turn and are meant no more."""

    job: ImageJob
    now: float
    queued: list[Queued] = field(default_factory=list)  # have not had their turn
    working: list[ImageTask] = field(default_factory=list)
    waiting: list[ImageTask] = field(default_factory=list)
    done: list[ImageTask] = field(default_factory=list)
    failed: list[ImageTask] = field(default_factory=list)
    cancelled: list[ImageTask] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)  # of all tasks that have not ended

    @property
    def ended(self) -> int:
        """Return how many nodes have ended."""
        return len(self.done) + len(self.failed) + len(self.cancelled)

    @property
    def begun(self) -> int:
        """Return how many nodes had their turn."""
        return self.ended + len(self.working) + len(self.waiting)

    @property
    def nodes(self) -> int:
        """Return how many nodes the job has."""
        return self.begun + len(self.queued)

    @property
    def unsettled(self) -> bool:
        """Say whether a node has yet to end."""
        return bool(self.queued or self.working or self.waiting)

    @property
    def parallel(self) -> int:
        """Return how many nodes may work at once."""
        return allowance(self.job.parallel, max(1, self.nodes))

    @property
    def due(self) -> list[Queued]:
        """Return the nodes whose next attempt is due."""
        found: list[Queued] = []
        for task in self.waiting:
            member = self.members.get(task.member_id)
            if member is not None and member.state is MemberState.READY and task.not_before <= self.now:
                found.append((member, task))
        return found

    @property
    def waves(self) -> Sequence[int]:
        """Return how many nodes have begun in all after each wave."""
        nodes = self.nodes
        return (1, min(nodes, 1 + -(-nodes // 10)), nodes) if self.job.canary else (nodes,)

    @cached_property
    def opened(self) -> int:
        """Return how many nodes may have begun by now.

        A wave is over when all of it has ended; another node takes the place of one that is away.
        """
        away = sum(self._away(task.member_id) for task in self.waiting)
        begun = self.begun - away
        under_way = self.working or len(self.waiting) > away
        for wave in self.waves:
            if wave > begun or (wave == begun and under_way):
                return wave + away
        return self.nodes

    @property
    def failures_allowed(self) -> int:
        """Return how many nodes may fail; of a canary's wave never all."""
        text, nodes = self.job.max_failures, self.nodes
        allowed = max(1, nodes * int(text[:-1]) // 100) if text.endswith("%") else int(text)
        if not self.job.canary:
            return allowed
        wave = next((wave for wave in self.waves if wave >= self.begun), nodes)
        return min(allowed, max(0, wave - 1))

    @property
    def only_away_left(self) -> bool:
        """Say whether nothing is waited for but nodes that are not connected."""
        return (
            not self.working
            and bool(self.queued or self.waiting)
            and all(member.state in AWAY for member, _ in self.queued)
            and all(self._away(task.member_id) for task in self.waiting)
        )

    @property
    def away_since(self) -> float:
        """Return since when nothing but nodes that are away is waited for, at the earliest."""
        gone = [member.state_since for member, _ in self.queued]
        gone += [member.state_since for task in self.waiting if (member := self.members.get(task.member_id))]
        ends = [task.ended_at for task in (*self.done, *self.failed, *self.cancelled)]
        return max([self.job.created_at, *gone, *ends])

    @property
    def away(self) -> int:
        """Return how many nodes that have yet to end are not connected."""
        queued = sum(member.state in AWAY for member, _ in self.queued)
        return queued + sum(self._away(task.member_id) for task in self.waiting)

    def _away(self, member_id: str) -> bool:
        member = self.members.get(member_id)
        return member is None or member.state in AWAY


def standing_of(snapshot: Snapshot, job: ImageJob, heard: Heard, now: float) -> Standing:
    """Return how far a job is. Whom it means is looked up for as long as it is open."""
    found = Standing(job=job, now=now)
    again: dict[str, ImageTask] = {}
    seen: set[str] = set()
    into = {
        TaskState.WORKING: found.working,
        TaskState.WAITING: found.waiting,
        TaskState.DONE: found.done,
        TaskState.FAILED: found.failed,
        TaskState.CANCELLED: found.cancelled,
    }
    for task in snapshot.image_tasks_by_job.get(job.id, ()):
        member = snapshot.members.get(task.member_id)
        over = task.state in (TaskState.FAILED, TaskState.CANCELLED)
        if over and 0 < task.revision <= job.retried_at_revision and member is not None:
            again[task.member_id] = task
            continue
        seen.add(task.member_id)
        if member is not None and not over:
            found.members[task.member_id] = member
        into[task.state].append(task)
    meant = targeted(snapshot, job.target, heard) if not job.ended_at else []
    found.queued = [(member, again.pop(member.id, None)) for member in meant if member.id not in seen]
    # Who failed and is meant no more, because a label changed, is asked again all the same: it was named by the retry.
    found.queued += [(snapshot.members[id_], task) for id_, task in sorted(again.items())]
    return found
