"""Drift as events, and asking registries what references stand for now."""

import asyncio
from collections.abc import Callable

from fallow.control.image_requests import Resolves
from fallow.control.refusals import Refused
from fallow.control.runner import Controller
from fallow.decide.events import event
from fallow.decide.image_drift import drift
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.image_requests import DriftView
from fallow.model.images import ResolvedImage
from fallow.model.references import qualified

EVERY_SECONDS = 30.0
AT_ONCE = 100  # references that are asked for, and events of one run


async def newest(snapshot: Snapshot, resolver: Resolves | None, now: float) -> dict[str, ResolvedImage]:
    """Ask registries what tags stand for now, of deployments and of jobs; what cannot be asked is left out."""
    if resolver is None:
        return {}
    jobs = sorted(snapshot.image_jobs.values(), key=lambda job: job.created_at, reverse=True)
    deployed = {qualified(found.spec.container.image): found.project for found in snapshot.deployments.values()}
    pulled = {job.reference: job.project for job in jobs if job.image is not None}
    wanted = {reference: project for reference, project in (deployed | pulled).items() if "@" not in reference}

    async def ask(reference: str, project: str) -> ResolvedImage | None:
        try:
            return await resolver.resolve(reference, project, since=now)
        except Refused:
            return None

    asked = list(wanted.items())[:AT_ONCE]
    answers = await asyncio.gather(*(ask(reference, project) for reference, project in asked))
    return {reference: found for (reference, _), found in zip(asked, answers, strict=True) if found is not None}


def image_drift_controller(new_id: Callable[[], str]) -> Controller:
    """Return the loop that tells of drift, each once; what there is when it begins was told before.

    It looks at all tasks there are, so it looks every EVERY_SECONDS and not whenever a node tells of its images, and
    not at all where nothing has changed.
    """
    told: set[DriftView] | None = None
    seen: tuple[object, ...] = ()

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal told, seen
        sight = (snapshot.node_images, snapshot.image_jobs, snapshot.image_tasks, snapshot.members)
        if len(seen) == len(sight) and all(before is after for before, after in zip(seen, sight, strict=True)):
            return Plan()
        seen = sight
        found = drift(snapshot) if snapshot.node_images and snapshot.image_jobs else []
        news = [each for each in found if told is not None and each not in told][:AT_ONCE]
        told = ((told or set()) & set(found)) | (set(news) if told is not None else set(found))
        if len(told) < len(set(found)):
            seen = ()  # the rest is told next time
        return Plan(steps=[_told(each, now, new_id) for each in news])

    return Controller(name="image-drift", kinds=frozenset(), every_seconds=EVERY_SECONDS, decide=decide)


def _told(found: DriftView, now: float, new_id: Callable[[], str]) -> Step:
    if found.kind == "missing":
        text = f"{found.node} has no {found.reference} any more, which {found.because} pulled"
    else:
        has, wanted = found.found[:19], found.wanted[:19]
        text = f"{found.node} has {has} as {found.reference}, and by {found.because} it is {wanted}"
    told = event(
        new_id(), now, "loop:image-drift", "member", found.node, found.node, "ImageDrift", text, "warning"
    )  # fmt: skip
    return Step(puts=(told,))
