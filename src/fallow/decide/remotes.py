"""What a host tells its members of services elsewhere: endpoints and routes, never what containers are made of."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from fallow.decide.services import Service, Services, is_loopback
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import HERE_ID
from fallow.model.members import Member, MemberState
from fallow.model.portions import portions
from fallow.model.remotes import RemoteCluster, RemoteService

ENDPOINTS = 3000  # of one service that a member is told: as many as one record of any store holds
FRAME_BYTES = 2 * 1024 * 1024
FRAME_SERVICES = 1000

Offers = Mapping[str, RemoteService]  # by deployment id: all that could be told, to nobody in particular


def offers(found: Services, before: Services | None = None, known: Offers | None = None) -> Offers:
    """Return what members could be told; what is as it was in `known`, made of `before`, is the very same object."""
    old = before.by_id if before is not None and known is not None else {}
    known = known or {}
    made: dict[str, RemoteService] = {}
    for id_, service in found.by_id.items():
        if service.own:
            made[id_] = known[id_] if old.get(id_) is service else _offer(service, known.get(id_))
    return made


def offered(offer: RemoteService | None, cluster_id: str, alone: bool = False) -> RemoteService | None:
    """Return what one member is told: what lies in other clusters than its own; None: nothing.

    Endpoints at loopback addresses are for members that are `alone`: on this very machine. A service with routes is
    told without endpoints too: the answer is the same everywhere then, and so is the owner of an address.
    """
    if offer is None:
        return None
    others = tuple(
        cluster if alone else _abroad(cluster) for cluster in offer.clusters if cluster.cluster_id != cluster_id
    )
    if others != offer.clusters:
        offer = msgspec.structs.replace(offer, clusters=others)
    return offer if offer.routes or any(cluster.endpoints for cluster in offer.clusters) else None


def frames(services: Iterable[RemoteService]) -> Sequence[tuple[RemoteService, ...]]:
    """Return services in parts of which each fits into a frame; at least one part, even if it is empty."""
    return list(portions(services, FRAME_SERVICES, FRAME_BYTES)) or [()]


def listening(snapshot: Snapshot, connected: frozenset[str]) -> list[Member]:
    """Return the members whose gateways are waited for: clusters that are ready and have a session."""
    return [
        cluster
        for id_, cluster in snapshot.clusters.items()
        if id_ != HERE_ID and id_ in connected and cluster.state is MemberState.READY
    ]


def _abroad(cluster: RemoteCluster) -> RemoteCluster:
    """Return a cluster without the endpoints that only its own machine reaches; itself when there are none."""
    reached = tuple(found for found in cluster.endpoints if not is_loopback(found.address))
    whole = len(reached) == len(cluster.endpoints)
    return cluster if whole else msgspec.structs.replace(cluster, endpoints=reached)


def _offer(service: Service, known: RemoteService | None) -> RemoteService:
    kept = {cluster.cluster_id: cluster for cluster in known.clusters} if known is not None else {}
    most = ENDPOINTS // max(1, len(service.groups))
    clusters = []
    for group in service.groups:
        if group.cluster_id == HERE_ID:
            continue  # the host's of this cluster, which is a host itself
        endpoints = group.ready + group.suspect
        cluster = RemoteCluster(
            cluster_id=group.cluster_id or HERE_ID,
            region=group.region,
            suspect=group.silent,
            replicas=group.told,
            endpoints=endpoints[:most],
        )
        old = kept.get(cluster.cluster_id)
        clusters.append(old if old is not None and old == cluster else cluster)
    return RemoteService(
        id=service.id,
        created_at=service.claimed_at,
        updated_at=service.claimed_at,
        project=service.project,
        name=service.name,
        deployed_at=service.claimed_at,
        routes=service.routes,
        clusters=tuple(clusters),
    )
