"""Who may speak with whom in an overlay: every member of a pool with every other, and with nobody else."""

import ipaddress
from collections.abc import Mapping

from fallow.decide.names import dns_port
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Member, MemberState, Role
from fallow.model.network import NetworkPeer, NetworkState
from fallow.model.pools import NetworkMode

_DNS_PORT = "53"  # where containers ask: their resolv.conf has no place for another


def in_overlay(member: Member) -> bool:
    """Say whether the member has a lease of an overlay and a key for it."""
    return member.lease.mode is NetworkMode.WIREGUARD and bool(member.lease.address and member.wireguard_key)


def peer_of(member: Member) -> NetworkPeer | None:
    """Return what the others of its pool are told of a member; None: nothing, or nothing any more.

    A dead member is withdrawn: what was placed there runs elsewhere by now. A suspect one is not, since its silence
    may be ours.
    """
    if not in_overlay(member) or member.state is MemberState.DEAD:
        return None
    return NetworkPeer(key=member.wireguard_key, address=member.lease.address, endpoint=_endpoint(member))


def peers_of(snapshot: Snapshot, pool: str) -> dict[str, NetworkPeer]:
    """Return the peers of a pool by member id."""
    found = ((id_, peer_of(member)) for id_, member in snapshot.members.items() if member.lease.pool == pool)
    return {id_: peer for id_, peer in found if peer is not None}


def serves_names(member: Member) -> bool:
    """Say whether containers of its pool may ask a member for names: a gateway that serves them where all ask."""
    return member.role is Role.GATEWAY and peer_of(member) is not None and dns_port(member) == _DNS_PORT


def name_servers_of(snapshot: Snapshot, pool: str) -> dict[str, str]:
    """Return the addresses where containers of a pool may ask for names, by member id."""
    found = ((id_, member) for id_, member in snapshot.gateways.items() if member.lease.pool == pool)
    return {id_: member.lease.address for id_, member in found if serves_names(member)}


def state_of(
    member: Member, peers: Mapping[str, NetworkPeer], name_servers: tuple[str, ...] = (), domain: str = ""
) -> NetworkState:
    """Return the network of a member among the peers of its pool; of one without overlay only its lease."""
    if not in_overlay(member):
        return NetworkState(lease=member.lease)
    return NetworkState(
        lease=member.lease,
        peers=tuple(peer for id_, peer in sorted(peers.items()) if id_ != member.id),
        name_servers=name_servers,
        domain=domain,
    )


def _endpoint(member: Member) -> str:
    """Return where a member is dialled: the address its session was seen to come from, and its lease's port."""
    if not member.session_address or not member.lease.agent_port:
        return ""
    host = ipaddress.ip_address(member.session_address)
    lease = member.lease
    # Beside a control plane, or through the overlay itself: others cannot dial it there, so it dials them.
    if host.is_loopback:
        return ""
    if lease.prefix_length and host in ipaddress.ip_interface(f"{lease.address}/{lease.prefix_length}").network:
        return ""
    return f"[{host}]:{lease.agent_port}" if host.version == 6 else f"{host}:{lease.agent_port}"
