"""Where requests go: what every gateway should do, which routes lose a conflict, and when a replica may stop.

A backend is one port of one service, in one mode: a port that is reached both by http and by tcp routes gives two
backends with the same key, told apart by their mode.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from fallow.decide.harvest.throttled import FULL, Weights
from fallow.decide.plan import Plan, Step
from fallow.decide.services import Group, Service, Services, gateway_id, is_loopback, own_region, services
from fallow.decide.snapshot import Snapshot
from fallow.model.deployments import Replica, ReplicaState, RouteSpec
from fallow.model.hosts import HOST_ID, REGION_LABEL
from fallow.model.members import Member
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyReport, ProxyState, TcpRoute
from fallow.model.shares import RemoteEndpoint

DRAIN_SECONDS = 30.0
ANSWER_SECONDS = 5.0  # so much longer than its gateways may take, a host may take to say that they are done
WEIGHT = 100
SUSPECT_WEIGHT = 1

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PATH = re.compile(r"/[A-Za-z0-9._~%+:@=,/!$&()*-]*")


class Place(NamedTuple):
    """Where a gateway stands; gateways at the same place do the same.

    `alone`: it is known by a loopback address, so all it should reach is on its own machine.
    """

    region: str
    alone: bool


_Reached = tuple[str, str, int, int]  # id, address, port, and the weight it should have of a full one


class _Wanted(NamedTuple):
    key: str
    mode: Literal["http", "tcp"]
    service_id: str
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Served:
    """The routes that are served, in order, and the backends they lead to."""

    http: tuple[HttpRoute, ...]
    tcp: tuple[TcpRoute, ...]
    wanted: tuple[_Wanted, ...]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What gateways should do, by the place where they stand, and what it was made of."""

    services: Services
    served: _Served
    states: Mapping[Place, ProxyState]


def render(snapshot: Snapshot, place: Place | None = None) -> ProxyState:
    """Return what gateways at a place should do; None: in this cluster's region.

    The order depends on nothing but the content.
    """
    place = place or Place(own_region(snapshot), alone=True)
    return render_all(snapshot, (place,)).states[place]


def render_all(
    snapshot: Snapshot, places: Iterable[Place], before: Rendered | None = None, weights: Weights | None = None
) -> Rendered:
    """Return what gateways should do at each of some places; what is as it was `before` is not made again.

    `weights` are of nodes on lent capacity that are throttled.
    """
    weights = weights if weights is not None else {}
    same = before is not None and before.services.snapshot is snapshot and before.services.weights == weights
    if before is not None and same and set(places) <= before.states.keys():
        return before
    found = services(snapshot, before.services if before is not None else None, weights)
    old = before.services.by_id if before is not None else {}
    changed = {id_ for id_, service in found.by_id.items() if old.get(id_) is not service}
    gone = old.keys() - found.by_id.keys()
    if before is None or gone or any(_claim(found.by_id[id_]) != _claim(old.get(id_)) for id_ in changed):
        served, known = _serve(found.by_id), dict[Place, ProxyState]()
    else:
        served, known = before.served, dict(before.states)
    return Rendered(
        services=found,
        served=served,
        states={place: _state(found, served, place, known.get(place), changed) for place in places},
    )


def place_of(gateway: Member, region: str) -> Place:
    """Return where a gateway stands; in `region`, its cluster's, unless it is said to be in another."""
    return Place(gateway.labels.get(REGION_LABEL) or region, is_loopback(gateway.lease.address))


def conflicts(snapshot: Snapshot) -> Mapping[tuple[str, RouteSpec], str]:
    """Return why a route is not served, by deployment path and route: mostly an older deployment has its address."""
    found = services(snapshot).by_id
    return {(service.path, route): loses for service, route, loses in _claims(found.values()) if loses}


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What is known of gateways of other clusters.

    `applied`: of every member that is connected, up to which revision its gateways do what they should. `cleared`: ids
    of replicas that no gateway outside asks any more, by the host's word; None: there is no session with a host.
    """

    applied: Mapping[str, int] = field(default_factory=dict)
    cleared: Collection[str] | None = None


def withdrawn(
    snapshot: Snapshot,
    reports: Mapping[str, ProxyReport],
    now: float,
    waited: Mapping[str, float],
    drain_seconds: float = DRAIN_SECONDS,
    elsewhere: Elsewhere | None = None,
) -> Plan:
    """Move leaving replicas on to stopping once no gateway sends them requests; `reports` are by gateway id.

    `waited` says for how many seconds each leaving replica has been waited for, by a clock that nobody sets; absent: 0.
    Every ready gateway must have applied a state that no longer names the replica, and must have finished its
    requests. Gateways that are not ready are not waited for, and after `drain_seconds` none is. That its deployment has
    no routes any more says nothing: gateways may not know it yet.

    Those of other clusters count too. A replica of a deployment that is the host's waits for the host's word, a little
    longer than the drain: the host too waits for so long.
    """
    elsewhere = elsewhere or Elsewhere()
    gateways = [reports.get(gateway.id) for gateway in snapshot.live_gateways]
    steps: list[Step] = []
    waits: list[float] = []
    for replica in leaving(snapshot):
        own = unasked(replica.id, replica.revision, gateways)
        own = own and all(revision >= replica.revision for revision in elsewhere.applied.values())
        hosted = _hosted(snapshot, replica)
        cleared = not hosted or replica.id in (elsewhere.cleared or ())
        margin = ANSWER_SECONDS if own and hosted and elsewhere.cleared is not None else 0.0
        left = drain_seconds + margin - waited.get(replica.id, 0.0)
        if left > 0 and replica.host_ports and not (own and cleared):
            waits.append(left)
            continue
        stopping = msgspec.structs.replace(replica, state=ReplicaState.STOPPING, state_since=now, updated_at=now)
        steps.append(Step(puts=(stopping,)))
    return Plan(steps=tuple(steps), wake_after_seconds=min(waits, default=None))


def unasked(endpoint_id: str, revision: int, reports: Iterable[ProxyReport | None]) -> bool:
    """Say whether no gateway asks an endpoint any more that was taken away at `revision`.

    `reports` are those of all gateways that are waited for; None: one has not reported yet.
    """
    return all(
        report is not None and report.applied_revision >= revision and endpoint_id not in report.draining
        for report in reports
    )


def _hosted(snapshot: Snapshot, replica: Replica) -> bool:
    """Say whether the replica's deployment is the host's, whose gateways and other members may ask it.

    One that is fenced nobody has asked for long: the host has taken this cluster for dead. A host that will not have
    this cluster any more sends nobody here.
    """
    deployment, host = snapshot.deployments.get(replica.deployment_id), snapshot.hosts.get(HOST_ID)
    ours = deployment is None or deployment.origin is None or deployment.origin.fenced
    return not ours and host is not None and not host.refused


def leaving(snapshot: Snapshot) -> list[Replica]:
    """Return the replicas that are being withdrawn, by id."""
    return sorted(snapshot.leaving.values(), key=lambda replica: replica.id)


def address_of(route: RouteSpec) -> str:
    """Return what only one route may have, as people write it: `http://shop.example/cart`, `tcp port 5432`."""
    if route.kind == "tcp":
        return f"tcp port {_listen(route)}"
    host, path = _place(route)
    return f"http://{host or '*'}{path}"


def _claim(service: Service | None) -> object:
    """Return all that decides which routes are served."""
    return service and (service.claimed_at, service.project, service.name, service.own, service.routes)


def _claims(found: Iterable[Service]) -> Iterator[tuple[Service, RouteSpec, str]]:
    """Yield every wished route, oldest service first, and why it is not served (empty when it is)."""
    owners: dict[str, tuple[Service, RouteSpec]] = {}
    for service in sorted(found, key=lambda service: (service.claimed_at, service.id)):
        for route in dict.fromkeys(service.routes):
            fault = _fault(route)
            address = address_of(route)
            owner, first = (service, route) if fault else owners.setdefault(address, (service, route))
            if fault:
                yield service, route, fault
            elif owner is not service:
                yield service, route, f"{address} belongs to {owner.path}, which is older"
            elif first.port != route.port:
                yield service, route, f"{address} leads to port {first.port} already"
            elif first is route:
                yield service, route, ""


def _serve(found: Mapping[str, Service]) -> _Served:
    """Return what is served. A key is `project/name:port`; of two services of one name one is the host's, elsewhere."""
    paths = Counter(service.path for service in found.values())
    http: list[HttpRoute] = []
    tcp: list[TcpRoute] = []
    wanted: dict[tuple[str, str], _Wanted] = {}
    for service, route, loses in _claims(found.values()):
        if loses:
            continue
        shared = not service.own and paths[service.path] > 1
        key = f"{service.path}@{service.id}:{route.port}" if shared else f"{service.path}:{route.port}"
        mode: Literal["http", "tcp"] = "http" if route.kind == "http" else "tcp"
        wanted[key, mode] = _Wanted(key, mode, service.id, route.port)
        if route.kind == "http":
            host, path = _place(route)
            http.append(HttpRoute(host=host, path=path, backend=key))
        else:
            tcp.append(TcpRoute(listen=_listen(route), backend=key))
    return _Served(
        http=tuple(sorted(http, key=lambda found: (found.host, found.path))),
        tcp=tuple(sorted(tcp, key=lambda found: found.listen)),
        wanted=tuple(sorted(wanted.values())),
    )


def _state(
    found: Services, served: _Served, place: Place, before: ProxyState | None, changed: Collection[str]
) -> ProxyState:
    """Return what gateways at a place should do; `before` serves the same routes, but for services that `changed`."""
    backends = before.backends if before is not None else ()
    if before is None or changed:
        made = (
            old
            if old is not None and wanted.service_id not in changed
            else Backend(
                key=wanted.key,
                mode=wanted.mode,
                endpoints=_endpoints(found.by_id[wanted.service_id].groups, wanted.port, place),
            )
            for wanted, old in zip(served.wanted, backends or (None,) * len(served.wanted), strict=True)
        )
        backends = tuple(made)
    return ProxyState(revision=found.snapshot.revision, http=served.http, tcp=served.tcp, backends=backends)


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


def _endpoints(groups: Iterable[Group], port: int, place: Place) -> tuple[Endpoint, ...]:
    """Return the endpoints of a port as gateways at a place should ask them.

    Those of its own region get the requests. When fewer than half of what that region was told to run is ready, the
    others get as much as is missing there, and all of it when nothing is ready there; otherwise they stand by, for a
    gateway that finds no endpoint of its region well. Suspect ones are asked when there are no others at all.
    """
    near = [group for group in groups if place.region in ("", group.region)]
    far = [group for group in groups if place.region not in ("", group.region)]
    ready, spare = (
        [found for group in side for found in _reached(group, group.ready, port, place)] for side in (near, far)
    )
    if not ready and not spare:
        last = [(*found[:3], FULL) for group in groups for found in _reached(group, group.suspect, port, place)]
        return _weighed((last, SUSPECT_WEIGHT, False))
    told = sum(group.told for group in near)
    if not ready or not spare:
        return _weighed((ready or spare, WEIGHT, False))
    if 2 * len(ready) >= told:
        return _weighed((ready, WEIGHT, False), (spare, WEIGHT, True))
    missing = WEIGHT * (told - len(ready)) // len(spare)
    return _weighed((ready, WEIGHT, False), (spare, max(1, min(WEIGHT, missing)), False))


def _reached(group: Group, endpoints: Iterable[RemoteEndpoint], port: int, place: Place) -> Iterator[_Reached]:
    """Yield the endpoints that publish a port, as gateways at a place know them."""
    key = f"{port}/tcp"
    for found in endpoints:
        at = found.ports.get(key)
        if at and (place.alone or not group.cluster_id or not is_loopback(found.address)):
            yield gateway_id(group.cluster_id, found.id), found.address, at, found.weight


def _weighed(*parts: tuple[Iterable[_Reached], int, bool]) -> tuple[Endpoint, ...]:
    endpoints = [
        Endpoint(id=id_, address=address, port=port, weight=max(1, weight * of_full // FULL), backup=backup)
        for part, weight, backup in parts
        for id_, address, port, of_full in part
    ]
    return tuple(sorted(endpoints, key=lambda endpoint: endpoint.id))
