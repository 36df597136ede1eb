"""Servers: machines that lend what their primary application leaves idle.

Labels and scheduling of a server are changed, and a server is removed, as those of any member.
"""

from collections.abc import Sequence
from typing import Any

from litestar import Response, get
from litestar.params import FromPath
from litestar.types import Guard

from fallow.api.lists import ServerList
from fallow.api.lookups import etag, server_called
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.decide.harvest.views import server_view, server_views
from fallow.model.servers import ServerView
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of servers."""
    viewer = [guards[ApiRole.VIEWER]]
    return (
        get("/v1/servers", guards=viewer, responses=problems())(list_servers),
        get("/v1/servers/{reference:str}", guards=viewer, responses=problems(404))(read_server),
    )


async def list_servers(services: Needs) -> ServerList:
    """List servers with what they said last of themselves, and how old that is."""
    snapshot = services.cache.snapshot()
    items = server_views(snapshot, services.hub.servers(), services.clock())
    return ServerList(revision=services.cache.revision, items=items)


async def read_server(services: Needs, reference: FromPath[str]) -> Response[ServerView]:
    """Read one server by id or name."""
    snapshot = services.cache.snapshot()
    server = server_called(snapshot, reference)
    view = server_view(snapshot, server, services.hub.servers().get(server.id), services.clock())
    return Response(view, headers=etag(server.revision))
