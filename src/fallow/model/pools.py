"""Pools: where the addresses and ports of leases come from."""

import enum

import msgspec

from fallow.model.meta import Record


class NetworkMode(enum.StrEnum):
    """How a member comes to have its lease's address."""

    DIRECT = "direct"  # a flat network: the address is the machine's own
    WIREGUARD = "wireguard"  # an encrypted overlay: the machine makes an interface with the address


class PortRange(msgspec.Struct, frozen=True, kw_only=True):
    """Host ports `first` to `last`, both included, that belong to a node."""

    first: int = 20000
    last: int = 29999


class Pool(Record, frozen=True, kw_only=True):
    """Addresses of one network, IPv4 or IPv6, that members get leases of. Its id is its name."""

    cidr: str
    mode: NetworkMode = NetworkMode.DIRECT
    agent_port: int = 8455  # the first that is tried: TCP for what an agent serves, UDP for the overlay
    host_ports: PortRange = PortRange()
    host_ports_per_node: int = 1000
    quarantine_seconds: float = 3600.0  # a released address is not given away again for so long
    created_by: str = ""
