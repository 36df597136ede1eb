"""Generations of a deployment: renewing, going back, pausing, and what there was."""

from collections.abc import Callable, Sequence
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import GenerationList
from fallow.api.lookups import check_match, deployment_called, etag
from fallow.api.problems import problems
from fallow.api.routes.members import IfMatch
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import refuse
from fallow.control.resolving import images_for_members
from fallow.decide.deploy import check_ours
from fallow.decide.generations import Author, NoSuchGenerationError, history, pinned, restarted, rolled_back
from fallow.decide.plan import Step
from fallow.decide.slots import slots_of
from fallow.decide.snapshot import Snapshot
from fallow.decide.updates import NothingUnderWayError, paused, resumed
from fallow.decide.views import deployment_view
from fallow.model.deployments import Deployment, DeploymentView, RollbackRequest
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of generations and updates."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/deployments/{project:str}/{name:str}"
    refusals = (404, 409, 412)
    return (
        get(f"{one}/history", guards=viewer, responses=problems(404))(read_history),
        post(f"{one}/restart", guards=operator, status_code=200, responses=problems(*refusals))(restart),
        post(f"{one}/rollback", guards=operator, status_code=200, responses=problems(404, 409, 412, body=True))(
            rollback
        ),
        post(f"{one}/pause", guards=operator, status_code=200, responses=problems(*refusals))(pause),
        post(f"{one}/resume", guards=operator, status_code=200, responses=problems(*refusals))(resume),
    )


async def read_history(services: Needs, project: FromPath[str], name: FromPath[str]) -> GenerationList:
    """List the generations of a deployment that are kept, newest first."""
    snapshot = services.cache.snapshot()
    found = deployment_called(snapshot, project, name)
    return GenerationList(revision=services.cache.revision, items=history(snapshot, found))


async def restart(
    services: Needs, request: Caller, project: FromPath[str], name: FromPath[str], if_match: IfMatch = None
) -> Response[DeploymentView]:
    """Renew every replica by one of the same, in portions as an update does.

    Each call is another renewal; with `If-Match` a call that is repeated is refused (412).
    """
    change = _Change(services, request, project, name, if_match)
    snapshot = services.cache.snapshot()
    image = deployment_called(snapshot, project, name).spec.container.image
    images = await images_for_members(services.resolver, snapshot, {image}, project, services.clock())
    return await change.make(lambda _, current, author: pinned(restarted(current, author), images))


async def rollback(
    services: Needs,
    request: Caller,
    project: FromPath[str],
    name: FromPath[str],
    data: JSONBody[RollbackRequest],
    if_match: IfMatch = None,
) -> Response[DeploymentView]:
    """Make an earlier generation wanted again, as a new one; without `to` the last that was good."""
    change = _Change(services, request, project, name, if_match)
    return await change.make(lambda snapshot, current, author: rolled_back(snapshot, current, data.to, author))


async def pause(
    services: Needs, request: Caller, project: FromPath[str], name: FromPath[str], if_match: IfMatch = None
) -> Response[DeploymentView]:
    """Stop the update under way from taking further steps; scaling goes on."""
    change = _Change(services, request, project, name, if_match)
    return await change.make(lambda _, current, author: paused(current, author))


async def resume(
    services: Needs, request: Caller, project: FromPath[str], name: FromPath[str], if_match: IfMatch = None
) -> Response[DeploymentView]:
    """Let a paused update go on; what has failed until now no longer counts against it."""
    change = _Change(services, request, project, name, if_match)
    return await change.make(
        lambda snapshot, current, author: resumed(slots_of(snapshot, current, author.now, author.new_id), author)
    )


class _Change:
    """A change of one deployment that is decided from the newest snapshot, again when others were quicker."""

    def __init__(self, services: Needs, request: Caller, project: str, name: str, if_match: str | None) -> None:
        self._services = services
        self._actor = actor_of(request)
        self._called = project, name
        self._if_match = if_match

    async def make(self, decide: Callable[[Snapshot, Deployment, Author], Step | None]) -> Response[DeploymentView]:
        """Commit what `decide` returns and answer the deployment. Raises Refused."""
        services = self._services

        def attempt() -> tuple[Step | None, None]:
            snapshot = services.cache.snapshot()
            current = deployment_called(snapshot, *self._called)
            check_match(current, self._if_match)
            check_ours(snapshot, current)
            if current.deleting:
                text, hint = f"{current.path} is being deleted", "deploy it again when it is gone"
                raise refuse(409, "deleting", "Still being deleted", text, hint)
            author = Author(services.clock(), services.new_id, self._actor)
            try:
                return decide(snapshot, current, author), None
            except NoSuchGenerationError as error:
                hint = f"fallow deployment history {current.path}"
                raise refuse(409, "no-such-generation", "Nothing to go back to", str(error), hint) from error
            except NothingUnderWayError as error:
                hint = f"fallow deployment show {current.path}"
                raise refuse(409, "no-update", "No update under way", str(error), hint) from error

        await commit_again(services.applier, attempt)
        snapshot = services.cache.snapshot()
        found = deployment_called(snapshot, *self._called)
        return Response(deployment_view(snapshot, found), headers=etag(found.revision))
