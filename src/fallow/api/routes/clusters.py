"""Clusters: the members of a host, and how deployments are divided over them.

Labels, taints, scheduling and thresholds of a cluster are changed, and a cluster is removed, as those of any member.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from litestar import Response, get
from litestar.params import FromPath
from litestar.types import Guard

from fallow.api.lists import ClusterList
from fallow.api.lookups import cluster_called, deployment_called, etag
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.decide.federation.views import cluster_views, division_view
from fallow.decide.views import member_view
from fallow.model.clusters import ClusterView
from fallow.model.divisions import DivisionView
from fallow.model.members import Member
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of clusters."""
    viewer = [guards[ApiRole.VIEWER]]
    division = "/v1/deployments/{project:str}/{name:str}/division"
    return (
        get("/v1/clusters", guards=viewer, responses=problems())(list_clusters),
        get("/v1/clusters/{reference:str}", guards=viewer, responses=problems(404))(read_cluster),
        get(division, guards=viewer, responses=problems(404))(read_division),
    )


async def list_clusters(services: Needs) -> ClusterList:
    """List clusters, this one among them as soon as there is another."""
    members = services.cache.snapshot().clusters.values()
    return ClusterList(revision=services.cache.revision, items=_views(services, members))


async def read_cluster(services: Needs, reference: FromPath[str]) -> Response[ClusterView]:
    """Read one cluster by id or name."""
    snapshot = services.cache.snapshot()
    member = cluster_called(snapshot, reference)
    (view,) = _views(services, [member])
    return Response(view, headers=etag(member.revision))


async def read_division(services: Needs, project: FromPath[str], name: FromPath[str]) -> DivisionView:
    """Read how a deployment is divided over clusters, and how that came to be."""
    snapshot = services.cache.snapshot()
    return division_view(snapshot, deployment_called(snapshot, project, name))


def _views(services: Needs, members: Iterable[Member]) -> tuple[ClusterView, ...]:
    snapshot, hub = services.cache.snapshot(), services.hub
    connected = hub.connected()
    return cluster_views(
        snapshot,
        (
            member_view(snapshot, member, member.id in connected, hub.last_seen(member.id), hub.usage(member.id))
            for member in members
        ),
        services.settings.cluster_thresholds,
    )
