"""Pools: which networks may be one, which addresses of a network are given away, and how many are in use."""

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from fallow.decide.snapshot import Snapshot
from fallow.model.members import Lease
from fallow.model.pools import NetworkMode, Pool, PoolChange, PoolRequest, PoolUsage, PortRange

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_POOLS = 64
MOST = 2**53 - 1  # larger numbers are not safe in JSON
RESERVED = 2  # of an overlay: the network's own address, and the first host, which is the control plane's

# Where clouds tell a machine its secrets, beside the link-local addresses: whoever had one could pose as the cloud.
_METADATA = tuple(ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192"))
_SPECIAL = {
    "is loopback": ("127.0.0.0/8", "::1/128"),
    "is link-local": ("169.254.0.0/16", "fe80::/10"),
    "is multicast": ("224.0.0.0/4", "ff00::/8"),
    "is reserved": ("240.0.0.0/4", "0.0.0.0/8", "::/96", "::ffff:0:0/96"),
}
_WIDEST = {4: 8, 6: 32}
_NARROWEST = {4: 30, 6: 126}  # of an overlay: there must be an address left to give


class PoolRefused(Exception):  # noqa: N818 - an answer, not a fault
    """What was asked of pools cannot be; says why and what to do next."""

    def __init__(self, code: str, title: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.title = title
        self.detail = detail
        self.hint = hint


@lru_cache(maxsize=4 * MAX_POOLS)
def network_of(cidr: str) -> Network:
    """Return the network. Raises ValueError."""
    return ipaddress.ip_network(cidr)


def address_of(text: str) -> Address:
    """Return an address; one of IPv4 inside IPv6 is unwrapped. Raises ValueError, for one with a zone too."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} names a zone, which means nothing to others")
        return address.ipv4_mapped or address
    return address


def first_and_last(network: Network) -> tuple[int, int]:
    """Return the numbers of the first and the last address that an overlay's members get."""
    last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
    return int(network.network_address) + RESERVED, last


def size_of(pool: Pool) -> int:
    """Return how many addresses a pool has for members."""
    network = network_of(pool.cidr)
    if pool.mode is NetworkMode.WIREGUARD:
        first, last = first_and_last(network)
        return last - first + 1
    outside = 2 if network.version == 4 and network.prefixlen < 31 else 0
    return network.num_addresses - outside


def usages(snapshot: Snapshot, now: float) -> Mapping[str, PoolUsage]:
    """Return how much of every pool is in use at `now`, by its name."""
    used: Counter[str] = Counter()
    addresses: dict[str, set[str]] = {name: set() for name in snapshot.pools}
    for member in snapshot.members.values():
        if member.lease.pool in addresses:
            used[member.lease.pool] += 1
            addresses[member.lease.pool].add(member.lease.address)
    resting = Counter(lease.pool for lease in snapshot.released_leases.values() if lease.until > now)
    found = {}
    for name, pool in snapshot.pools.items():
        size = size_of(pool)
        # A machine's own address is never in quarantine, only ports of it are.
        kept = resting[name] if pool.mode is NetworkMode.WIREGUARD else 0
        free = max(0, size - len(addresses[name]) - kept)
        found[name] = PoolUsage(
            size=min(size, MOST), used=used[name], quarantined=resting[name], free=min(free, MOST)
        )  # fmt: skip
    return found


def new_pool(snapshot: Snapshot, request: PoolRequest, own: Iterable[Address], now: float, who: str) -> Pool:
    """Return the pool that was asked for, or the one there is when it is just that.

    `own` are the control plane's addresses. Raises PoolRefused.
    """
    network = _checked_network(request.cidr, request.mode)
    whole = PortRange(first=request.first_host_port, last=request.last_host_port)
    if not 1 <= request.host_ports_per_node <= whole.last - whole.first + 1:
        raise PoolRefused(
            "bad-request",
            "Too few host ports",
            f"{whole.first}-{whole.last} do not hold {request.host_ports_per_node} ports for one node",
        )
    _check_agent_port(request.agent_port, whole)
    pool = Pool(
        id=request.name,
        created_at=now,
        updated_at=now,
        cidr=str(network),
        mode=request.mode,
        agent_port=request.agent_port,
        host_ports=whole,
        host_ports_per_node=request.host_ports_per_node,
        quarantine_seconds=request.quarantine_seconds,
        created_by=who,
    )
    existing = snapshot.pools.get(pool.id)
    if existing is not None:
        return _the_same(existing, pool)
    if len(snapshot.pools) >= MAX_POOLS:
        raise PoolRefused(
            "too-many-pools", "Too many pools", f"there are {MAX_POOLS} already", "delete one: fallow pool list"
        )
    _check_place(snapshot, pool, own)
    return pool


def _the_same(existing: Pool, asked: Pool) -> Pool:
    """Return the pool there is when it has all the settings asked for. Raises PoolRefused."""
    settings = ("cidr", "mode", "agent_port", "host_ports", "host_ports_per_node", "quarantine_seconds")
    if all(getattr(existing, field) == getattr(asked, field) for field in settings):
        return existing
    raise PoolRefused(
        "name-taken",
        "Name taken",
        f"there is a pool {existing.id} already, with {existing.cidr} and other settings",
        f"choose another name; or change it: fallow pool resize {existing.id}, fallow pool change {existing.id}",
    )


def changed_pool(snapshot: Snapshot, pool: Pool, change: PoolChange, own: Iterable[Address], now: float) -> Pool:
    """Return the pool as it should be, the same when nothing changes. Raises PoolRefused."""
    after = pool
    if change.cidr is not None:
        network, before = _checked_network(change.cidr, pool.mode), network_of(pool.cidr)
        if network.version != before.version or not before.subnet_of(network):  # type: ignore[arg-type]
            raise PoolRefused(
                "pool-shrinks",
                "A pool can only grow",
                f"{network} does not contain all of {before}, from which addresses may be leased",
                f"give it a network that does, such as {_wider(before)}; or create another pool",
            )
        after = msgspec.structs.replace(after, cidr=str(network))
    if change.agent_port is not None:
        _check_agent_port(change.agent_port, pool.host_ports)
        after = msgspec.structs.replace(after, agent_port=change.agent_port)
    if change.quarantine_seconds is not None:
        after = msgspec.structs.replace(after, quarantine_seconds=change.quarantine_seconds)
    if after == pool:
        return pool
    _check_place(snapshot, after, own)
    return msgspec.structs.replace(after, updated_at=now)


def check_unused(snapshot: Snapshot, pool: Pool) -> None:
    """Refuse when members have leases of the pool. Raises PoolRefused."""
    names = sorted(member.name for member in snapshot.members.values() if member.lease.pool == pool.id)
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise PoolRefused(
            "pool-in-use",
            "Pool in use",
            f"{', '.join(names[:5])}{more} have addresses of pool {pool.id}",
            f"remove them first (fallow node remove NAME); fallow pool leases {pool.id} shows all",
        )


def _checked_network(text: str, mode: NetworkMode) -> Network:
    try:
        if "%" in text:
            raise ValueError(f"{text!r} names a zone")
        network = network_of(text.strip())
    except ValueError as error:
        raise PoolRefused("bad-request", "Not a network", _told(text, error), "write it like 10.86.0.0/16") from error
    special = _special(network, mode)
    if special:
        raise PoolRefused(
            "bad-request", "Not a network for machines", f"{network} {special}", "take a private one: 10.86.0.0/16"
        )
    widest, narrowest = _WIDEST[network.version], _NARROWEST[network.version]
    if network.prefixlen < widest:
        raise PoolRefused("bad-request", "Network too wide", f"{network} is wider than /{widest}")
    if mode is NetworkMode.WIREGUARD and network.prefixlen > narrowest:
        raise PoolRefused(
            "bad-request",
            "Network too small",
            f"{network} leaves no address to give: its first two are the network's and the control plane's",
            f"take at least a /{narrowest}",
        )
    return network


def _told(text: str, error: ValueError) -> str:
    """Return what is wrong with a network; the usual mistake is an address of a machine inside it."""
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return str(error)[:120]
    return str(error) if "%" in text else f"{text!r} has bits set behind its prefix; did you mean {meant}?"


def _special(network: Network, mode: NetworkMode) -> str:
    """Return why no machine of ours may have addresses of a network; empty: they may."""
    if network.prefixlen == 0:
        return "is every address there is"
    for words, texts in _SPECIAL.items():
        for special in map(ipaddress.ip_network, texts):
            if network.version == special.version and network.overlaps(special):
                inside = network.subnet_of(special)  # type: ignore[arg-type]
                return words if inside else f"contains {special}, which {words}"
    metadata = next((address for address in _METADATA if address in network), None)
    if mode is NetworkMode.WIREGUARD and metadata is not None:
        return f"contains {metadata}, where clouds serve metadata"
    return ""


def _check_agent_port(port: int, whole: PortRange) -> None:
    if whole.first <= port <= whole.last:
        raise PoolRefused(
            "bad-request",
            "Port for two things",
            f"the agent's port {port} is one of the host ports {whole.first}-{whole.last} of containers",
        )


def _check_place(snapshot: Snapshot, pool: Pool, own: Iterable[Address]) -> None:
    """Refuse a network that others have. Raises PoolRefused."""
    network = network_of(pool.cidr)
    for other in snapshot.pools.values():
        if other.id != pool.id and network.overlaps(network_of(other.cidr)):
            raise PoolRefused(
                "pool-overlaps", "Pools overlap", f"{network} and {other.cidr} of pool {other.id} share addresses"
            )
    if pool.mode is NetworkMode.DIRECT:
        return
    mine = next((address for address in own if address in network), None)
    if mine is not None:
        raise PoolRefused(
            "pool-has-control-plane",
            "The control plane's own network",
            f"{mine} is an address of the control plane: members of the overlay {network} could not reach it any more",
            "take a network that nobody uses yet",
        )
    for member in snapshot.machines.values():
        if member.lease.mode is NetworkMode.DIRECT and address_of(member.lease.address) in network:
            raise PoolRefused(
                "pool-has-members",
                "A network in use",
                f"{member.role} {member.name} has {member.lease.address} without the overlay {network}",
                "take a network that nobody uses yet",
            )


def _wider(network: Network) -> Network:
    return network.supernet() if network.prefixlen > _WIDEST[network.version] else network


def exhausted(pool: Pool, used: int, resting: Iterable[float], now: float) -> tuple[str, str]:
    """Return detail and hint of an exhausted overlay: `used` leases, and until when others are in quarantine."""
    network, ends = network_of(pool.cidr), sorted(until for until in resting if until > now)
    size = size_of(pool)
    parts = [f"{used} are leased"]
    if ends:
        parts.append(f"{len(ends)} in quarantine, the first until {utc(ends[0])}")
    others = size - used - len(ends)
    if others > 0:
        parts.append(f"{others} in use elsewhere")
    detail = f"pool {pool.id} ({network}) has {size} addresses: {'; '.join(parts)}"
    grow = f"; or let it grow: fallow pool resize {pool.id} --cidr {_wider(network)}"
    return detail, (
        f"add a pool: fallow pool create NAME --cidr CIDR --mode {pool.mode}{grow}; "
        "or remove nodes that are gone: fallow node list"
    )


def carries(lease: Lease, pool: Pool) -> bool:
    """Say whether a lease is as its pool has it by now: pools grow."""
    return lease.prefix_length == network_of(pool.cidr).prefixlen


def utc(seconds: float) -> str:
    """Return a moment for people."""
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
