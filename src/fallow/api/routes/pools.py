"""Pools: the networks that members get addresses of, and the leases that were given of them."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import LeaseList, PoolList
from fallow.api.lookups import check_match, etag
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.pools import PoolChange, PoolRequest, PoolView
from fallow.model.tokens import ApiRole

IfMatch = Annotated[str | None, HeaderParameter(name="If-Match")]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of pools."""
    viewer, admin = [guards[ApiRole.VIEWER]], [guards[ApiRole.ADMIN]]
    one = "/v1/pools/{name:str}"
    return (
        get("/v1/pools", guards=viewer, responses=problems())(list_pools),
        post("/v1/pools", guards=admin, responses=problems(409, body=True))(create_pool),
        get(one, guards=viewer, responses=problems(404))(read_pool),
        patch(one, guards=admin, responses=problems(404, 409, 412, body=True))(change_pool),
        delete(one, guards=admin, responses=problems(404, 409, 412))(delete_pool),
        get(f"{one}/leases", guards=viewer, responses=problems(404))(list_leases),
    )


async def list_pools(services: Needs) -> PoolList:
    """List pools, with how much of each is in use."""
    return PoolList(revision=services.cache.revision, items=services.pools.list())


async def read_pool(services: Needs, name: FromPath[str]) -> Response[PoolView]:
    """Read one pool."""
    return _answer(services.pools.read(name))


async def list_leases(services: Needs, name: FromPath[str]) -> LeaseList:
    """List the leases of a pool, those in quarantine too."""
    return LeaseList(revision=services.cache.revision, items=tuple(services.pools.leases(name)))


async def create_pool(
    services: Needs, request: Request[Any, Any, Any], data: JSONBody[PoolRequest]
) -> Response[PoolView]:
    """Create a pool. The same once more changes nothing."""
    return _answer(await services.pools.create(data, actor_of(request)), 201)


async def change_pool(
    services: Needs,
    request: Request[Any, Any, Any],
    name: FromPath[str],
    data: JSONBody[PoolChange],
    if_match: IfMatch = None,
) -> Response[PoolView]:
    """Let a pool grow, or change what later leases get."""
    check = partial(check_match, if_match=if_match)
    return _answer(await services.pools.change(name, data, actor_of(request), check))


async def delete_pool(
    services: Needs, request: Request[Any, Any, Any], name: FromPath[str], if_match: IfMatch = None
) -> None:
    """Delete a pool that no member has a lease of."""
    await services.pools.delete(name, actor_of(request), partial(check_match, if_match=if_match))


def _answer(view: PoolView, status: int = 200) -> Response[PoolView]:
    return Response(view, headers=etag(view.revision), status_code=status)
