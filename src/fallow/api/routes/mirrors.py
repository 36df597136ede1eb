"""Mirrors that we run: making, listing and deleting them."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, delete, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import MirrorList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.mirrors import MirrorRequest, MirrorView
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]
PATH = "/v1/registry-mirrors"


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of mirrors."""
    viewer, admin = [guards[ApiRole.VIEWER]], [guards[ApiRole.ADMIN]]
    refusals = problems(403, 404, 409, 422, 502, body=True)
    return (
        get(PATH, guards=viewer, responses=problems())(list_mirrors),
        post(PATH, guards=admin, responses=refusals)(create_mirror),
        delete(PATH + "/{name:str}", guards=admin, responses=problems(404, 409))(delete_mirror),
    )


async def list_mirrors(services: Needs) -> MirrorList:
    """List the mirrors that we run, by name, with where each answers."""
    return MirrorList(revision=services.cache.revision, items=services.mirrors.views())


async def create_mirror(services: Needs, request: Caller, data: JSONBody[MirrorRequest]) -> MirrorView:
    """Run a mirror of a registry, or change the one of this name; nodes ask it first once it serves."""
    async with services.deploying:
        return await services.mirrors.create(data, actor_of(request))


async def delete_mirror(services: Needs, request: Caller, name: FromPath[str]) -> None:
    """Run a mirror no more: its registry is asked itself from now on."""
    await services.mirrors.delete(name, actor_of(request))
