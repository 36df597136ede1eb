"""Services: every deployment with its endpoints in all clusters, as this cluster knows them.

A host knows the endpoints of its members from their reports, a member those elsewhere from its host. Made from the
services of before: what has not changed is not looked at again, for any of ten thousand replicas may change at any
moment.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import msgspec

from fallow.decide.endpoints import endpoints_by_state
from fallow.decide.harvest.throttled import Weights, reweighed, weight_on
from fallow.decide.snapshot import Snapshot, differing
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment, Replica, RouteSpec
from fallow.model.hosts import HOST_ID, REGION_LABEL
from fallow.model.members import MemberState
from fallow.model.remotes import RemoteCluster, RemoteService
from fallow.model.shares import RemoteEndpoint, Share

_ASKED = (MemberState.READY, MemberState.SUSPECT, MemberState.DEAD)
# A cluster's id has no dot and a replica's is short: so `cluster.replica` is nobody else's id, and any proxy takes it.
_CLUSTER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_REPLICA_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PORT = re.compile(r"[1-9][0-9]{0,4}/(?:tcp|udp)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The endpoints of a service in one cluster, in order; `told` is how many replicas that is told to run.

    The last to be asked are `suspect`: their nodes are silent for a moment, or the whole cluster is (`silent`).
    """

    cluster_id: str = ""  # empty: this one
    region: str = ""
    told: int = 0
    silent: bool = False
    ready: tuple[RemoteEndpoint, ...] = ()
    suspect: tuple[RemoteEndpoint, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One deployment. `claimed_at`: the older of two keeps a route that both want. `own`: it is stored here."""

    id: str
    project: str
    name: str
    claimed_at: float
    routes: tuple[RouteSpec, ...] = ()
    groups: tuple[Group, ...] = ()
    own: bool = True

    @property
    def path(self) -> str:
        """Return `project/name`."""
        return f"{self.project}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Services:
    """All services by id, and the snapshot they were made of; `region` is this cluster's."""

    by_id: Mapping[str, Service] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)  # of nodes that are throttled
    region: str = ""
    snapshot: Snapshot = field(default_factory=lambda: Snapshot(revision=-1))


def services(snapshot: Snapshot, before: Services | None = None, weights: Weights | None = None) -> Services:
    """Return all services of a snapshot; those of `before` that are the same are the very same objects.

    `weights` are of nodes on lent capacity that are throttled.
    """
    weights = weights if weights is not None else {}
    if before is not None and before.snapshot is snapshot and (before.weights is weights or before.weights == weights):
        return before
    region = own_region(snapshot)
    if before is not None and (before.region != region or _clusters(before.snapshot) != _clusters(snapshot)):
        before = None
    then = before.snapshot if before is not None else Snapshot(revision=-1)
    known = before.by_id if before is not None else {}
    turned = _on_turned_nodes(snapshot, then) if before is not None else frozenset[str]()
    if before is not None and before.weights is not weights:
        turned |= reweighed(snapshot, weights, before.weights)
    remotes, remotes_then = remote_services(snapshot), remote_services(then)
    found: dict[str, Service] = {}
    for id_, deployment in snapshot.deployments.items():
        same = (
            id_ in known
            and id_ not in turned
            and then.deployments.get(id_) is deployment
            and remotes.get(id_) is remotes_then.get(id_)
            and snapshot.replicas_by_deployment.get(id_) is then.replicas_by_deployment.get(id_)
            and snapshot.shares_by_deployment.get(id_) is then.shares_by_deployment.get(id_)
        )
        found[id_] = (
            known[id_] if same else _own(snapshot, deployment, remotes.get(id_), _Here(region, weights), known.get(id_))
        )
    for id_, remote in remotes.items():
        if id_ not in found:
            same = remotes_then.get(id_) is remote and id_ in known and not known[id_].own
            found[id_] = known[id_] if same else _elsewhere(remote)
    return Services(by_id=found, weights=weights, region=region, snapshot=snapshot)


def own_region(snapshot: Snapshot) -> str:
    """Return the region this cluster lies in; empty: nobody said."""
    if (here := snapshot.clusters.get(HERE_ID)) is not None:
        return here.labels.get(REGION_LABEL, "")
    host = snapshot.hosts.get(HOST_ID)
    return host.labels.get(REGION_LABEL, "") if host is not None else ""


def remote_services(snapshot: Snapshot) -> Mapping[str, RemoteService]:
    """Return what the host has told of services elsewhere; nothing once it will not have us any more."""
    host = snapshot.hosts.get(HOST_ID)
    return snapshot.remote_services if host is not None and not host.refused else {}


def gateway_id(cluster_id: str, endpoint_id: str) -> str:
    """Return the id by which gateways know an endpoint: its own in this cluster, unlike any other's in another."""
    return f"{cluster_id}.{endpoint_id}" if cluster_id else endpoint_id


def is_elsewhere(endpoint_id: str) -> bool:
    """Say whether an endpoint that a gateway knows by this id lies in another cluster."""
    return "." in endpoint_id


def reachable_by_all(endpoint: RemoteEndpoint) -> bool:
    """Say whether what another cluster says of an endpoint can be given to gateways: text of its own choosing."""
    return bool(_REPLICA_ID.fullmatch(endpoint.id)) and is_address(endpoint.address)


@lru_cache(maxsize=2**15)
def is_address(text: str) -> bool:
    """Say whether a text is an address that others could reach."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not ("%" in text or address.is_unspecified or address.is_multicast)


@lru_cache(maxsize=2**15)
def is_loopback(text: str) -> bool:
    """Say whether an address is reached on its own machine only."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _clusters(snapshot: Snapshot) -> tuple[object, ...]:
    """Return all that services take from members that are clusters, and from the host."""
    host = snapshot.hosts.get(HOST_ID)
    states = [(id_, found.state, found.labels.get(REGION_LABEL, "")) for id_, found in snapshot.clusters.items()]
    return (host is not None and not host.refused, *sorted(states))


def _on_turned_nodes(snapshot: Snapshot, then: Snapshot) -> frozenset[str]:
    """Return the ids of deployments with replicas on nodes whose state is another one."""
    now, before = snapshot.nodes, then.nodes
    turned = (
        id_
        for id_ in differing(now, before)
        if id_ not in now or id_ not in before or now[id_].state is not before[id_].state
    )
    return frozenset(replica.deployment_id for id_ in turned for replica in snapshot.replicas_by_node.get(id_, ()))


class _Here(NamedTuple):
    """This cluster's region, and the weights of its nodes that are throttled."""

    region: str
    weights: Weights


def _own(
    snapshot: Snapshot, deployment: Deployment, remote: RemoteService | None, here: _Here, known: Service | None
) -> Service:
    groups = [_told_of(cluster) for cluster in remote.clusters] if remote is not None else []
    shares = snapshot.shares_by_deployment.get(deployment.id, ())
    groups += [group for share in shares if (group := _reported(snapshot, share)) is not None]
    groups.append(_here(snapshot, deployment, here, known))
    return Service(
        id=deployment.id,
        project=deployment.project,
        name=deployment.name,
        claimed_at=remote.deployed_at if remote is not None else deployment.created_at,
        routes=remote.routes if remote is not None else deployment.spec.routes,
        groups=_each_once(groups),
    )


def _elsewhere(remote: RemoteService) -> Service:
    return Service(
        id=remote.id, project=remote.project, name=remote.name, claimed_at=remote.deployed_at,
        routes=remote.routes, groups=_each_once(map(_told_of, remote.clusters)), own=False,
    )  # fmt: skip


def _each_once(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Return the groups by cluster; of two for one cluster the later counts."""
    found = {group.cluster_id: group for group in groups}
    return tuple(found[id_] for id_ in sorted(found))


def _here(snapshot: Snapshot, deployment: Deployment, here: _Here, known: Service | None) -> Group:
    """Return the endpoints on nodes of this cluster; those of `known` that are the same are the very same objects."""
    by_state = endpoints_by_state(snapshot, deployment.id)
    made = {found.id: found for group in known.groups[:1] for found in group.ready} if known is not None else {}
    return Group(
        region=here.region,
        told=deployment.replicas_here,
        ready=_endpoints(by_state[MemberState.READY], made, here.weights),
        suspect=_endpoints(by_state[MemberState.SUSPECT], {}, {}, suspect=True),
    )


def _endpoints(
    replicas: Iterable[Replica], made: Mapping[str, RemoteEndpoint], weights: Weights, suspect: bool = False
) -> tuple[RemoteEndpoint, ...]:
    return _in_order(
        found
        if (found := made.get(replica.id)) is not None
        and found.address == replica.address
        and found.ports == replica.host_ports
        and found.weight == weight_on(weights, replica.node_id)
        else RemoteEndpoint(
            id=replica.id,
            address=replica.address,
            ports=replica.host_ports,
            suspect=suspect,
            weight=weight_on(weights, replica.node_id),
        )
        for replica in replicas
    )


def _reported(snapshot: Snapshot, share: Share) -> Group | None:
    """Return what a member says of its share; None for a cluster that has nothing of it, or is this one.

    One that is dead may only be cut off, and serve on: it is asked, like a suspect one, while nobody else is ready. But
    it was told nothing that counts, and what has a fence has stopped.
    """
    cluster = snapshot.clusters.get(share.cluster_id)
    if cluster is None or share.cluster_id == HERE_ID or cluster.state not in _ASKED:
        return None
    dead = cluster.state is MemberState.DEAD
    deployment = snapshot.deployments.get(share.deployment_id)
    if dead and (deployment is None or deployment.spec.clusters.fence_seconds > 0):
        return None
    report = share.reported
    leaving = frozenset(report.leaving) if report is not None else frozenset[str]()
    endpoints = report.endpoints if report is not None else ()
    return _group(
        share.cluster_id,
        cluster.labels.get(REGION_LABEL, ""),
        cluster.state is not MemberState.READY,
        0 if dead else share.replicas,
        (found for found in endpoints if found.id not in leaving),
    )


def _told_of(cluster: RemoteCluster) -> Group:
    return _group(cluster.cluster_id, cluster.region, cluster.suspect, cluster.replicas, cluster.endpoints)


def _group(cluster_id: str, region: str, suspect: bool, told: int, endpoints: Iterable[RemoteEndpoint]) -> Group:
    if not _CLUSTER_ID.fullmatch(cluster_id):
        endpoints = ()
    sound = _in_order({found.id: _sound(found) for found in endpoints if reachable_by_all(found)}.values())
    return Group(
        cluster_id=cluster_id,
        region=region,
        told=told,
        silent=suspect,
        ready=() if suspect else tuple(found for found in sound if not found.suspect),
        suspect=sound if suspect else tuple(found for found in sound if found.suspect),
    )


def _sound(endpoint: RemoteEndpoint) -> RemoteEndpoint:
    """Return the endpoint without ports that are written in another way than ours."""
    if all(map(_PORT.fullmatch, endpoint.ports)):
        return endpoint
    ports = {key: port for key, port in endpoint.ports.items() if _PORT.fullmatch(key)}
    return msgspec.structs.replace(endpoint, ports=ports)


def _in_order(endpoints: Iterable[RemoteEndpoint]) -> tuple[RemoteEndpoint, ...]:
    return tuple(sorted(endpoints, key=lambda endpoint: endpoint.id))
