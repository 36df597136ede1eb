"""Deployments: deploying an application, reading, scaling and deleting what came of it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of, may_read_values
from fallow.api.lists import DeploymentList
from fallow.api.lookups import check_match, deployment_called, etag
from fallow.api.problems import problems
from fallow.api.routes.members import IfMatch
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import refuse
from fallow.control.resolving import images_for_members
from fallow.control.rosters import guarded
from fallow.decide.compose import Application, parse_compose
from fallow.decide.deploy import Changes, changed, changes, check_ours, deleted
from fallow.decide.federation.foretell import foretell_shares
from fallow.decide.federation.founding import alone
from fallow.decide.federation.views import whole_view
from fallow.decide.generations import pinned
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.label_sets import spec_trouble
from fallow.decide.placement import foretell
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.decide.views import without_values
from fallow.model.deployments import (
    DeployedItem,
    DeploymentChange,
    DeploymentView,
    DeployRequest,
    DeployResult,
    Template,
)
from fallow.model.images import ResolvedImage
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of deployments."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/deployments/{project:str}/{name:str}"
    return (
        post("/v1/deploy", guards=operator, status_code=200, responses=problems(403, 409, 422, 502, body=True))(deploy),
        get("/v1/deployments", guards=viewer, responses=problems())(list_deployments),
        get(one, guards=viewer, responses=problems(404))(read_deployment),
        patch(one, guards=operator, responses=problems(404, 409, 412, body=True))(change_deployment),
        delete(one, guards=operator, status_code=202, responses=problems(404, 409, 412))(delete_deployment),
    )


async def deploy(services: Needs, request: Caller, data: JSONBody[DeployRequest]) -> DeployResult:
    """Make a Compose file the wish of its project, all of it or nothing; with `dry_run` only tell what would happen."""
    # A large file takes a second to read; everybody else need not wait for it.
    async with services.reading:
        application = await asyncio.to_thread(
            parse_compose, data.compose, project=data.project, variables=data.variables, env_files=data.env_files
        )
    actor = actor_of(request)
    for image in dict.fromkeys(spec.container.image for _, spec in application.deployments):
        await services.resolver.check(image, application.project)

    images = {} if data.dry_run else await _images(services, application)

    def decide() -> tuple[Step | None, Changes]:
        now = services.clock()
        _check_label_sets(services.cache.snapshot(), application)
        done = changes(services.cache.snapshot(), application, now, services.new_id, data.prune, actor)
        if data.dry_run or done.step is None:
            return None, done
        return guarded(services.cache, pinned(done.step, images), "deployments", now), done

    async with services.deploying:
        done = await commit_again(services.applier, decide)
    items = done.items
    if data.dry_run:
        async with services.reading:
            items = await asyncio.to_thread(
                _foretold,
                services.cache.snapshot(),
                application,
                items,
                services.clock(),
                (services.hub.usages(), services.hub.servers()),
            )
    return DeployResult(project=application.project, items=items, warnings=application.warnings, dry_run=data.dry_run)


async def list_deployments(services: Needs, request: Caller, project: FromQuery[str | None] = None) -> DeploymentList:
    """List deployments, all or those of one project; viewers see no values of environment variables."""
    snapshot = services.cache.snapshot()
    chosen = [found for found in snapshot.deployments.values() if project is None or found.project == project]
    chosen.sort(key=lambda found: found.path)
    return DeploymentList(
        revision=services.cache.revision,
        items=tuple(_shown(request, whole_view(snapshot, found)) for found in chosen),
    )


async def read_deployment(
    services: Needs, request: Caller, project: FromPath[str], name: FromPath[str]
) -> Response[DeploymentView]:
    """Read one deployment; viewers see no values of environment variables."""
    answer = _answer(services, project, name)
    answer.content = _shown(request, answer.content)
    return answer


async def change_deployment(
    services: Needs,
    request: Caller,
    project: FromPath[str],
    name: FromPath[str],
    data: JSONBody[DeploymentChange],
    if_match: IfMatch = None,
) -> Response[DeploymentView]:
    """Change how many replicas are wanted."""
    actor = actor_of(request)

    def decide() -> tuple[Step | None, None]:
        current = deployment_called(services.cache.snapshot(), project, name)
        check_match(current, if_match)
        check_ours(services.cache.snapshot(), current)
        if current.deleting:
            raise refuse(
                409,
                "deleting",
                "Still being deleted",
                f"{current.path} is being deleted",
                "deploy it again when it is gone",
            )
        if data.replicas is None:
            return None, None
        spec = msgspec.structs.replace(current.spec, replicas=data.replicas)
        return changed(current, spec, services.clock(), services.new_id, actor).step, None

    await commit_again(services.applier, decide)
    return _answer(services, project, name)


async def delete_deployment(
    services: Needs, request: Caller, project: FromPath[str], name: FromPath[str], if_match: IfMatch = None
) -> Response[DeploymentView]:
    """Begin to delete a deployment; it is gone when its last replica has stopped."""
    actor = actor_of(request)

    def decide() -> tuple[Step | None, DeploymentView]:
        snapshot = services.cache.snapshot()
        current = deployment_called(snapshot, project, name)
        check_match(current, if_match)
        check_ours(snapshot, current)
        done = deleted(current, services.clock(), services.new_id, actor)
        doomed = msgspec.structs.replace(current, deleting=True)
        return done.step, whole_view(snapshot, doomed)

    view = await commit_again(services.applier, decide)
    return Response(view, status_code=202)


def _shown(request: Caller, view: DeploymentView) -> DeploymentView:
    """Return the view as its reader may see it."""
    if may_read_values(request):
        return view
    spec = msgspec.structs.replace(view.spec, container=without_values(view.spec.container))
    return msgspec.structs.replace(view, spec=spec)


def _answer(services: Needs, project: str, name: str) -> Response[DeploymentView]:
    snapshot = services.cache.snapshot()
    found = deployment_called(snapshot, project, name)
    return Response(whole_view(snapshot, found), headers=etag(found.revision))


def _check_label_sets(snapshot: Snapshot, application: Application) -> None:
    """Refuse an application whose deployments name label sets that they cannot be placed by. Raises Refused (422)."""
    for name, spec in application.deployments:
        trouble = spec_trouble(spec, snapshot.label_sets)
        if trouble:
            raise refuse(422, "label-set", "Not a usable label set", f"{name}: {trouble}", "fallow label-set list")


async def _images(services: Needs, application: Application) -> Mapping[str, ResolvedImage]:
    """Return what the images of the generations stand for that an application makes, where members will run them."""
    snapshot, now = services.cache.snapshot(), services.clock()
    if alone(snapshot):
        return {}
    step = changes(snapshot, application, now, services.new_id).step
    made = {put.container.image for put in step.puts if isinstance(put, Template)} if step is not None else set()
    return await images_for_members(services.resolver, snapshot, made, application.project, now)


def _foretold(
    snapshot: Snapshot,
    application: Application,
    items: Sequence[DeployedItem],
    now: float,
    heard: tuple[Heard, HeardServers],
) -> tuple[DeployedItem, ...]:
    """Return the items with where their replicas would be: in which clusters, where there are several."""
    if snapshot.clusters:
        told = foretell_shares(snapshot, application.project, application.deployments, now)
    else:
        told = foretell(snapshot, application.project, application.deployments, now, *heard)
    found = []
    for item in items:
        future = told.get(item.path.partition("/")[2]) if item.action != "delete" else None
        if future is not None:
            places = {"clusters" if snapshot.clusters else "placements": dict(future.placements)}
            item = msgspec.structs.replace(  # noqa: PLW2901
                item, **places, unplaced=future.unplaced, reasons=future.reasons
            )
        found.append(item)
    return tuple(found)
