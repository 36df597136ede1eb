"""Generations of a deployment: what one is made of, how the next begins, and how to go back to an earlier one.

Numbers only grow. Going back makes a new generation of what an old one was made of; replicas of the old one are as
good as new then, and are not renewed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, DeploymentSpec, GenerationView, Template
from fallow.model.events import Event
from fallow.model.images import ResolvedImage
from fallow.model.updates import UpdateState, UpdateStatus

Cause = Literal["deploy", "rollback", "restart"]


class NoSuchGenerationError(ValueError):
    """There is no generation to go back to; the text says why and which there are."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something, and when (UTC seconds)."""

    now: float
    new_id: Callable[[], str]
    actor: str

    def tells(
        self, deployment: Deployment, reason: str, text: str, level: Literal["info", "warning"] = "info"
    ) -> Event:
        """Return an event about the deployment; its path is put before the text."""
        path = deployment.path
        return event(
            self.new_id(), self.now, self.actor, "deployment", deployment.id, path, reason, f"{path} {text}", level
        )


def template_of(deployment: Deployment, author: Author, cause: Cause = "deploy") -> Template:
    """Return what the deployment's present generation is made of."""
    return Template(
        id=f"{deployment.id}.{deployment.generation}",
        created_at=author.now,
        updated_at=author.now,
        deployment_id=deployment.id,
        generation=deployment.generation,
        container=deployment.spec.container,
        placement=deployment.spec.placement,
        actor=author.actor,
        cause=cause,
        alike=deployment.alike,
    )


def renewed(
    current: Deployment, spec: DeploymentSpec, author: Author, cause: Cause = "deploy"
) -> tuple[Deployment, Template]:
    """Return the deployment with its next generation, made of `spec`; whatever update is under way is superseded."""
    generation = current.generation + 1
    after = msgspec.structs.replace(
        current,
        spec=spec,
        generation=generation,
        alike=(),
        update=UpdateStatus(
            generation=generation,
            from_generation=current.good_generation,
            started_at=author.now,
            changed_at=author.now,
        ),
        updated_at=author.now,
    )
    return after, msgspec.structs.replace(template_of(after, author, cause), earlier_routes=current.spec.routes)


def reverted(
    current: Deployment, templates: Mapping[str, Template], target: Template, author: Author, reason: str
) -> tuple[Deployment, Template]:
    """Return the deployment with a next generation made of what `target` was, with the routes of that time."""
    following = templates.get(f"{current.id}.{target.generation + 1}")
    routes = following.earlier_routes if following is not None else None
    spec = msgspec.structs.replace(
        current.spec,
        container=target.container,
        placement=target.placement,
        routes=current.spec.routes if routes is None else routes,
    )
    after, template = renewed(current, spec, author, "rollback")
    assert after.update is not None
    status = msgspec.structs.replace(
        after.update,
        state=UpdateState.ROLLING_BACK,
        from_generation=target.generation,
        rollback=True,
        reason=reason,
    )
    alike = (target.generation, *target.alike)
    after = msgspec.structs.replace(after, alike=alike, update=status)
    return after, msgspec.structs.replace(template, alike=alike, image=target.image)


def pinned(step: Step, images: Mapping[str, ResolvedImage]) -> Step:
    """Return a step whose new generations say what their images stand for, as far as `images` by reference know."""
    puts = tuple(
        msgspec.structs.replace(put, image=found)
        if isinstance(put, Template) and put.image is None and (found := images.get(put.container.image)) is not None
        else put
        for put in step.puts
    )
    return replace(step, puts=puts)


def restarted(current: Deployment, author: Author) -> Step:
    """Return what renews every replica by one of the same."""
    after, template = renewed(current, current.spec, author, "restart")
    told = author.tells(after, "DeploymentRestarted", f"is renewed as generation {after.generation}")
    return Step(puts=(after, template, told))


def rolled_back(snapshot: Snapshot, current: Deployment, to: int | None, author: Author) -> Step | None:
    """Return what makes generation `to` (None: the last good one) wanted again, None when it is so already.

    Raises NoSuchGenerationError.
    """
    status = current.update
    if to is None and status is not None and status.rollback:
        if status.under_way:
            return None
        raise NoSuchGenerationError(
            f"{current.path} has gone back to generation {status.from_generation} already; name the generation"
        )
    target = _target(snapshot, current, to)
    if current.wants(target.generation):
        return None
    reason = f"{author.actor} asked to go back from generation {current.generation}"
    after, template = reverted(current, snapshot.templates, target, author, reason)
    told = author.tells(
        after, "RollbackStarted",
        f"goes back to generation {target.generation} ({target.container.image}) as generation {after.generation}",
    )  # fmt: skip
    return Step(puts=(after, template, told))


def _target(snapshot: Snapshot, current: Deployment, to: int | None) -> Template:
    kept = {found.generation: found for found in _templates(snapshot, current)}
    if to is not None:
        if to not in kept:
            known = ", ".join(map(str, sorted(kept)))
            raise NoSuchGenerationError(f"generation {to} of {current.path} is not kept; there are {known or 'none'}")
        return kept[to]
    good = current.update.from_generation if current.update is not None else 0
    if good in kept:
        return kept[good]
    older = [generation for generation in kept if not current.wants(generation)]
    if not older:
        raise NoSuchGenerationError(f"{current.path} has no earlier generation to go back to")
    return kept[max(older)]


def history(snapshot: Snapshot, deployment: Deployment) -> tuple[GenerationView, ...]:
    """Return the generations that are kept, newest first."""
    live = [found for found in snapshot.replicas_by_deployment.get(deployment.id, ()) if not found.ended]
    found: list[GenerationView] = []
    before: Template | None = None
    for template in _templates(snapshot, deployment):
        found.append(
            GenerationView(
                generation=template.generation,
                created_at=template.created_at,
                actor=template.actor,
                cause=template.cause,
                image=template.container.image,
                changed=_changed(before, template) if before is not None else (),
                alike=template.alike,
                replicas=sum(replica.generation == template.generation for replica in live),
                current=template.generation == deployment.generation,
                good=template.generation == deployment.good_generation,
            )
        )
        before = template
    return tuple(reversed(found))


def _templates(snapshot: Snapshot, deployment: Deployment) -> list[Template]:
    """Return the templates of a deployment that are kept, oldest first."""
    found = [template for template in snapshot.templates.values() if template.deployment_id == deployment.id]
    return sorted(found, key=lambda template: template.generation)


def _changed(before: Template, after: Template) -> tuple[str, ...]:
    """Name the fields that differ; values may be secret."""
    pairs: list[tuple[Any, Any]] = [(before.container, after.container), (before.placement, after.placement)]
    return tuple(
        field.name
        for old, new in pairs
        for field in msgspec.structs.fields(old)
        if getattr(old, field.name) != getattr(new, field.name)
    )
