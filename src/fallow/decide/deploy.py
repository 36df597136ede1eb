"""What storing an application changes: the records to write in one commit, and what to tell its author."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from fallow.decide.compose import Application
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import DeployedItem, Deployment, DeploymentSpec, Template
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

    `prune` also deletes what the project has beyond the application. Raises StillDeletingError.
    """
    before = {found.name: found for found in snapshot.deployments.values() if found.project == application.project}
    done = []
    for name, spec in application.deployments:
        current = before.get(name)
        if current is None:
            done.append(_created(application.project, name, spec, _Writer(now, new_id, actor)))
        elif current.deleting:
            raise StillDeletingError(current.path)
        else:
            done.append(changed(current, spec, now, new_id, actor))
    named = {name for name, _ in application.deployments}
    surplus = [found for name, found in before.items() if name not in named and not found.deleting]
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
    renewed = (spec.container, spec.placement) != (current.spec.container, current.spec.placement)
    generation = current.generation + 1 if renewed else current.generation
    after = msgspec.structs.replace(current, spec=spec, generation=generation, updated_at=now)
    return _Writer(now, new_id, actor).write(after, "update" if renewed else "scale", template=renewed)


def deleted(current: Deployment, now: float, new_id: Callable[[], str], actor: str = "api") -> Changes:
    """Return what begins a deployment's deletion; it is gone when its last replica has stopped."""
    if current.deleting:
        return Changes(step=None, items=(_item(current, "delete"),), after=())
    after = msgspec.structs.replace(current, deleting=True, updated_at=now)
    return _Writer(now, new_id, actor).write(after, "delete")


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes the records of one deployment's change."""

    now: float
    new_id: Callable[[], str]
    actor: str

    def write(self, after: Deployment, action: Action, template: bool = False) -> Changes:
        reason, words = _TOLD[action]
        told = event(
            self.new_id(), self.now, self.actor, "deployment", after.id, after.path, reason,
            f"{after.path} {words}: {after.spec.replicas} replicas of {after.spec.container.image}",
        )  # fmt: skip
        others: tuple[Record, ...] = (self._template(after), told) if template else (told,)
        return Changes(
            step=Step(puts=(after, *others)),
            items=(_item(after, action),),
            after=() if action == "delete" else (after,),
        )

    def _template(self, deployment: Deployment) -> Template:
        return Template(
            id=f"{deployment.id}.{deployment.generation}",
            created_at=self.now,
            updated_at=self.now,
            deployment_id=deployment.id,
            generation=deployment.generation,
            container=deployment.spec.container,
            placement=deployment.spec.placement,
        )


def _created(project: str, name: str, spec: DeploymentSpec, writer: _Writer) -> Changes:
    deployment = Deployment(
        id=f"{name}-{writer.new_id()}",
        created_at=writer.now,
        updated_at=writer.now,
        project=project,
        name=name,
        spec=spec,
    )
    return writer.write(deployment, "create", template=True)


def _item(deployment: Deployment, action: Action) -> DeployedItem:
    return DeployedItem(
        path=deployment.path, action=action, replicas=0 if action == "delete" else deployment.spec.replicas
    )
