"""Routes, the proxy state rendered from them, and what gateways report back."""

from typing import Annotated, Literal

import msgspec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One address that serves a backend; `id` is the replica's, in another cluster with the cluster's id before it.

    One that is `backup` gets requests only while the gateway finds none of the others well.
    """

    id: str
    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    weight: Annotated[int, msgspec.Meta(ge=0, le=256)] = 100
    backup: bool = False


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints of one deployment's port; `key` is `project/deployment:port`."""

    key: str
    mode: Literal["http", "tcp"] = "http"
    endpoints: tuple[Endpoint, ...] = ()


class HttpRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for `host` whose path lies under `path` go to `backend`; the longest path wins."""

    host: str
    path: str
    backend: str


class TcpRoute(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to the gateway's port `listen` go to `backend`."""

    listen: int
    backend: str


class ProxyState(msgspec.Struct, frozen=True, kw_only=True):
    """All a gateway should do. `revision` is the store's at the time of rendering."""

    revision: int = 0
    http: tuple[HttpRoute, ...] = ()
    tcp: tuple[TcpRoute, ...] = ()
    backends: tuple[Backend, ...] = ()

    def same_content(self, other: "ProxyState") -> bool:
        """Say whether two states ask for the same, whatever their revisions."""
        return (self.http, self.tcp, self.backends) == (other.http, other.tcp, other.backends)


class BackendStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one backend on one gateway since it started."""

    key: str
    requests: int = 0  # for tcp: connections
    errors_5xx: int = 0
    connection_errors: int = 0
    retries: int = 0
    active: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    endpoints_up: int = 0


class ProxyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway does now: the newest revision it has applied, and endpoints still finishing requests."""

    applied_revision: int
    draining: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()  # endpoints not yet reachable from this gateway, so not in service
    backends: tuple[BackendStats, ...] = ()
    message: str = ""


class RouteView(msgspec.Struct, frozen=True, kw_only=True):
    """A route as the API shows it, with what all gateways report together.

    Requests are those of this cluster's `gateways`, errors also those that gateways of member clusters have answered;
    `clusters` are the ones that count.
    """

    kind: Literal["http", "tcp"]
    address: str  # "http://shop.example/cart" or "tcp port 5432"
    project: str
    deployment: str
    port: int
    endpoints: int
    requests: int = 0
    errors_5xx: int = 0
    gateways: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    conflict: str = ""  # why it is not served, when another route has the same address
