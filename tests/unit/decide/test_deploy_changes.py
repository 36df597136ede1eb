"""What storing an application changes: generations, templates, pruning."""

from collections.abc import Callable
from itertools import count

import msgspec
import pytest

from fallow.decide.compose import Application
from fallow.decide.deploy import Changes, StillDeletingError, changed, changes, deleted
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import Deployment, DeploymentSpec, PlacementPolicy, RouteSpec, Template
from fallow.model.events import Event

WEB = DeploymentSpec(replicas=2, container=ContainerSpec(image="web:1"))


def ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"x{next(numbers)}"


def application(**specs: DeploymentSpec) -> Application:
    return Application(project="shop", deployments=tuple(specs.items()), warnings=())


def stored(name: str, spec: DeploymentSpec = WEB, project: str = "shop", deleting: bool = False) -> Deployment:
    return Deployment(
        id=f"{project}-{name}",
        created_at=1,
        updated_at=1,
        revision=9,
        project=project,
        name=name,
        spec=spec,
        generation=4,
        deleting=deleting,
    )


def snapshot(*deployments: Deployment) -> Snapshot:
    return Snapshot(revision=9, deployments={found.id: found for found in deployments})


def kinds(done: Changes) -> list[type]:
    return [type(record) for record in (done.step.puts if done.step is not None else ())]


def test_deploy_creates_deployment_template_and_event() -> None:
    done = changes(snapshot(), application(web=WEB), 5.0, ids(), actor="api:me")
    assert done.step is not None
    deployment, template, told = done.step.puts
    assert isinstance(deployment, Deployment)
    assert isinstance(template, Template)
    assert isinstance(told, Event)
    assert (deployment.path, deployment.generation, deployment.revision, deployment.spec) == ("shop/web", 1, 0, WEB)
    assert (template.id, template.deployment_id, template.container) == (
        f"{deployment.id}.1",
        deployment.id,
        WEB.container,
    )
    assert (told.actor, told.reason, told.created_at) == ("api:me", "DeploymentCreated", 5.0)
    assert done.after == (deployment,)


def test_deploy_of_the_same_changes_nothing() -> None:
    done = changes(snapshot(stored("web")), application(web=WEB), 5.0, ids(), prune=True)
    assert (done.step, [item.action for item in done.items]) == (None, ["unchanged"])


@pytest.mark.parametrize(
    ("spec", "action", "generation"),
    [
        (msgspec.structs.replace(WEB, replicas=9), "scale", 4),
        (msgspec.structs.replace(WEB, routes=(RouteSpec(port=80),)), "scale", 4),
        (msgspec.structs.replace(WEB, container=ContainerSpec(image="web:2")), "update", 5),
        (msgspec.structs.replace(WEB, placement=PlacementPolicy(max_per_node=1)), "update", 5),
    ],
)
def test_only_container_and_placement_make_a_generation(spec: DeploymentSpec, action: str, generation: int) -> None:
    before = stored("web")
    done = changes(snapshot(before), application(web=spec), 5.0, ids())
    assert [item.action for item in done.items] == [action]
    (after,) = done.after
    assert (after.generation, after.revision, after.created_at, after.updated_at) == (generation, 9, 1, 5.0)
    assert kinds(done) == ([Deployment, Template, Event] if action == "update" else [Deployment, Event])
    assert changed(before, spec, 5.0, ids(), "api").step == done.step


def test_pruning_stays_within_the_project() -> None:
    now = snapshot(stored("web"), stored("old"), stored("old", project="other"), stored("gone", deleting=True))
    kept = changes(now, application(web=WEB), 5.0, ids())
    assert kept.step is None
    done = changes(now, application(web=WEB), 5.0, ids(), prune=True)
    assert [(item.path, item.action, item.replicas) for item in done.items] == [
        ("shop/web", "unchanged", 2),
        ("shop/old", "delete", 0),
    ]
    assert done.step is not None
    (doomed, _) = done.step.puts
    assert isinstance(doomed, Deployment)
    assert (doomed.path, doomed.deleting) == ("shop/old", True)
    assert [found.path for found in done.after] == ["shop/web"]


def test_what_is_being_deleted_cannot_be_deployed() -> None:
    with pytest.raises(StillDeletingError, match="shop/web is still being deleted"):
        changes(snapshot(stored("web", deleting=True)), application(db=WEB, web=WEB), 5.0, ids())
    assert deleted(stored("web", deleting=True), 5.0, ids(), "api").step is None
