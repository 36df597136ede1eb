"""What goes on and why: routes, events, explanations."""

import heapq
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import get
from litestar.params import QueryParameter
from litestar.types import Guard

from fallow.api.lists import EventList, RouteList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.refusals import not_found
from fallow.decide.explain import explain
from fallow.decide.federation.failures import errors_elsewhere
from fallow.decide.routes import conflicts, render
from fallow.decide.views import route_views
from fallow.model.deployments import Explanation
from fallow.model.events import Event
from fallow.model.members import Role
from fallow.model.tokens import ApiRole

Filter = Annotated[str | None, QueryParameter(max_length=200)]
Since = Annotated[float | None, QueryParameter(ge=0, le=2**40)]
Limit = Annotated[int, QueryParameter(ge=1, le=10_000)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route that only tells."""
    viewer = [guards[ApiRole.VIEWER]]
    return (
        get("/v1/explain", guards=viewer, responses=problems(404))(explain_subject),
        get("/v1/routes", guards=viewer, responses=problems())(list_routes),
        get("/v1/events", guards=viewer, responses=problems())(list_events),
    )


async def explain_subject(services: Needs, subject: Annotated[str, QueryParameter(max_length=200)]) -> Explanation:
    """Explain a replica (by id), a deployment (`project/name`) or a member (by name): why it is as it is."""
    snapshot, heard = services.cache.snapshot(), services.hub.usages()
    found = explain(snapshot, subject, services.clock(), heard, services.hub.servers())
    if found is None:
        raise not_found(f"{subject!r}", "name a replica by its id, a deployment as project/name, a member by its name")
    return found


async def list_routes(services: Needs) -> RouteList:
    """List every route with what all gateways count for it, and why it is not served when it is not."""
    snapshot = services.cache.snapshot()
    gateways = [found.id for found in snapshot.members.values() if found.role is Role.GATEWAY]
    reports = {id_: report for id_ in gateways if (report := services.hub.proxy_report(id_)) is not None}
    elsewhere = errors_elsewhere(snapshot, services.hub.usages())
    return RouteList(
        revision=services.cache.revision,
        items=route_views(snapshot, reports, render(snapshot), conflicts(snapshot), elsewhere),
    )


async def list_events(
    services: Needs,
    subject: Filter = None,
    who: Filter = None,
    since: Since = None,
    limit: Limit = 200,
) -> EventList:
    """List the newest events, newest last.

    `subject` is an id, a name or `project/name`; `who` an actor, with or without its kind; `since` UTC seconds.
    """
    records = [found for found in services.cache.records("events").values() if isinstance(found, Event)]
    chosen = (
        found
        for found in records
        if (subject is None or subject in (found.subject, found.subject_id))
        and (who is None or who in (found.actor, found.actor.partition(":")[2]))
        and (since is None or found.created_at >= since)
    )
    # Events of one millisecond are in the order they were stored in.
    newest = heapq.nlargest(limit, chosen, key=lambda found: (found.created_at, found.revision, found.id))
    return EventList(revision=services.cache.revision, items=tuple(reversed(newest)))
