"""What storing an application changes: the records to write in one commit, and what to tell its author."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from fallow.decide.compose import Application
from fallow.decide.generations import Author, renewed, template_of
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import host_of
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import DeployedItem, Deployment, DeploymentSpec
from fallow.model.meta import Record

Action = Literal["create", "update", "scale", "unchanged", "delete"]

_TOLD: dict[Action, tuple[str, str]] = {
    "create": ("DeploymentCreated", "is created"),
    "update": ("DeploymentUpdated", "is updated"),
    "scale": ("DeploymentScaled", "is changed"),
    "delete": ("DeploymentDeleting", "is being deleted"),
}


class StillDeletingError(ValueError):
    """A deployment of this name is still being deleted; `path` says which."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is still being deleted")
        self.path = path


class OfHostError(ValueError):
    """A deployment is run for a host, and changed there; `path` says which, `host` whose it is."""

    def __init__(self, path: str, host: str) -> None:
        super().__init__(f"{path} is run for {host}")
        self.path = path
        self.host = host


def check_ours(snapshot: Snapshot, current: Deployment) -> None:
    """Raise OfHostError for a deployment that only its host may change."""
    if current.origin is not None:
        raise OfHostError(current.path, host_of(snapshot, current))


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What is to be written, all or nothing, and one item a deployment; `after` are the deployments it leads to."""

    step: Step | None
    items: tuple[DeployedItem, ...]
    after: tuple[Deployment, ...]


def changes(
    snapshot: Snapshot,
    application: Application,
    now: float,
    new_id: Callable[[], str],
    prune: bool = False,
    actor: str = "api",
) -> Changes:
    """Return what makes `application` the stored wish of its project.

    `prune` also deletes what the project has beyond the application, but for what is run for a host. Raises
    StillDeletingError, and OfHostError.
    """
    before = {found.name: found for found in snapshot.deployments.values() if found.project == application.project}
    done = []
    for name, spec in application.deployments:
        current = before.get(name)
        if current is None:
            # A host divides it first; elsewhere all of it runs here.
            share = 0 if HERE_ID in snapshot.clusters else None
            done.append(_created(application.project, name, spec, Author(now, new_id, actor), share))
        elif current.deleting:
            raise StillDeletingError(current.path)
        else:
            check_ours(snapshot, current)
            done.append(changed(current, spec, now, new_id, actor))
    named = {name for name, _ in application.deployments}
    surplus = [
        found
        for name, found in before.items()
        if name not in named and not (found.deleting or found.origin is not None)
    ]
    done.extend(deleted(found, now, new_id, actor) for found in surplus if prune)
    puts = tuple(record for one in done if one.step is not None for record in one.step.puts)
    return Changes(
        step=Step(puts=puts) if puts else None,
        items=tuple(item for one in done for item in one.items),
        after=tuple(deployment for one in done for deployment in one.after),
    )


def changed(
    current: Deployment, spec: DeploymentSpec, now: float, new_id: Callable[[], str], actor: str = "api"
) -> Changes:
    """Return what gives a deployment another spec; only another container or placement makes a new generation."""
    if spec == current.spec:
        return Changes(step=None, items=(_item(current, "unchanged"),), after=(current,))
    author = Author(now, new_id, actor)
    if (spec.container, spec.placement) == (current.spec.container, current.spec.placement):
        return _written(msgspec.structs.replace(current, spec=spec, updated_at=now), "scale", author)
    after, template = renewed(current, spec, author)
    return _written(after, "update", author, template)


def deleted(current: Deployment, now: float, new_id: Callable[[], str], actor: str = "api") -> Changes:
    """Return what begins a deployment's deletion; it is gone when its last replica has stopped."""
    if current.deleting:
        return Changes(step=None, items=(_item(current, "delete"),), after=())
    after = msgspec.structs.replace(current, deleting=True, updated_at=now)
    return _written(after, "delete", Author(now, new_id, actor))


def _written(after: Deployment, action: Action, author: Author, *others: Record) -> Changes:
    """Return the writes of one deployment's change."""
    reason, words = _TOLD[action]
    told = author.tells(after, reason, f"{words}: {after.spec.replicas} replicas of {after.spec.container.image}")
    return Changes(
        step=Step(puts=(after, *others, told)),
        items=(_item(after, action),),
        after=() if action == "delete" else (after,),
    )


def _created(project: str, name: str, spec: DeploymentSpec, author: Author, share: int | None) -> Changes:
    deployment = Deployment(
        id=f"{name}-{author.new_id()}",
        created_at=author.now,
        updated_at=author.now,
        project=project,
        name=name,
        spec=spec,
        share=share,
    )
    return _written(deployment, "create", author, template_of(deployment, author))


def _item(deployment: Deployment, action: Action) -> DeployedItem:
    return DeployedItem(
        path=deployment.path,
        action=action,
        replicas=0 if action == "delete" else deployment.spec.replicas,
        generation=deployment.generation,
    )
