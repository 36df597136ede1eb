"""Where requests go: what every gateway should do, which routes lose a conflict, and when a replica may stop.

A backend is one port of one deployment, in one mode: a port that is reached both by http and by tcp routes gives two
backends with the same key, told apart by their mode.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from fallow.decide.endpoints import endpoints_by_state
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Deployment, Replica, ReplicaState, RouteSpec
from fallow.model.members import MemberState
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyReport, ProxyState, TcpRoute

DRAIN_SECONDS = 30.0
WEIGHT = 100
SUSPECT_WEIGHT = 1

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PATH = re.compile(r"/[A-Za-z0-9._~%+:@=,/!$&()*-]*")


def render(snapshot: Snapshot) -> ProxyState:
    """Return what every gateway should do, in an order that depends on nothing but the content.

    An endpoint is a healthy replica on a ready node. Where a backend has none of those, healthy replicas on suspect
    nodes stay, with the least weight: they may well still answer, and without them every request certainly fails.
    """
    http: list[HttpRoute] = []
    tcp: list[TcpRoute] = []
    wanted: dict[tuple[str, str], tuple[Deployment, int]] = {}
    for deployment, route, loses in _claims(snapshot):
        if loses:
            continue
        key = backend_key(deployment, route)
        wanted[(key, route.kind)] = (deployment, route.port)
        if route.kind == "http":
            host, path = _place(route)
            http.append(HttpRoute(host=host, path=path, backend=key))
        else:
            tcp.append(TcpRoute(listen=_listen(route), backend=key))
    backends = [
        Backend(key=key, mode="http" if kind == "http" else "tcp", endpoints=_endpoints(snapshot, deployment, port))
        for (key, kind), (deployment, port) in wanted.items()
    ]
    return ProxyState(
        revision=snapshot.revision,
        http=tuple(sorted(http, key=lambda found: (found.host, found.path))),
        tcp=tuple(sorted(tcp, key=lambda found: found.listen)),
        backends=tuple(sorted(backends, key=lambda found: (found.key, found.mode))),
    )


def conflicts(snapshot: Snapshot) -> Mapping[tuple[str, RouteSpec], str]:
    """Return why a route is not served, by deployment path and route: mostly an older deployment has its address."""
    return {(deployment.path, route): loses for deployment, route, loses in _claims(snapshot) if loses}


def withdrawn(
    snapshot: Snapshot,
    reports: Mapping[str, ProxyReport],
    now: float,
    waited: Mapping[str, float],
    drain_seconds: float = DRAIN_SECONDS,
) -> Plan:
    """Move leaving replicas on to stopping once no gateway sends them requests; `reports` are by gateway id.

    `waited` says for how many seconds each leaving replica has been waited for, by a clock that nobody sets; absent: 0.
    Every ready gateway must have applied a state that no longer names the replica, and must have finished its
    requests. Gateways that are not ready are not waited for, and after `drain_seconds` none is. That its deployment has
    no routes any more says nothing: gateways may not know it yet.
    """
    gateways = [reports.get(gateway.id) for gateway in snapshot.live_gateways]
    steps: list[Step] = []
    waits: list[float] = []
    for replica in leaving(snapshot):
        left = drain_seconds - waited.get(replica.id, 0.0)
        if left > 0 and replica.host_ports and not all(_done(replica, report) for report in gateways):
            waits.append(left)
            continue
        stopping = msgspec.structs.replace(replica, state=ReplicaState.STOPPING, state_since=now, updated_at=now)
        steps.append(Step(puts=(stopping,)))
    return Plan(steps=tuple(steps), wake_after_seconds=min(waits, default=None))


def leaving(snapshot: Snapshot) -> list[Replica]:
    """Return the replicas that are being withdrawn, by id."""
    # Filtered before it is sorted: this runs after every change of any of ten thousand replicas.
    found = [replica for replica in snapshot.replicas.values() if replica.state is ReplicaState.LEAVING]
    return sorted(found, key=lambda replica: replica.id)


def backend_key(deployment: Deployment, route: RouteSpec) -> str:
    """Return the key of the backend a route leads to: `project/deployment:port`."""
    return f"{deployment.path}:{route.port}"


def address_of(route: RouteSpec) -> str:
    """Return what only one route may have, as people write it: `http://shop.example/cart`, `tcp port 5432`."""
    if route.kind == "tcp":
        return f"tcp port {_listen(route)}"
    host, path = _place(route)
    return f"http://{host or '*'}{path}"


def _claims(snapshot: Snapshot) -> Iterator[tuple[Deployment, RouteSpec, str]]:
    """Yield every wished route, oldest deployment first, and why it is not served (empty when it is)."""
    owners: dict[str, tuple[Deployment, RouteSpec]] = {}
    for deployment in sorted(snapshot.deployments.values(), key=lambda found: (found.created_at, found.id)):
        for route in dict.fromkeys(deployment.spec.routes):
            fault = _fault(route)
            address = address_of(route)
            owner, first = (deployment, route) if fault else owners.setdefault(address, (deployment, route))
            if fault:
                yield deployment, route, fault
            elif owner is not deployment:
                yield deployment, route, f"{address} belongs to {owner.path}, which is older"
            elif first.port != route.port:
                yield deployment, route, f"{address} leads to port {first.port} already"
            elif first is route:
                yield deployment, route, ""


def _fault(route: RouteSpec) -> str:
    """Return why no gateway could serve the route; what is stored was checked, but maybe by an older version."""
    if route.kind == "tcp":
        return ""
    host, path = _place(route)
    if host and (len(host) > 253 or not _HOST.fullmatch(host)):
        return "its host is not a DNS name"
    if len(path) > 255 or not _PATH.fullmatch(path):
        return "its path has characters that no route may have, or more than 255"
    return ""


def _place(route: RouteSpec) -> tuple[str, str]:
    """Return host and path in the one way they are compared: host in lower case, no slash at the path's end."""
    return route.host.lower().removesuffix("."), route.path.rstrip("/") or "/"


def _listen(route: RouteSpec) -> int:
    return route.listen or route.port


def _endpoints(snapshot: Snapshot, deployment: Deployment, port: int) -> tuple[Endpoint, ...]:
    by_state = endpoints_by_state(snapshot, deployment.id)
    ready = _served(by_state[MemberState.READY], port, WEIGHT)
    return ready or _served(by_state[MemberState.SUSPECT], port, SUSPECT_WEIGHT)


def _served(replicas: Iterable[Replica], port: int, weight: int) -> tuple[Endpoint, ...]:
    return _sorted(
        Endpoint(id=replica.id, address=replica.address, port=host_port, weight=weight)
        for replica in replicas
        if (host_port := replica.host_ports.get(f"{port}/tcp"))
    )


def _sorted(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(sorted(endpoints, key=lambda endpoint: endpoint.id))


def _done(replica: Replica, report: ProxyReport | None) -> bool:
    return report is not None and report.applied_revision >= replica.revision and replica.id not in report.draining
