"""What every driver of an encrypted network can do.

A driver is for one member. What it makes outlives the process that made it, so that traffic goes on while the agent
is replaced; the next driver of the same member finds it and changes nothing that is right already.
"""

import ipaddress
from typing import Protocol

from fallow.model.network import NetworkPeer, NetworkReport, NetworkState, is_wireguard_key

MIN_PORT = 1


class NetworkError(Exception):
    """The network could not be made, read or removed; the text says why and what to do. It holds no secret."""


class Network(Protocol):
    """One encrypted network of one member."""

    async def apply(self, wanted: NetworkState) -> NetworkReport:
        """Make the network what is wanted and return it as it was read back.

        What is right already is not touched: packets of other peers are not lost, and a peer that was heard from
        lately keeps the endpoint it was heard at. Raises NetworkError; then the same call may be made again.
        """

    async def read(self) -> NetworkState | None:
        """Return what is in place, endpoints as they are used; None when there is nothing. Raises NetworkError.

        Of the lease it tells address, prefix length and port.
        """

    async def remove(self) -> None:
        """Leave nothing behind; does no harm when there is nothing. Raises NetworkError."""

    async def addresses(self) -> frozenset[str]:
        """Return every address of this machine. Raises NetworkError."""


def checked(wanted: NetworkState) -> NetworkState:
    """Return the state, addresses in their usual form and without what a driver could misread.

    Raises NetworkError for a lease that cannot be had and for a peer that is none.
    """
    try:
        ipaddress.ip_interface(f"{wanted.lease.address}/{length_of(wanted)}")
    except ValueError as error:
        raise NetworkError(f"the lease's address {wanted.lease.address!r} cannot be used: {error}") from error
    if not MIN_PORT <= wanted.lease.agent_port <= 65535:
        raise NetworkError(f"the lease names no port for the overlay (it says {wanted.lease.agent_port})")
    for peer in wanted.peers:
        _check_peer(peer)
    return wanted


def length_of(state: NetworkState) -> int:
    """Return the prefix length of the lease's network; an address that stands alone is a network of its own."""
    if state.lease.prefix_length:
        return state.lease.prefix_length
    return ipaddress.ip_address(state.lease.address).max_prefixlen


def network_of(state: NetworkState) -> str:
    """Return the network that is routed into the overlay: "10.86.0.0/16"."""
    return str(ipaddress.ip_interface(f"{state.lease.address}/{length_of(state)}").network)


def _check_peer(peer: NetworkPeer) -> None:
    """Raise NetworkError for a peer with something in it that is no key, no address or no endpoint."""
    try:
        if not is_wireguard_key(peer.key):
            raise ValueError("its key is no WireGuard key")
        ipaddress.ip_address(peer.address)
        if peer.endpoint:
            host, _, port = peer.endpoint.rpartition(":")
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            if not (port.isascii() and port.isdigit() and MIN_PORT <= int(port) <= 65535):
                raise ValueError(f"{peer.endpoint!r} names no port")
    except ValueError as error:
        raise NetworkError(f"the peer {peer.address!r} of the overlay cannot be used: {error}") from error
