"""Which names there are: a zone from what is stored, and what differs between two zones.

A zone is made from the one before: what has not changed is not looked at again, for any of ten thousand replicas may
change at any moment.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from operator import attrgetter

from fallow.decide.endpoints import endpoint_on
from fallow.decide.reverse import Reverse, zones_of
from fallow.decide.services import Service, Services, is_loopback, remote_services
from fallow.decide.services import services as services_of
from fallow.decide.snapshot import Snapshot, differing
from fallow.decide.zone import Zone
from fallow.model.deployments import Deployment, Replica
from fallow.model.members import Member, MemberState, Role
from fallow.model.names import DNS_PORT_VARIABLE, HostName, HostRole, NamesChange, ServiceEndpoint, ServiceName
from fallow.model.pools import Pool

Moved = tuple[Member | None, Member | None]  # before and after; None: it was not, or is no more

_ROLES: dict[Role, HostRole] = {Role.NODE: "node", Role.GATEWAY: "gateway"}
_NAMED = (MemberState.READY, MemberState.SUSPECT)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Names:
    """A zone, and the snapshot and the services it was made of."""

    zone: Zone
    snapshot: Snapshot
    services: Services = field(default_factory=Services)


def render(snapshot: Snapshot, domain: str, before: Names | None = None) -> Names:
    """Return the names of a snapshot; the zone is that of `before` when nothing about it is different.

    Members have names while they are ready or suspect; services have the endpoints on ready nodes only, those in other
    clusters too.
    """
    if before is None or before.zone.domain != domain:
        before = Names(zone=Zone(domain=domain, reverse=Reverse(domain=domain)), snapshot=Snapshot(revision=-1))
    old, then = before.zone, before.snapshot
    moved = _moved(snapshot, then)
    hosts, reverse = _hosts(moved, old.hosts), old.reverse
    servers = _servers(snapshot) if moved else old.servers
    pools = reverse.pools if snapshot.pools is then.pools else _pools(snapshot.pools.values())
    if hosts is not reverse.hosts or pools != reverse.pools:
        reverse = Reverse(domain=domain, hosts=hosts, pools=pools)
    known = Services()
    if snapshot.shares or remote_services(snapshot):
        known = services_of(snapshot, before.services)
    services = _services(snapshot, before, moved, known)
    same = hosts is old.hosts and services is old.services and reverse is old.reverse and servers == old.servers
    if same and old.revision:
        return Names(zone=old, snapshot=snapshot, services=known)
    zone = Zone(
        domain=domain, revision=snapshot.revision, hosts=hosts, services=services, reverse=reverse, servers=servers
    )
    return Names(zone=zone, snapshot=snapshot, services=known)


def whole(zone: Zone) -> NamesChange:
    """Return all of a zone, to be sent or kept."""
    return NamesChange(
        domain=zone.domain,
        revision=zone.revision,
        hosts=tuple(zone.hosts.values()),
        services=tuple(zone.services.values()),
        reverse=tuple(sorted(zone.reverse.pools)),
        servers=zone.servers,
    )


def difference(old: Zone, new: Zone) -> NamesChange:
    """Return what makes `new` of `old`, two zones of one domain; all of `new` when most of it is different."""
    hosts = tuple(host for key, host in new.hosts.items() if old.hosts.get(key) != host)
    services = tuple(found for key, found in new.services.items() if old.services.get(key) != found)
    if not old.revision or 2 * (len(hosts) + len(services)) > len(new.hosts) + len(new.services):
        return whole(new)
    return NamesChange(
        domain=new.domain,
        revision=new.revision,
        since=old.revision,
        hosts=hosts,
        services=services,
        gone_hosts=tuple(key for key in old.hosts if key not in new.hosts),
        gone_services=tuple(key for key in old.services if key not in new.services),
        reverse=tuple(sorted(new.reverse.pools)),
        servers=new.servers,
    )


def changed(zone: Zone | None, change: NamesChange) -> Zone:
    """Return a zone with a change made to it. Raises ValueError when the change is to another one."""
    hosts: dict[tuple[str, str], HostName] = {}
    services: dict[tuple[str, str], ServiceName] = {}
    if change.since:
        if zone is None or (zone.revision, zone.domain) != (change.since, change.domain):
            have = zone.revision if zone is not None else 0
            raise ValueError(f"a change of names at revision {change.since} came to those at revision {have}")
        hosts = {key: host for key, host in zone.hosts.items() if key not in set(change.gone_hosts)}
        services = {key: found for key, found in zone.services.items() if key not in set(change.gone_services)}
    hosts |= {(host.role, host.name): host for host in change.hosts}
    services |= {(found.project, found.name): found for found in change.services}
    return Zone(
        domain=change.domain,
        revision=change.revision,
        hosts=hosts,
        services=services,
        reverse=Reverse(domain=change.domain, hosts=hosts, pools=frozenset(change.reverse)),
        servers=change.servers,
    )


def _moved(snapshot: Snapshot, then: Snapshot) -> Sequence[Moved]:
    """Return the members that are not as they were, before and after."""
    now, before = snapshot.members, then.members
    return [(before.get(id_), now.get(id_)) for id_ in differing(now, before)]


def _hosts(moved: Sequence[Moved], before: Mapping[tuple[str, str], HostName]) -> Mapping[tuple[str, str], HostName]:
    """Return the names of members, which are unique; `before` itself when they are the same."""
    gone = {host for was, _ in moved if was is not None and (host := _host(was)) is not None}
    come = {host for _, now in moved if now is not None and (host := _host(now)) is not None}
    if gone == come:
        return before
    found = dict(before)
    for host in gone:
        found.pop((host.role, host.name), None)
    return found | {(host.role, host.name): host for host in sorted(come, key=lambda host: (host.role, host.name))}


def _host(member: Member) -> HostName | None:
    role = _ROLES.get(member.role)
    if role is None or member.state not in _NAMED or not _LABEL.fullmatch(member.name):
        return None
    address = _address(member.lease.address)
    return HostName(role, member.name, address) if address else None


def _servers(snapshot: Snapshot) -> tuple[str, ...]:
    """Return where whoever delegates our domain may ask: gateways that serve names at the port all resolvers ask."""
    ready = (_address(gateway.lease.address) for gateway in snapshot.live_gateways if dns_port(gateway) == "53")
    return tuple(sorted({address for address in ready if address}))


def dns_port(member: Member) -> str:
    """Return the port at which a gateway says it serves names; empty: it does not."""
    return next((found.value for found in member.variables if found.name == DNS_PORT_VARIABLE), "")


def _pools(pools: Iterable[Pool]) -> frozenset[str]:
    found: set[str] = set()
    for pool in pools:
        try:
            network = ipaddress.ip_network(pool.cidr, strict=False)
        except ValueError:
            continue  # stored by a release that knew another form: its addresses have zones of their own
        found.update(zones_of(network))
    return frozenset(found)


def _services(
    snapshot: Snapshot, before: Names, moved: Sequence[Moved], federated: Services
) -> Mapping[tuple[str, str], ServiceName]:
    """Return the names of services; those of `before` when they are the same."""
    then, old = before.snapshot, before.zone.services
    turned = _on_turned_nodes(snapshot, moved)
    listed, listed_then = snapshot.replicas_by_deployment, then.replicas_by_deployment
    found: dict[tuple[str, str], ServiceName] = {}
    same = True
    for id_, deployment in snapshot.deployments.items():
        key = (deployment.project, deployment.name)
        was = then.deployments.get(id_)
        known = old.get(key) if was is not None else None
        far, far_then = federated.by_id.get(id_), before.services.by_id.get(id_)
        unlike = id_ in turned or (far is not far_then and _elsewhere(far) != _elsewhere(far_then))
        if known is None or unlike or deployment is not was or listed.get(id_) is not listed_then.get(id_):
            service = _service(snapshot, deployment, then, known if not unlike else None, _elsewhere(far))
            if service is None:
                continue
            if service != known:
                known, same = service, False
        assert known is not None
        found[key] = known
    for service_id, other in federated.by_id.items():
        key = (other.project, other.name)
        if service_id not in snapshot.deployments and key not in found and all(map(_LABEL.fullmatch, key)):
            named = _named_elsewhere(other)
            same = same and old.get(key) == named
            found[key] = named
    return old if same and len(found) == len(old) else found


def _on_turned_nodes(snapshot: Snapshot, moved: Sequence[Moved]) -> set[str]:
    """Return the ids of deployments with replicas on nodes that became ready, or are it no more."""
    turned = [now or was for was, now in moved if _ready(was) != _ready(now)]
    return {
        replica.deployment_id
        for node in turned
        if node is not None
        for replica in snapshot.replicas_by_node.get(node.id, ())
    }


def _ready(member: Member | None) -> bool:
    return member is not None and member.state is MemberState.READY


def _service(
    snapshot: Snapshot,
    deployment: Deployment,
    then: Snapshot,
    known: ServiceName | None,
    far: tuple[ServiceEndpoint, ...],
) -> ServiceName | None:
    """Return the name of a service, if it can have one; `far` are its endpoints in other clusters.

    `known`: what it was in `then`, since when no node of its replicas has become ready or ceased to be it. Then only
    replicas that differ are looked at, for a service may have thousands of which one has changed.
    """
    if not _LABEL.fullmatch(deployment.name) or not _LABEL.fullmatch(deployment.project):
        return None
    listed = snapshot.replicas_by_deployment.get(deployment.id, [])
    if known is None:
        endpoints = _in_order([*_endpoints(snapshot, listed), *far])
    else:
        endpoints = _endpoints_since(snapshot, listed, then.replicas_by_deployment.get(deployment.id, []), known)
    ports = tuple(dict.fromkeys(port.key for port in deployment.spec.container.ports))
    return ServiceName(deployment.project, deployment.name, ports, endpoints)


def _endpoints_since(
    snapshot: Snapshot, listed: Sequence[Replica], listed_then: Sequence[Replica], known: ServiceName
) -> tuple[ServiceEndpoint, ...]:
    """Return the endpoints of a service that had those of `known` when its replicas were `listed_then`."""
    differs = [(then, now) for then, now in zip_longest(listed_then, listed) if then is not now]
    gone = {then.id for then, _ in differs if then is not None}
    come = _endpoints(snapshot, [now for _, now in differs if now is not None])
    kept = [endpoint for endpoint in known.endpoints if endpoint.replica not in gone]
    if not come and len(kept) == len(known.endpoints):
        return known.endpoints
    return _in_order([*kept, *come])


def _endpoints(snapshot: Snapshot, replicas: Iterable[Replica]) -> list[ServiceEndpoint]:
    return [
        ServiceEndpoint(replica.id, address, replica.host_ports)
        for replica in replicas
        if endpoint_on(snapshot, replica) is MemberState.READY
        and (address := _address(replica.address))
        and _LABEL.fullmatch(replica.id)
    ]


def _elsewhere(service: Service | None) -> tuple[ServiceEndpoint, ...]:
    """Return the endpoints of a service in other clusters, with their replicas' own names."""
    return tuple(
        ServiceEndpoint(found.id, address, found.ports)
        for group in (service.groups if service is not None else ())
        if group.cluster_id
        for found in group.ready
        if (address := _address(found.address)) and not is_loopback(address) and _LABEL.fullmatch(found.id)
    )


def _named_elsewhere(service: Service) -> ServiceName:
    """Return the name of a service that has replicas in other clusters only; its ports are those they publish."""
    endpoints = _elsewhere(service)
    ports = {key for endpoint in endpoints for key in endpoint.host_ports}
    return ServiceName(service.project, service.name, tuple(sorted(ports)), _in_order(endpoints))


def _in_order(endpoints: Iterable[ServiceEndpoint]) -> tuple[ServiceEndpoint, ...]:
    return tuple(sorted(endpoints, key=attrgetter("replica", "address")))


@lru_cache(maxsize=2**15)
def _address(text: str) -> str:
    """Return an address in the one way it is compared; empty when it is none that others could reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    return "" if "%" in text or address.is_unspecified or address.is_multicast else str(address)
