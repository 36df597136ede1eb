"""Image jobs as they are asked for: checked, resolved once, stored; and paused, resumed, cancelled, tried again."""

import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from fallow.control.commits import commit_again
from fallow.control.hub import Hub
from fallow.control.refusals import Refused, not_found, refuse
from fallow.decide.events import event
from fallow.decide.image_jobs import OPEN
from fallow.decide.image_targets import targeted
from fallow.decide.matching import trouble_of
from fallow.decide.plan import Step
from fallow.decide.selectors import SelectorError, parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.image_jobs import CleanRules, ImageAction, ImageJob, ImageTarget, JobState, TaskState
from fallow.model.image_requests import ImageJobRequest
from fallow.model.images import ResolvedImage
from fallow.model.members import Member
from fallow.model.references import parse_reference
from fallow.store.applier import Applier
from fallow.store.cache import Cache

MAX_OPEN = 1000
LISTS = "fallow image job list shows all"
AWAY = ("unreachable", "timeout", "stalled")  # a node may reach a registry that we do not
NAMED = (ImageAction.PULL, ImageAction.UPDATE, ImageAction.DELETE)
REMOVING = (ImageAction.DELETE, ImageAction.CLEAN)


class Resolves(Protocol):
    """Says what references stand for."""

    async def resolve(self, reference: str, project: str, *, since: float) -> ResolvedImage:
        """Return it, as it is from `since` on. Raises Refused; its `kind` is one of AWAY when nobody can be asked."""

    def policy(self, project: str) -> object | None:
        """Return the rules for a project's images, if there are any."""


class ImageRequests:
    """Takes in what people and schedules ask for. `clock` gives UTC seconds.

    Without a `resolver` references are handed to the nodes as they are.
    """

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        hub: Hub,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        resolver: Resolves | None = None,
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._hub = hub
        self._clock = clock
        self._new_id = new_id
        self.resolver = resolver

    async def draft(self, request: ImageJobRequest, actor: str, id_: str = "") -> tuple[ImageJob, list[Member]]:
        """Return the job a request stands for, not stored, and whom it would reach now. Raises Refused."""
        reference = _checked(request)
        meant = self.meant(request.target, absent_too=request.wait_for_nodes)
        image = None
        if request.action in (ImageAction.PULL, ImageAction.UPDATE):
            image = await self._resolved(reference, request.project)
        now = self._clock()
        rules = request.rules
        if request.action in REMOVING:
            named = (reference,) if reference else (rules.references if rules is not None else ())
            rules = msgspec.structs.replace(
                rules or CleanRules(),
                references=named,
                needed=(),
                dry_run=request.dry_run or (rules is not None and rules.dry_run),
            )
        job = ImageJob(
            id=id_ or f"i-{self._new_id()}",
            created_at=now,
            updated_at=now,
            action=request.action,
            reference=reference,
            image=image,
            target=request.target,
            rules=rules,
            instruction=request.instruction or _instruction(request),
            parallel=request.parallel,
            canary=request.canary,
            max_failures=request.max_failures,
            attempts=request.attempts,
            attempt_seconds=request.attempt_seconds,
            stall_seconds=request.stall_seconds,
            deadline_at=now + request.deadline_seconds if request.deadline_seconds else 0.0,
            created_by=actor,
            project=request.project,
            wait_for_nodes=request.wait_for_nodes,
            roll=request.roll,
        )
        return job, meant

    async def create(self, request: ImageJobRequest, actor: str, key: str = "", schedule: str = "") -> ImageJob:
        """Store the job a request stands for; the same `key` of the same actor makes it only once. Raises Refused."""
        id_ = f"i-{hashlib.sha256(f'{actor}/{key}'.encode()).hexdigest()[:20]}" if key else ""
        known = await self._cache.latest("image-jobs", id_) if id_ else None
        if isinstance(known, ImageJob):
            return known
        job, _ = await self.draft(request, actor, id_)
        return await self.store(msgspec.structs.replace(job, schedule_id=schedule), actor)

    async def store(self, job: ImageJob, actor: str) -> ImageJob:
        """Store a new job, or return the one that has its id already. Raises Refused."""

        def decide() -> tuple[Step | None, ImageJob]:
            known = self._cache.get("image-jobs", job.id)
            if isinstance(known, ImageJob):
                return None, known
            snapshot = self._cache.snapshot()
            if sum(found.state in OPEN for found in snapshot.image_jobs.values()) >= MAX_OPEN:
                raise refuse(
                    409, "too-many-jobs", "Too many image jobs",
                    f"{MAX_OPEN} are open already, and there may be no more", LISTS,
                )  # fmt: skip
            told = event(
                self._new_id(), job.created_at, actor, "image-job", job.id, job.id, "ImageJobCreated",
                f"image job {job.id}: {job.instruction}",
            )  # fmt: skip
            return Step(puts=(job, told)), job

        found = await commit_again(self._applier, decide)
        stored = self._cache.get("image-jobs", found.id)
        return stored if isinstance(stored, ImageJob) else found

    async def pause(self, id_: str, actor: str) -> ImageJob:
        """Begin with no further node. Raises Refused."""
        return await self._change(id_, actor, "Paused", self._paused)

    async def resume(self, id_: str, actor: str) -> ImageJob:
        """Go on with a job that is paused. Raises Refused."""
        return await self._change(id_, actor, "Resumed", self._resumed)

    async def cancel(self, id_: str, actor: str) -> ImageJob:
        """End a job, and what nodes do for it. Raises Refused."""
        return await self._change(id_, actor, "Cancelled", self._cancelled)

    async def retry(self, id_: str, actor: str) -> ImageJob:
        """Let those that failed, and those that had no turn, have another one. Raises Refused."""
        return await self._change(id_, actor, "Retried", self._retried)

    async def _change(
        self, id_: str, actor: str, what: str, change: Callable[[ImageJob, float, str], ImageJob]
    ) -> ImageJob:
        def decide() -> tuple[Step | None, ImageJob]:
            before = job_called(self._cache.snapshot(), id_)
            now = self._clock()
            after = change(before, now, actor)
            if after is before:
                return None, before
            after = msgspec.structs.replace(after, updated_at=now)
            told = event(
                self._new_id(), now, actor, "image-job", before.id, before.id, f"ImageJob{what}",
                f"image job {before.id} ({before.action} {before.reference}) was {what.lower()}",
            )  # fmt: skip
            return Step(puts=(after, told)), after

        await commit_again(self._applier, decide)
        return job_called(self._cache.snapshot(), id_)

    def _paused(self, job: ImageJob, now: float, actor: str) -> ImageJob:
        if job.state is JobState.PAUSED:
            return job
        if job.state is not JobState.RUNNING:
            raise _over(job, "pause")
        return msgspec.structs.replace(job, state=JobState.PAUSED, reason=f"by {actor}")

    def _resumed(self, job: ImageJob, now: float, actor: str) -> ImageJob:
        if job.state is JobState.RUNNING:
            return job
        if job.state is not JobState.PAUSED:
            raise _over(job, "resume")
        return msgspec.structs.replace(job, state=JobState.RUNNING, reason="")

    def _cancelled(self, job: ImageJob, now: float, actor: str) -> ImageJob:
        if job.state is JobState.CANCELLED:
            return job
        if job.state not in OPEN:
            raise _over(job, "cancel")
        return msgspec.structs.replace(job, state=JobState.CANCELLED, reason=f"by {actor}", ended_at=now)

    def _retried(self, job: ImageJob, now: float, actor: str) -> ImageJob:
        snapshot = self._cache.snapshot()
        tasks = snapshot.image_tasks_by_job.get(job.id, [])
        ended = (TaskState.FAILED, TaskState.CANCELLED)
        again = [task for task in tasks if task.state in ended and task.revision > job.retried_at_revision]
        unfinished = job.state in (JobState.STOPPED, JobState.CANCELLED)
        if not again and not unfinished:
            raise refuse(409, "nothing-failed", "Nothing to try again", f"no node failed in image job {job.id}", LISTS)
        lasts = job.deadline_at - job.created_at
        return msgspec.structs.replace(
            job,
            state=JobState.RUNNING,
            reason="",
            ended_at=0.0,
            deadline_at=now + lasts if job.deadline_at else 0.0,
            retried_at_revision=max((task.revision for task in again), default=job.retried_at_revision),
        )

    def meant(self, target: ImageTarget, *, absent_too: bool = False) -> list[Member]:
        """Return whom a target means now, by name; with `absent_too` it may be nobody. Raises Refused."""
        snapshot = self._cache.snapshot()
        check_target(snapshot, target, absent_too=absent_too)
        found = targeted(snapshot, target, self._hub.usages())
        if not found and not absent_too:
            what = f"{target.selector!r} selects" if target.selector else "is there"
            raise refuse(
                404, "nobody-meant", "Nobody is meant", f"of {len(snapshot.nodes)} nodes there is none that {what}",
                "fallow node list -l SELECTOR shows whom it selects; a pull may wait for them: --wait-for-nodes",
            )  # fmt: skip
        return sorted(found, key=lambda member: member.name)

    async def _resolved(self, reference: str, project: str) -> ResolvedImage | None:
        """Return what a reference stands for; None when nobody here can say, and nobody demands that it is known."""
        if self.resolver is None:
            return None
        try:
            return await self.resolver.resolve(reference, project, since=self._clock())
        except Refused as refused:
            if getattr(refused, "kind", "") in AWAY and self.resolver.policy(project) is None:
                return None
            raise


def job_called(snapshot: Snapshot, id_: str) -> ImageJob:
    """Return the job with this id. Raises Refused (404)."""
    found = snapshot.image_jobs.get(id_)
    if found is None:
        raise not_found(f"image job {id_[:80]!r}", LISTS)
    return found


def _checked(request: ImageJobRequest) -> str:
    """Return the reference in full. Raises Refused."""
    if request.action is ImageAction.LOAD:
        raise refuse(400, "bad-request", "Not a job of its own", "a load needs a file", "fallow image load FILE")
    if request.action in NAMED and not request.reference:
        raise refuse(400, "bad-request", "Which image?", f"a {request.action} needs a reference", "such as nginx:1.27")
    if request.action not in REMOVING and request.rules is not None:
        raise refuse(400, "bad-request", "Not for a pull", "rules say what may be deleted; a pull deletes nothing")
    if request.roll and request.action is not ImageAction.UPDATE:
        raise refuse(400, "bad-request", "Not an update", f"a {request.action} renews no deployments", "use an update")
    if request.action is ImageAction.CLEAN and request.reference:
        raise refuse(
            400, "bad-request", "A clean has no reference", "it deletes whatever its rules let go",
            "fallow image delete REFERENCE deletes one image",
        )  # fmt: skip
    if not request.reference:
        return ""
    try:
        return parse_reference(request.reference).text
    except ValueError as error:
        raise refuse(422, "bad-reference", "Not an image reference", str(error), "such as nginx:1.27") from None


def check_target(snapshot: Snapshot, target: ImageTarget, *, absent_too: bool = False) -> None:
    """Refuse a target that means nobody for certain. Raises Refused (400, 404)."""
    if target.names and target.selector:
        raise refuse(400, "bad-request", "Which nodes?", "give either names or a selector")
    try:
        trouble = trouble_of(parse_selector(target.selector), snapshot.label_sets)
    except SelectorError as error:
        raise refuse(400, "bad-selector", "Not a selector", str(error), "see docs/reference/selectors.md") from None
    if trouble:
        raise refuse(400, "bad-selector", "Not a usable selector", trouble, "fallow label-set list shows all")
    known = {name for node in snapshot.nodes.values() for name in (node.id, node.name)} if target.names else set()
    missing = [name for name in target.names if name not in known]
    if missing and not absent_too:
        raise not_found(f"node {missing[0][:80]!r}", "fallow node list shows all")


def _instruction(request: ImageJobRequest) -> str:
    target = request.target
    on = ",".join(target.names[:10]) + (" and more" if len(target.names) > 10 else "") if target.names else ""
    on = on or target.selector or "all"
    share = f"{target.percent}%:" if target.percent != 100 else ""
    parts = ["image", str(request.action), request.reference, f"--on {share}{on}"]
    flags = ("--roll" if request.roll else "", "--dry-run" if request.dry_run else "")
    return " ".join(filter(None, [*parts, *flags]))


def _over(job: ImageJob, wish: str) -> Refused:
    return refuse(
        409, "job-ended", "Not under way", f"image job {job.id} is {job.state}; there is nothing to {wish}",
        f"fallow image job show {job.id}",
    )  # fmt: skip
