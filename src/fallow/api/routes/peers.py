"""The processes of this control plane."""

from collections.abc import Sequence
from typing import Any

from litestar import get
from litestar.types import Guard

from fallow.api.lists import PeerList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.model.peers import Peer, PeerView
from fallow.model.tokens import ApiRole


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return the route of peers."""
    return (get("/v1/peers", guards=[guards[ApiRole.VIEWER]], responses=problems())(list_peers),)


async def list_peers(services: Needs) -> PeerList:
    """List the control-plane processes that share this one's store, and which of them leads."""
    found = [record for record in services.cache.records("peers").values() if isinstance(record, Peer)]
    found.sort(key=lambda peer: (peer.created_at, peer.id))
    leader = services.leadership.leader
    return PeerList(
        revision=services.cache.revision,
        items=tuple(_view(peer, leader, services.leadership.peer) for peer in found),
    )


def _view(peer: Peer, leader: Peer | None, own: Peer) -> PeerView:
    return PeerView(
        id=peer.id,
        url=peer.address.url,
        session_host=peer.address.session_host,
        session_port=peer.address.session_port,
        hostname=peer.hostname,
        region=peer.region,
        zone=peer.zone,
        version=peer.version,
        started_at=peer.created_at,
        leads=leader is not None and leader.id == peer.id,
        answers=peer.id == own.id,
    )
