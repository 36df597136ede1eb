"""The host of this cluster: joining it, leaving it, and how it is."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, delete, get, post
from litestar.params import FromQuery, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.hosts import HostRequest, HostView
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of the host."""
    viewer, admin = [guards[ApiRole.VIEWER]], [guards[ApiRole.ADMIN]]
    return (
        get("/v1/host", guards=viewer, responses=problems(404))(read_host),
        post("/v1/host", guards=admin, status_code=200, responses=problems(409, 422, 502, body=True))(join_host),
        delete("/v1/host", guards=admin, status_code=204, responses=problems(404, 409))(leave_host),
    )


async def read_host(services: Needs) -> HostView:
    """Read whose member this cluster is, and whether they speak."""
    return services.hosts.view()


async def join_host(services: Needs, request: Request[Any, Any, Any], data: JSONBody[HostRequest]) -> HostView:
    """Become a member of a host with a join token of the role `cluster`; again with that host's token: stay it."""
    return await services.hosts.join(data, actor_of(request))


async def leave_host(services: Needs, request: Request[Any, Any, Any], remove: FromQuery[bool] = False) -> None:
    """Be a member no more. What runs for the host stays as this cluster's own, or goes with `remove`."""
    await services.hosts.leave(remove, actor_of(request))
