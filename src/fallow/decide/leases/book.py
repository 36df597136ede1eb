"""Giving out leases: an address, host ports and a port for the agent, none of them anybody else's.

Without any pool the address is where the machine called from. A `direct` pool says which such addresses are ours. A
`wireguard` pool has addresses of its own, and gives the lowest free one.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fallow.decide.leases.index import LeaseIndex
from fallow.decide.pools import Address, PoolRefused, address_of, exhausted, first_and_last, network_of, utc
from fallow.decide.snapshot import Snapshot
from fallow.model.members import Lease, Role
from fallow.model.pools import DEFAULT_AGENT_PORT, NetworkMode, Pool, PortRange

DEFAULT_POOL = "default"
_ALL_PORTS = PortRange()
_CREATE_OVERLAY = "fallow pool create NAME --cidr 10.86.0.0/16 --mode wireguard"


class LeaseRefused(PoolRefused):
    """No lease can be given; says why and what to do next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseDefaults:
    """What counts where there is no pool."""

    host_ports: PortRange = _ALL_PORTS
    host_ports_per_node: int = 1000
    agent_port: int = DEFAULT_AGENT_PORT


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseWish:
    """Who wants a lease: `source_address` is where it called from; `address` and `pool` are asked for, or empty."""

    role: Role
    source_address: str
    address: str = ""
    pool: str = ""


class LeaseBook:
    """What can be leased at `now` (UTC seconds), and what has been given since: ask for every member of one commit.

    With `before`, an earlier book that is not used any more, only what differs since is looked at, and what that one
    gave without its being stored is free again.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        now: float,
        defaults: LeaseDefaults = LeaseDefaults(),
        before: "LeaseBook | None" = None,
    ) -> None:
        self._snapshot = snapshot
        self._now = now
        self._defaults = defaults
        self._given: dict[str, tuple[Lease, str]] = {}  # and from where its member called
        self._count = 0
        self._pools_used: dict[str, Pool] = {}
        self._index = LeaseIndex() if before is None else before._handed_over()
        self._index.bring(snapshot, now)

    def _handed_over(self) -> LeaseIndex:
        for lease, _ in list(self._given.values()):
            self.give_back(lease)
        return self._index

    @property
    def guards(self) -> tuple[Pool, ...]:
        """Return the pools that leases were given of: they must not change until these are stored."""
        return tuple(self._pools_used.values())

    def allocate(self, wish: LeaseWish) -> Lease:
        """Give a lease, and remember it. Raises LeaseRefused."""
        source = _parsed(wish.source_address)
        wished = _parsed(wish.address) if wish.address else None
        self._check_source(source)
        pool = self._pool_for(wish, source)
        if pool is not None and pool.deleting:
            raise LeaseRefused(
                "pool-ends", "Pool being deleted", f"pool {pool.id} is being deleted just now", "try again in a minute"
            )
        if pool is not None and pool.mode is NetworkMode.WIREGUARD:
            lease = self._overlay_lease(pool, source, wished)
        else:
            lease = self._direct_lease(pool, wish.role, source, wished)
        self._count += 1
        key = f"given {self._count}"  # no member's id has a blank
        self._given[key] = lease, str(source)
        self._index.hold(key, wish.role, lease, str(source))
        if pool is not None:
            self._pools_used[pool.id] = pool
        return lease

    def give_back(self, lease: Lease) -> None:
        """Take back a lease that was given and will not be stored."""
        key = next(key for key, (given, _) in self._given.items() if given == lease)
        _, source = self._given.pop(key)
        self._index.drop(key, lease, source)

    def _pool_for(self, wish: LeaseWish, source: Address) -> Pool | None:
        """Return the pool that was named, else the one that is meant; None: there is none. Raises LeaseRefused."""
        pools = self._snapshot.pools
        if wish.pool:
            if wish.pool not in pools:
                raise LeaseRefused(
                    "pool-unknown",
                    "Unknown pool",
                    f"there is no pool {wish.pool[:40]!r}; there are {_names(pools) or 'none'}",
                    f"fallow pool create {wish.pool[:40]} --cidr CIDR; or ask for another",
                )
            return pools[wish.pool]
        if len(pools) == 1 and wish.role is Role.NODE:
            return next(iter(pools.values()))
        fit = {name: pool for name, pool in pools.items() if _takes(pool, source)}
        if DEFAULT_POOL in fit:
            return fit[DEFAULT_POOL]
        direct = [pool for pool in fit.values() if pool.mode is NetworkMode.DIRECT]
        if direct or len(fit) == 1:
            return next(iter(direct or fit.values()))
        if not pools or (not fit and wish.role is not Role.NODE):
            return None  # a gateway may stand outside the networks of nodes
        if not fit:
            raise LeaseRefused(
                "pool-none-fits",
                "In no pool",
                f"{source} is in none of the pools {_names(pools)}",
                "let the machine call from an address of one of them; or add one: fallow pool create NAME --cidr CIDR",
            )
        raise LeaseRefused(
            "pool-unclear",
            "Which pool?",
            f"each of {_names(fit)} could give an address, and none is called {DEFAULT_POOL}",
            "name one with the token, or when joining",
        )

    def _check_source(self, source: Address) -> None:
        """Refuse who calls from inside an overlay: a tunnel cannot run inside itself, and the address is another's."""
        for pool in self._snapshot.pools.values():
            if pool.mode is NetworkMode.WIREGUARD and source in network_of(pool.cidr):
                raise LeaseRefused(
                    "source-in-overlay",
                    "Called from inside an overlay",
                    f"the request came from {source}, an address of pool {pool.id} ({pool.cidr})",
                    "join from the machine's own address; take down what is left of an earlier overlay first",
                )

    def _direct_lease(self, pool: Pool | None, role: Role, source: Address, wished: Address | None) -> Lease:
        if pool is not None and source not in network_of(pool.cidr):
            raise LeaseRefused(
                "address-outside-pool",
                "Not an address of the pool",
                f"the request came from {source}, and pool {pool.id} has {pool.cidr}",
                "let the machine call from an address of the pool; or add one: fallow pool create NAME --cidr CIDR",
            )
        if wished is not None and wished != source:
            raise LeaseRefused(
                "address-not-its-own",
                "Not its own address",
                f"{wished} is asked for, and the request came from {source}; without an overlay an address is where "
                "a machine calls from",
                f"ask for none; or for an address of an overlay: {_CREATE_OVERLAY}",
            )
        rules = pool or self._defaults
        address = str(source)
        block = self._host_ports(address, rules.host_ports, rules.host_ports_per_node) if role is Role.NODE else None
        return Lease(
            address=address,
            host_ports=block or rules.host_ports,
            agent_port=self._agent_port(address, rules.agent_port, rules.host_ports),
            pool=pool.id if pool is not None else "",
            prefix_length=network_of(pool.cidr).prefixlen if pool is not None else 0,
        )

    def _overlay_lease(self, pool: Pool, source: Address, wished: Address | None) -> Lease:
        network = network_of(pool.cidr)
        if wished is not None:
            self._check_wished(pool, wished)
        address = str(wished) if wished is not None else self._index.lowest_free(pool.id, network)
        if address is None:
            resting = [lease.until for lease in self._snapshot.released_leases.values() if lease.pool == pool.id]
            detail, hint = exhausted(pool, self._index.used[pool.id], resting, self._now)
            raise LeaseRefused("pool-exhausted", "No addresses left", detail, hint)
        return Lease(
            address=address,
            host_ports=pool.host_ports,
            agent_port=self._overlay_port(pool, str(source)),
            pool=pool.id,
            mode=pool.mode,
            prefix_length=network.prefixlen,
        )

    def _check_wished(self, pool: Pool, wished: Address) -> None:
        """Refuse an address that cannot be given. Raises LeaseRefused."""
        network = network_of(pool.cidr)
        if wished not in network:
            raise LeaseRefused(
                "address-outside-pool",
                "Not an address of the pool",
                f"{wished} is asked for, and pool {pool.id} has {pool.cidr}",
                "ask for an address of the pool, or for none",
            )
        first, last = first_and_last(network)
        if not first <= int(wished) <= last:
            raise LeaseRefused(
                "address-reserved",
                "Reserved address",
                f"{wished} is the network's own, the broadcast or the control plane's address of {pool.cidr}",
                "ask for another, or for none",
            )
        text = str(wished)
        resting = self._index.resting(text)
        if resting:
            raise LeaseRefused(
                "address-quarantined",
                "Address in quarantine",
                f"{wished} was given up by {resting[0].member}; nobody gets it before {utc(resting[0].until)}",
                "wait, ask for another, or for none",
            )
        if not self._index.is_free(text):
            members = self._snapshot.members
            holder = next((members[id_].name for id_ in self._index.holders(text) if id_ in members), "")
            raise LeaseRefused(
                "address-taken",
                "Address taken",
                f"{wished} is the address of {holder or 'a machine that joins just now'}",
                f"ask for another, or for none; fallow pool leases {pool.id} shows all",
            )

    def _host_ports(self, address: str, whole: PortRange, size: int) -> PortRange:
        """Return the lowest block of ports that no other node of the address has or had until lately.

        Dead nodes keep theirs, since they may come back. Raises LeaseRefused.
        """
        held = [lease.host_ports for role, lease in self._index.holders(address).values() if role is Role.NODE]
        resting = [lease.host_ports for lease in self._index.resting(address)]
        block = _free_block([*held, *resting], whole, size)
        if block is None:
            also = f", {len(resting)} of them in quarantine" if resting else ""
            raise LeaseRefused(
                "ports-exhausted",
                "No host ports left",
                f"nodes at {address} have all blocks of {size} ports between {whole.first} and {whole.last}{also}",
                "remove nodes that are gone: fallow node list; or give each node fewer ports",
            )
        return block

    def _agent_port(self, address: str, first: int, whole: PortRange) -> int:
        """Return the lowest port from `first` on that no other member of the address has. Raises LeaseRefused."""
        taken = {lease.agent_port for _, lease in self._index.holders(address).values()}
        taken |= {lease.agent_port for lease in self._index.resting(address)}
        return _free_port(taken, first, whole, address)

    def _overlay_port(self, pool: Pool, source: str) -> int:
        """Return the lowest port that no other member of the overlay has which called from the same address.

        They are behind one NAT, or on one machine: there each port can lead to one of them. Raises LeaseRefused.
        """
        return _free_port(self._index.ports_behind(pool.id, source), pool.agent_port, pool.host_ports, source)


def _free_port(taken: Collection[int], first: int, whole: PortRange, address: str) -> int:
    for port in range(first, 65536):
        if port not in taken and not whole.first <= port <= whole.last:
            return port
    raise LeaseRefused(
        "ports-exhausted",
        "No agent ports left",
        f"members at {address} have all ports from {first} on",
        "remove members that are gone: fallow node list",
    )


def _takes(pool: Pool, source: Address) -> bool:
    """Say whether a pool could give a lease to who calls from `source`."""
    return pool.mode is NetworkMode.WIREGUARD or source in network_of(pool.cidr)


def _names(pools: Iterable[str]) -> str:
    return ", ".join(sorted(pools))


def _parsed(text: str) -> Address:
    try:
        return address_of(text)
    except ValueError as error:
        raise LeaseRefused("bad-address", "Not an address", str(error)[:120], "write it like 10.86.0.9") from error


def _free_block(taken: list[PortRange], whole: PortRange, size: int) -> PortRange | None:
    """Return the lowest block of `whole`, in steps of `size`, that touches none of `taken`."""
    first = whole.first
    for other in sorted(taken, key=lambda ports: ports.first):
        if other.first > first + size - 1:
            break
        if other.last >= first:
            first += -(-(other.last + 1 - first) // size) * size  # the next step behind it
    return PortRange(first=first, last=first + size - 1) if first + size - 1 <= whole.last else None
