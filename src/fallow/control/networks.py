"""Tells every connected member of an overlay whom it may speak with: everybody when it connects, then what changes.

Everybody in a pool is told the same changes, so what a session was told is kept once for the pool, not once for each.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable

from fallow.control.hub import Hub, Link
from fallow.decide.network import in_overlay, name_servers_of, peer_of, peers_of, serves_names, state_of
from fallow.model.members import Lease, Member
from fallow.model.names import DEFAULT_DOMAIN
from fallow.model.network import NetworkPeer
from fallow.model.wire import ChangePeers, SetNetwork
from fallow.store.cache import Cache

PAUSE_SECONDS = 0.05  # what changes meanwhile is sent together
SHARE = 4  # after sending for so long we pause this many times as long: a fleet that joins must not fill our time


class Networks:
    """Remembers what the sessions of each pool were told. `domain` is that of their names."""

    def __init__(
        self, cache: Cache, hub: Hub, domain: str = DEFAULT_DOMAIN, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self._cache = cache
        self._hub = hub
        self._domain = domain
        self._pause_seconds = pause_seconds
        self._told: dict[str, dict[str, NetworkPeer]] = {}  # by pool, then by member id
        self._pools: dict[str, str] = {}  # in which pool each member was told to be
        self._name_servers: dict[str, dict[str, str]] = {}  # by pool, then by member id
        self._leases: dict[Link, Lease | None] = {}  # the lease of an overlay that each session was told

    def greet(self, link: Link) -> None:
        """Tell a session that has just opened, and whose member understands it, whom it may speak with."""
        member = self._cache.get("members", link.member_id)
        if isinstance(member, Member):
            self._leases[link] = None
            self._move(link, member)

    def closed(self, link: Link) -> None:
        """Forget a session that has ended."""
        self._leases.pop(link, None)

    async def run(self) -> None:
        """Send what changes until cancelled."""
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                begun = time.monotonic()
                self._send_changes({id_ for kind, id_ in changed if kind == "members"})
                await asyncio.sleep(max(self._pause_seconds, SHARE * (time.monotonic() - begun)))
        finally:
            subscription.close()

    def _peers(self, pool: str) -> dict[str, NetworkPeer]:
        """Return what the pool was told; of one that nobody asked for yet, what there is."""
        if pool not in self._told:
            self._told[pool] = peers_of(self._cache.snapshot(), pool)
            self._pools.update(dict.fromkeys(self._told[pool], pool))
            self._name_servers[pool] = name_servers_of(self._cache.snapshot(), pool)
        return self._told[pool]

    def _servers(self, pool: str) -> tuple[str, ...]:
        """Return where the pool was told that names are served, in an order that does not change."""
        return tuple(address for _, address in sorted(self._name_servers.get(pool, {}).items()))

    def _send_changes(self, member_ids: Iterable[str]) -> None:
        changed: dict[str, list[NetworkPeer]] = defaultdict(list)
        removed: dict[str, list[str]] = defaultdict(list)
        moved: list[tuple[Link, Member]] = []
        served = {pool: self._servers(pool) for pool in self._told}
        for id_ in sorted(member_ids):
            found = self._cache.get("members", id_)
            member = found if isinstance(found, Member) else None
            self._compare(id_, member, changed, removed)
            self._look_for_names(id_, member)
            link = self._hub.link(id_)
            if link in self._leases and member is not None:
                moved.append((link, member))
        news = {pool: servers for pool, before in served.items() if (servers := self._servers(pool)) != before}
        frames = {
            pool: ChangePeers(changed=tuple(changed[pool]), removed=tuple(removed[pool]), name_servers=news.get(pool))
            for pool in sorted(changed.keys() | removed.keys() | news.keys())
        }
        for link, lease in self._leases.items() if frames else ():
            if lease is not None and lease.pool in frames:
                link.send(frames[lease.pool])
        for link, member in moved:
            self._move(link, member)

    def _compare(
        self,
        id_: str,
        member: Member | None,
        changed: dict[str, list[NetworkPeer]],
        removed: dict[str, list[str]],
    ) -> None:
        """Note what the pool that a member was in, and the one it is in now, have to be told of it."""
        peer = peer_of(member) if member is not None else None
        pool = member.lease.pool if member is not None and peer is not None else ""
        was_in = self._pools.get(id_, "")
        before = self._told.get(was_in, {}).get(id_)
        if before is not None and (peer is None or pool != was_in or peer.key != before.key):
            del self._told[was_in][id_]
            removed[was_in].append(before.key)
        self._pools.pop(id_, None)
        if peer is None or pool not in self._told:
            return
        self._pools[id_] = pool
        if peer != self._told[pool].get(id_):
            self._told[pool][id_] = peer
            changed[pool].append(peer)

    def _look_for_names(self, id_: str, member: Member | None) -> None:
        """Note whether a member serves names, to which pool."""
        for servers in self._name_servers.values():
            servers.pop(id_, None)
        if member is not None and member.lease.pool in self._name_servers and serves_names(member):
            self._name_servers[member.lease.pool][id_] = member.lease.address

    def _move(self, link: Link, member: Member) -> None:
        """Tell a session its network if it is in another than it was told last, or not in one any more."""
        lease = member.lease if in_overlay(member) else None
        if lease == self._leases[link]:
            return
        self._leases[link] = lease
        pool = lease.pool if lease is not None else ""
        peers = self._peers(pool) if lease is not None else {}
        link.send(SetNetwork(state=state_of(member, peers, self._servers(pool), self._domain)))
