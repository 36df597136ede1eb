"""Pools: where the addresses and ports of leases come from."""

import enum
from typing import Annotated

import msgspec

from fallow.model.meta import Name, Record

DEFAULT_AGENT_PORT = 8455

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PortCount = Annotated[int, msgspec.Meta(ge=1, le=65535)]
QuarantineSeconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)]
CidrText = Annotated[str, msgspec.Meta(max_length=64)]


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
    agent_port: int = DEFAULT_AGENT_PORT  # the first that is tried: TCP for what an agent serves, UDP for the overlay
    host_ports: PortRange = PortRange()
    host_ports_per_node: int = 1000
    quarantine_seconds: float = 3600.0  # a released address is not given away again for so long
    created_by: str = ""
    deleting: bool = False  # gives nothing any more: whoever deletes it is looking whether it is in use


class ReleasedLease(Record, frozen=True, kw_only=True):
    """A lease whose member is gone, in quarantine: until `until` (UTC seconds) nobody else is given the same.

    Of a `wireguard` pool that is the address; of a `direct` one the host ports and the agent's port at the address.
    """

    address: str
    pool: str
    mode: NetworkMode
    host_ports: PortRange
    agent_port: int
    member: str  # its name, for people
    until: float


class PoolRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a pool."""

    name: Name
    cidr: CidrText
    mode: NetworkMode = NetworkMode.DIRECT
    agent_port: PortNumber = DEFAULT_AGENT_PORT
    first_host_port: PortNumber = 20000
    last_host_port: PortNumber = 29999
    host_ports_per_node: PortCount = 1000
    quarantine_seconds: QuarantineSeconds = 3600.0


class PoolChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may change of a pool; None: stays. The new CIDR must contain the old one."""

    cidr: CidrText | None = None
    agent_port: PortNumber | None = None
    quarantine_seconds: QuarantineSeconds | None = None


class PoolUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a pool is in use; numbers of addresses stop at 2**53 - 1, the largest that JSON surely carries."""

    size: int  # addresses that can be given
    used: int  # leases
    quarantined: int  # leases whose members are gone, and that nobody else is given yet
    free: int


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as the API shows it."""

    name: str
    revision: int
    created_at: float
    created_by: str
    cidr: str
    mode: NetworkMode
    agent_port: int
    host_ports: PortRange
    host_ports_per_node: int
    quarantine_seconds: float
    usage: PoolUsage


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """One lease of a pool: a member's, or one in quarantine until `until` (UTC seconds; 0: it is held)."""

    address: str
    host_ports: PortRange
    agent_port: int
    member: str
    member_id: str = ""
    state: str  # leased, quarantined
    until: float = 0.0
