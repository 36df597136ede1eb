"""Tells every connected node its image tasks: all of them when it connects, then what changes."""

from collections.abc import Callable, Iterable

import msgspec

from fallow.control.hub import Hub, Link, node_called
from fallow.decide.image_needs import needed
from fallow.decide.snapshot import Snapshot
from fallow.model.image_frames import SetImageTasks
from fallow.model.image_jobs import CleanRules, ImageAction, ImageJob, ImageOrder, ImageTask, TaskReport, TaskState
from fallow.model.members import Member
from fallow.model.wire import IMAGES_PROTOCOL
from fallow.store.cache import Cache

REMOVING = (ImageAction.DELETE, ImageAction.CLEAN)


class ImageOrders:
    """Remembers which attempts each session was told of, so that only differences are sent.

    `refuse` takes in what a node cannot do itself: its agent is too old to be told.
    """

    def __init__(self, cache: Cache, hub: Hub, refuse: Callable[[str, TaskReport], object]) -> None:
        self._cache = cache
        self._hub = hub
        self._refuse = refuse
        self._told: dict[Link, dict[str, int]] = {}  # task id -> attempt
        self._needs: tuple[Snapshot, tuple[str, ...]] = (Snapshot(), ())

    def greet(self, link: Link) -> None:
        """Tell a session that has just opened all tasks of its node."""
        if node_called(self._cache, link.member_id) is None:
            return
        tasks = self._cache.snapshot().image_tasks_at_work.get(link.member_id, [])
        if link.protocol < IMAGES_PROTOCOL:
            self._told[link] = {}
            self._too_old(link, tasks)
            return
        orders = self._orders(tasks)
        self._told[link] = {order.task_id: order.attempt for order in orders}
        link.send(SetImageTasks(full=True, orders=tuple(orders)))

    def closed(self, link: Link) -> None:
        """Forget a session that has ended."""
        self._told.pop(link, None)

    async def run(self) -> None:
        """Send what changes until cancelled."""
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                self._send_changes(sorted(id_ for kind, id_ in changed if kind == "image-tasks"))
        finally:
            subscription.close()

    def _send_changes(self, task_ids: Iterable[str]) -> None:
        changed: dict[Link, list[ImageTask]] = {}
        removed: dict[Link, list[str]] = {}
        for id_ in task_ids:
            task = self._cache.get("image-tasks", id_)
            # A deleted task's node is the end of its id.
            member_id = task.member_id if isinstance(task, ImageTask) else id_.partition(".")[2]
            link = self._hub.link(member_id)
            told = self._told.get(link) if link is not None else None
            if link is None or told is None:
                continue
            if isinstance(task, ImageTask) and task.state is TaskState.WORKING:
                if told.get(id_) != task.attempt:
                    changed.setdefault(link, []).append(task)
            elif told.pop(id_, None) is not None and not _finished(task):
                removed.setdefault(link, []).append(id_)
        for link in dict.fromkeys([*changed, *removed]):
            tasks = changed.get(link, [])
            if link.protocol < IMAGES_PROTOCOL:
                self._too_old(link, tasks)
                continue
            orders = self._orders(tasks)
            self._told[link].update({order.task_id: order.attempt for order in orders})
            link.send(SetImageTasks(full=False, orders=tuple(orders), cancelled=tuple(removed.get(link, ()))))

    def _orders(self, tasks: Iterable[ImageTask]) -> list[ImageOrder]:
        found = []
        for task in tasks:
            job = self._cache.get("image-jobs", task.job_id)
            member = self._cache.get("members", task.member_id)
            if isinstance(job, ImageJob) and isinstance(member, Member):
                rules = self._rules(job) if job.action in REMOVING else None
                found.append(order_of(job, task, member.facts.architecture, rules))
        return found

    def _rules(self, job: ImageJob) -> CleanRules:
        """Return a job's rules with what deployments need at this moment, not when the job was made."""
        return msgspec.structs.replace(job.rules or CleanRules(), needed=self._needed())

    def _needed(self) -> tuple[str, ...]:
        now, (before, found) = self._cache.snapshot(), self._needs
        fields = ("deployments", "templates", "replicas", "image_jobs")
        if any(getattr(now, field) is not getattr(before, field) for field in fields):
            found = needed(now)
            self._needs = (now, found)
        return found

    def _too_old(self, link: Link, tasks: Iterable[ImageTask]) -> None:
        text = f"its agent ({link.agent_version}) is too old to take image orders: fallow node upgrade"
        for task in tasks:
            report = TaskReport(
                task_id=task.id, attempt=task.attempt, state="failed", kind="bad-request", text=text
            )  # fmt: skip
            self._refuse(link.member_id, report)


def order_of(job: ImageJob, task: ImageTask, architecture: str, rules: CleanRules | None) -> ImageOrder:
    """Return what a node is to do for a task."""
    return ImageOrder(
        task_id=task.id,
        attempt=task.attempt,
        action=job.action,
        reference=job.reference,
        image=job.image.for_architecture(architecture) if job.image is not None else None,
        digest=job.image.digest if job.image is not None else "",
        rules=rules,
        attempt_seconds=job.attempt_seconds,
        stall_seconds=job.stall_seconds,
    )


def _finished(task: object) -> bool:
    """Say whether the node itself ended the task: there is nothing to take back."""
    return isinstance(task, ImageTask) and task.state is TaskState.DONE
