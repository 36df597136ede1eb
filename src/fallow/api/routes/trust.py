"""Trust: which images each project may run."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, delete, get, put
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import TrustList
from fallow.api.lookups import etag
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.refusals import refuse
from fallow.model.tokens import ApiRole
from fallow.model.trust import TrustRequest, TrustView

Caller = Request[Any, Any, Any]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of trust."""
    viewer, admin = [guards[ApiRole.VIEWER]], [guards[ApiRole.ADMIN]]
    one = "/v1/trust/{project:str}"
    return (
        get("/v1/trust", guards=viewer, responses=problems())(list_trust),
        get(one, guards=viewer, responses=problems(404))(read_trust),
        put(one, guards=admin, responses=problems(409, 422, body=True))(set_trust),
        delete(one, guards=admin, responses=problems(404, 409))(remove_trust),
    )


async def list_trust(services: Needs) -> TrustList:
    """List the rules on images, by project."""
    return TrustList(revision=services.cache.revision, items=services.trust.views())


async def read_trust(services: Needs, project: FromPath[str]) -> Response[TrustView]:
    """Read which images a project may run."""
    found = services.trust.view(project)
    return Response(found, headers=etag(found.revision))


async def set_trust(
    services: Needs, request: Caller, project: FromPath[str], data: JSONBody[TrustRequest]
) -> Response[TrustView]:
    """Say which images a project may run: all of its rules at once."""
    if data.project != project:
        raise refuse(422, "bad-request", "Two projects", f"the body names {data.project}, the path {project[:80]!r}")
    found = await services.trust.set(data, actor_of(request))
    return Response(found, headers=etag(found.revision))


async def remove_trust(services: Needs, request: Caller, project: FromPath[str]) -> None:
    """Let a project run any image again."""
    await services.trust.remove(project, actor_of(request))
