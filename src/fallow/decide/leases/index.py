"""What is leased and what is in quarantine, by address; brought from one snapshot to the next by what differs."""

import ipaddress
from collections import Counter
from collections.abc import Collection, Mapping

from fallow.decide.pools import Network, first_and_last
from fallow.decide.snapshot import Snapshot, differing
from fallow.model.members import Lease, Member, Role
from fallow.model.pools import NetworkMode, Pool, ReleasedLease


class LeaseIndex:
    """Answers what an address holds, and which is the lowest free one of a network, without a look at all members.

    `lowest` remembers for every overlay a number below which nothing is free; what becomes free lowers it.
    """

    def __init__(self) -> None:
        self.used: Counter[str] = Counter()  # pool -> leases
        self._at: dict[str, dict[str, tuple[Role, Lease]]] = {}  # address -> member id -> what it has
        self._resting: dict[str, dict[str, ReleasedLease]] = {}  # address -> id -> what was released
        self._behind: dict[tuple[str, str], Counter[int]] = {}  # overlay and address called from -> agents' ports
        self._lowest: dict[str, tuple[Network, int]] = {}
        self._members: Mapping[str, Member] = {}
        self._released: Mapping[str, ReleasedLease] = {}
        self._pools: Mapping[str, Pool] = {}
        self._now = 0.0

    def bring(self, snapshot: Snapshot, now: float) -> None:
        """Become what `snapshot` holds at `now` (UTC seconds)."""
        self._now = now
        if snapshot.pools is not self._pools:
            self._pools = snapshot.pools
            self._lowest.clear()
        self._bring_members(snapshot.machines)  # clusters have no lease
        self._bring_released(snapshot.released_leases)

    def _bring_members(self, members: Mapping[str, Member]) -> None:
        known = self._members
        for id_ in differing(members, known):
            before, member = known.get(id_), members.get(id_)
            was = (before.lease, before.observed_address) if before is not None else None
            if member is not None and was == (member.lease, member.observed_address):
                continue
            if before is not None:
                self.drop(id_, before.lease, before.observed_address)
            if member is not None:
                self.hold(id_, member.role, member.lease, member.observed_address)
        self._members = members

    def _bring_released(self, released: Mapping[str, ReleasedLease]) -> None:
        known = self._released
        if released is not known:
            for id_ in known.keys() - released.keys():
                self._wake(known[id_])
            for id_, lease in released.items():
                before = known.get(id_)
                if before is not lease:
                    if before is not None:
                        self._wake(before)
                    self._resting.setdefault(lease.address, {})[id_] = lease
            self._released = released
        for lease in released.values():
            if lease.until <= self._now:
                self._freed(lease.address)

    def hold(self, key: str, role: Role, lease: Lease, source: str) -> None:
        """Note what somebody has who called from `source`; `key` is a member's id, or stands for one."""
        self._at.setdefault(lease.address, {})[key] = (role, lease)
        self.used[lease.pool] += 1
        if lease.mode is NetworkMode.WIREGUARD:
            self._behind.setdefault((lease.pool, source), Counter())[lease.agent_port] += 1

    def drop(self, key: str, lease: Lease, source: str) -> None:
        """Forget what `hold` noted."""
        if lease.mode is NetworkMode.WIREGUARD:
            ports = self._behind[lease.pool, source]
            ports[lease.agent_port] -= 1
            if not ports[lease.agent_port]:
                del ports[lease.agent_port]
            if not ports:
                del self._behind[lease.pool, source]
        held = self._at[lease.address]
        del held[key]
        self.used[lease.pool] -= 1
        if not held:
            del self._at[lease.address]
            self._freed(lease.address)

    def ports_behind(self, pool: str, source: str) -> Collection[int]:
        """Return the agents' ports of an overlay's members that called from one address."""
        return self._behind.get((pool, source), ())

    def holders(self, address: str) -> Mapping[str, tuple[Role, Lease]]:
        """Return who has an address, by member id."""
        return self._at.get(address, {})

    def resting(self, address: str) -> list[ReleasedLease]:
        """Return what is in quarantine of an address."""
        return [lease for lease in self._resting.get(address, {}).values() if lease.until > self._now]

    def is_free(self, address: str) -> bool:
        """Say whether nobody has an address, and it is not in quarantine either."""
        return address not in self._at and not (address in self._resting and self.resting(address))

    def lowest_free(self, name: str, network: Network) -> str | None:
        """Return the lowest free address of the overlay `name`; None: there is none."""
        made = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
        first, last = first_and_last(network)
        number = self._lowest[name][1] if name in self._lowest else first
        while number <= last and not self.is_free(str(made(number))):
            number += 1
        self._lowest[name] = (network, number)
        return str(made(number)) if number <= last else None

    def _wake(self, lease: ReleasedLease) -> None:
        del self._resting[lease.address][lease.id]
        if not self._resting[lease.address]:
            del self._resting[lease.address]
        self._freed(lease.address)

    def _freed(self, text: str) -> None:
        if not self._lowest:
            return
        address = ipaddress.ip_address(text)
        for name, (network, lowest) in self._lowest.items():
            if address in network and int(address) < lowest:
                self._lowest[name] = (network, max(int(address), first_and_last(network)[0]))
