"""Services of other clusters, as a member knows them: what its gateways need to lead requests there."""

from typing import Annotated

import msgspec

from fallow.model.deployments import RouteSpec
from fallow.model.meta import Name, Record
from fallow.model.shares import RemoteEndpoint

ClusterId = Annotated[str, msgspec.Meta(max_length=64)]


class RemoteCluster(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints of one service in one cluster, and the region the cluster lies in."""

    cluster_id: ClusterId
    region: Annotated[str, msgspec.Meta(max_length=63)] = ""
    suspect: bool = False  # nothing is heard of the cluster just now: the last to be asked
    replicas: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0  # it is told to run
    endpoints: Annotated[tuple[RemoteEndpoint, ...], msgspec.Meta(max_length=10_000)] = ()


class RemoteService(Record, frozen=True, kw_only=True):
    """A deployment of the host with the endpoints it has in clusters other than this one; its id is the deployment's.

    Kept in the member's own store, so that its gateways go on with it while the host is away.
    """

    project: Name
    name: Name
    deployed_at: float  # the older of two deployments keeps a route that both want
    routes: tuple[RouteSpec, ...] = ()
    clusters: tuple[RemoteCluster, ...] = ()
    host_revision: int = 0  # of what the host sent
