"""Registries: making them known with their logins, which are never told again, and trying them."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import RegistryList
from fallow.api.lookups import etag
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.registries import RegistryCheck, RegistryRequest, RegistryView
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of registries."""
    viewer, operator, admin = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]], [guards[ApiRole.ADMIN]]
    one = "/v1/registries/{host:str}"
    return (
        get("/v1/registries", guards=viewer, responses=problems())(list_registries),
        get(one, guards=viewer, responses=problems(404))(read_registry),
        post("/v1/registries", guards=admin, responses=problems(409, 422, body=True))(add_registry),
        delete(one, guards=admin, responses=problems(404, 409))(remove_registry),
        post(f"{one}/test", guards=operator, status_code=200, responses=problems(404))(check_registry),
    )


async def list_registries(services: Needs) -> RegistryList:
    """List registries, by host, without passwords."""
    return RegistryList(revision=services.cache.revision, items=services.registries.views())


async def read_registry(services: Needs, host: FromPath[str]) -> Response[RegistryView]:
    """Read one registry, without its password."""
    found = services.registries.view(host)
    return Response(found, headers=etag(found.revision))


async def add_registry(services: Needs, request: Caller, data: JSONBody[RegistryRequest]) -> Response[RegistryView]:
    """Make a registry known, or replace all that is known of it."""
    found = await services.registries.add(data, actor_of(request))
    return Response(found, headers=etag(found.revision), status_code=201)


async def remove_registry(services: Needs, request: Caller, host: FromPath[str]) -> None:
    """Forget a registry and its login."""
    await services.registries.remove(host, actor_of(request))


async def check_registry(services: Needs, host: FromPath[str]) -> RegistryCheck:
    """Try whether a registry that is known answers the control plane, and takes its login."""
    return await services.registries.check(services.registries.view(host).host)
