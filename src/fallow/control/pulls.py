"""Before a node pulls: what exactly, from whom, with which login; and nothing for what it was not told to run."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from fallow.control.commits import commit_again
from fallow.control.hub import Link, node_called
from fallow.control.refusals import Refused
from fallow.control.registries import Registries
from fallow.control.resolving import RESOLVE_SECONDS, Resolver, Unresolved
from fallow.decide.plan import Step
from fallow.decide.trust import rules_of
from fallow.drivers.authority import AuthorityError
from fallow.model.deployments import Deployment, Replica, Template
from fallow.model.image_frames import PullAsked, PullGranted
from fallow.model.image_jobs import ImageJob, ImageTask, TaskState
from fallow.model.images import BlobSource, ImageErrorKind, PlatformImage, PullGrant, ResolvedImage
from fallow.model.kinds import KIND_OF
from fallow.model.members import Member
from fallow.model.references import Reference, parse_reference
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import StoreError

MAX_ASKED = 64  # pulls that one node waits for an answer to

# Mirror (host:port, or empty) and sources for a member that is about to pull an image.
Helpers = Callable[[Member, PlatformImage], tuple[str, tuple[BlobSource, ...]]]

# Why a registry that we cannot ask may still be asked by a node.
_AWAY: frozenset[ImageErrorKind] = frozenset({"unreachable", "timeout", "stalled"})

_log = structlog.get_logger("fallow.images")


def no_helpers(_member: Member, _image: PlatformImage) -> tuple[str, tuple[BlobSource, ...]]:
    """Know of no mirror and of no other node."""
    return "", ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """What a node was told to pull: for a project, and which record keeps what that stands for."""

    reference: Reference
    project: str
    keeper: Template | ImageJob


class _Denied(Exception):  # noqa: N818 - an answer
    """The node asks for what it was not told to run."""


class Pulls:
    """Answers nodes before they pull. Logins go out with an answer, and are kept nowhere else."""

    def __init__(self, cache: Cache, applier: Applier, registries: Registries, resolver: Resolver) -> None:
        self._cache = cache
        self._applier = applier
        self._own = registries, resolver
        self.for_host = self._own  # the same, for what runs for a host
        self.helpers: Helpers = no_helpers
        self._answering: dict[Link, set[asyncio.Task[None]]] = {}

    def answer(self, link: Link, asked: PullAsked) -> None:
        """Answer on a session, without holding up what else is said there."""
        tasks = self._answering.setdefault(link, set())
        if len(tasks) >= MAX_ASKED:
            text = "this node asks for too many pulls at once"
            link.send(PullGranted(pull_id=asked.pull_id, grant=_refused(asked, "rate-limited", text, 1.0)))
            return
        task = asyncio.create_task(self._answer(link, asked), name=f"pull {asked.pull_id}")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def closed(self, link: Link) -> None:
        """Answer no more on a session that has ended."""
        for task in self._answering.pop(link, ()):
            task.cancel()

    async def _answer(self, link: Link, asked: PullAsked) -> None:
        link.send(PullGranted(pull_id=asked.pull_id, grant=await self.grant(link.member_id, asked)))

    async def grant(self, member_id: str, asked: PullAsked) -> PullGrant:
        """Return what a member may pull, or why not; raises nothing that a node could cause."""
        try:
            member = node_called(self._cache, member_id)
            if member is None:
                raise _Denied("only nodes pull images")
            wanted = await self._wanted(member, asked)
            return await self._granted(member, asked, wanted)
        except _Denied as denied:
            _log.warning("pull not granted", member=member_id, reason=str(denied))
            return _refused(asked, "denied", str(denied))
        except Unresolved as trouble:
            return _refused(asked, trouble.kind, str(trouble), trouble.retry_after_seconds)
        except AuthorityError as error:
            return _refused(asked, "denied", f"the registry's login cannot be read: {error}")
        except (StoreError, Refused) as error:
            return _refused(asked, "failed", f"the control plane cannot tell now: {error}")

    async def _wanted(self, member: Member, asked: PullAsked) -> _Wanted:
        """Return what the node was told to pull, if it is what it asks for. Raises _Denied."""
        if asked.task_id:
            wanted = await self._of_task(member, asked.task_id)
        elif asked.replica_id:
            wanted = await self._of_replica(member, asked.replica_id)
        else:
            raise _Denied("a pull is for a replica or for an image task")
        try:
            reference = parse_reference(asked.reference)
        except ValueError as error:
            raise _Denied(str(error)) from None
        if reference != wanted.reference:
            raise _Denied(f"{member.name} was not told to pull {reference.text}")
        return wanted

    async def _of_task(self, member: Member, task_id: str) -> _Wanted:
        task = await self._cache.latest("image-tasks", task_id)
        if not isinstance(task, ImageTask) or task.member_id != member.id or task.state is not TaskState.WORKING:
            raise _Denied(f"{member.name} has no image task {task_id[:80]!r} to work on")
        job = await self._cache.latest("image-jobs", task.job_id)
        if not isinstance(job, ImageJob) or not job.reference:
            raise _Denied(f"image task {task_id[:80]!r} pulls nothing")
        reference = _parsed(job.reference)
        template = self._pulled_ahead(job, reference) if job.image is None else None
        keeper = template if template is not None else job
        return _Wanted(reference=reference, project=job.project, keeper=keeper)

    async def _of_replica(self, member: Member, replica_id: str) -> _Wanted:
        replica = await self._cache.latest("replicas", replica_id)
        if not isinstance(replica, Replica) or replica.node_id != member.id or replica.ended:
            raise _Denied(f"{member.name} has no replica {replica_id[:80]!r}")
        template = await self._cache.latest("templates", replica.template_id)
        if not isinstance(template, Template):
            raise _Denied(f"replica {replica_id[:80]!r} has no template any more")
        reference = _parsed(template.container.image)
        return _Wanted(reference=reference, project=replica.project, keeper=template)

    def _pulled_ahead(self, job: ImageJob, reference: Reference) -> Template | None:
        """Return the template that a job pulls ahead for: its replicas must get the same bytes later."""
        snapshot = self._cache.snapshot()
        deployment = snapshot.deployments.get(job.deployment_id)
        if deployment is None:
            return None
        found = snapshot.templates.get(f"{deployment.id}.{deployment.generation}")
        return found if found is not None and _parsed(found.container.image) == reference else None

    async def _granted(self, member: Member, asked: PullAsked, wanted: _Wanted) -> PullGrant:
        registries, resolver = self._asked_of(wanted)
        policy = resolver.policy(wanted.project)
        rules = rules_of(policy) if policy is not None else None
        resolver.check_name(wanted.reference, wanted.project)
        access = registries.access(wanted.reference.registry)
        grant = PullGrant(
            reference=asked.reference,
            login=access.login,
            insecure=access.insecure,
            ca_pem=access.ca_pem,
            proxy=access.proxy,
            trust=rules,
        )
        try:
            resolved = await self._soon(member, wanted)
        except Unresolved as trouble:
            if trouble.kind not in _AWAY or (policy is not None and policy.keys):
                raise
            _log.warning("image not resolved; the node pulls what it finds", member=member.id, reason=str(trouble))
            return grant
        image = resolved.for_architecture(member.facts.architecture)
        if image is None:
            offered = ", ".join(each.platform for each in resolved.platforms) or "nothing that runs on Linux"
            text = f"{wanted.reference.text} is for {offered}, and {member.name} is {member.facts.architecture}"
            raise Unresolved("wrong-platform", text)
        mirror, sources = self.helpers(member, image)
        mirror = mirror or registries.mirror(wanted.reference.registry)
        return msgspec.structs.replace(grant, image=image, digest=resolved.digest, mirror=mirror, sources=sources)

    def _asked_of(self, wanted: _Wanted) -> tuple[Registries, Resolver]:
        """Return who knows the registry: what a host orders may be pulled with the host's login, nothing else."""
        if isinstance(wanted.keeper, Template):
            deployment = self._cache.get("deployments", wanted.keeper.deployment_id)
            if isinstance(deployment, Deployment) and deployment.origin is not None:
                return self.for_host
        return self._own

    async def _soon(self, member: Member, wanted: _Wanted) -> ResolvedImage:
        """Resolve within the time a node can wait; asking goes on, for whoever asks next. Raises Unresolved."""
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                return await self._resolved(member, wanted)
        except TimeoutError:
            text = f"{wanted.reference.registry} has not answered for {RESOLVE_SECONDS:g} s"
            raise Unresolved("timeout", text) from None

    async def _resolved(self, member: Member, wanted: _Wanted) -> ResolvedImage:
        """Return the one image for all nodes: what was resolved first stays so. Raises Unresolved."""
        _, resolver = self._asked_of(wanted)
        known = wanted.keeper.image
        if known is not None and known.for_architecture(member.facts.architecture) is not None:
            await resolver.check_signed(known, wanted.project)  # the rules may have changed since
            return known
        if known is not None:  # resolved before there was a node of this kind: the same image again, by its digest
            text = wanted.reference.at(known.digest)
            found = await resolver.resolve(text, wanted.project)
            found = msgspec.structs.replace(found, reference=known.reference)
        else:
            found = await resolver.resolve(wanted.reference.text, wanted.project, since=wanted.keeper.created_at)
        return await self._pinned(wanted.keeper, found)

    async def _pinned(self, keeper: Template | ImageJob, found: ResolvedImage) -> ResolvedImage:
        """Keep with a record what its reference stands for, unless another process has; return what is kept.

        A job has no image yet when its registry could not be reached as it was made.
        """

        def decide() -> tuple[Step | None, ResolvedImage]:
            now = self._cache.get(KIND_OF[type(keeper)], keeper.id)
            if not isinstance(now, Template | ImageJob):
                return None, found
            if now.image is not None and (now.image.digest != found.digest or now.image.platforms == found.platforms):
                return None, now.image
            return Step(puts=(msgspec.structs.replace(now, image=found, updated_at=found.resolved_at),)), found

        return await commit_again(self._applier, decide)


def _parsed(reference: str) -> Reference:
    try:
        return parse_reference(reference)
    except ValueError as error:
        raise _Denied(str(error)) from None


def _refused(asked: PullAsked, kind: ImageErrorKind, text: str, retry_after_seconds: float = 0.0) -> PullGrant:
    return PullGrant(reference=asked.reference, kind=kind, text=text[:2048], retry_after_seconds=retry_after_seconds)
