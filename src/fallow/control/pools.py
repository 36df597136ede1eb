"""Pools: creating, changing and deleting them, and the loop that lets leases follow a pool that grows."""

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import msgspec

from fallow.control.commits import commit_again
from fallow.control.ids import new_id
from fallow.control.refusals import Refused, not_found, refuse
from fallow.control.rosters import guarded
from fallow.control.runner import Controller
from fallow.control.settings import Settings
from fallow.decide.events import event
from fallow.decide.leases import follow_pools, leases_of
from fallow.decide.plan import Step
from fallow.decide.pools import (
    Address,
    PoolRefused,
    changed_pool,
    check_unused,
    new_pool,
    size_of,
    usages,
)
from fallow.model.events import Event
from fallow.model.meta import Record
from fallow.model.peers import Peer
from fallow.model.pools import LeaseView, Pool, PoolChange, PoolRequest, PoolUsage, PoolView
from fallow.store.applier import Applier
from fallow.store.cache import Cache

_MALFORMED = frozenset({"bad-request", "bad-address"})


class Pools:
    """Changes pools. `clock` gives UTC seconds; `check` of a call may refuse the pool it is about to change.

    Whoever gives a lease guards the pool's record, so no lease is given of a pool as it no longer is.
    """

    def __init__(self, cache: Cache, applier: Applier, settings: Settings, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._applier = applier
        self._settings = settings
        self._clock = clock

    def list(self) -> tuple[PoolView, ...]:
        """Return every pool, by name."""
        snapshot = self._cache.snapshot()
        use = usages(snapshot, self._clock())
        return tuple(_view(pool, use[name]) for name, pool in sorted(snapshot.pools.items()))

    def read(self, name: str) -> PoolView:
        """Return one pool. Raises Refused (404)."""
        snapshot = self._cache.snapshot()
        return _view(self._called(name), usages(snapshot, self._clock())[name])

    def leases(self, name: str) -> Sequence[LeaseView]:
        """Return a pool's leases, by address. Raises Refused (404)."""
        return leases_of(self._cache.snapshot(), self._called(name).id, self._clock())

    async def create(self, request: PoolRequest, actor: str) -> PoolView:
        """Create a pool; the same once more changes nothing. Raises Refused."""

        def decide() -> tuple[Step | None, None]:
            snapshot, now = self._cache.snapshot(), self._clock()
            try:
                pool = new_pool(snapshot, request, self._own(), now, actor)
            except PoolRefused as refused:
                raise refused_pool(refused) from refused
            if pool is snapshot.pools.get(pool.id):
                return None, None
            told = self._told(now, actor, pool, "PoolCreated", f"pool {pool.id} is created: {pool.mode}, {pool.cidr}")
            return self._guarded(Step(puts=(pool, told)), now), None

        await commit_again(self._applier, decide)
        return self.read(request.name)

    async def change(
        self, name: str, change: PoolChange, actor: str, check: Callable[[Record], None] = lambda _: None
    ) -> PoolView:
        """Let a pool grow, or change what later leases get. Raises Refused."""

        def decide() -> tuple[Step | None, None]:
            snapshot, now = self._cache.snapshot(), self._clock()
            pool = self._called(name)
            check(pool)
            try:
                after = changed_pool(snapshot, pool, change, self._own(), now)
            except PoolRefused as refused:
                raise refused_pool(refused) from refused
            if after is pool:
                return None, None
            words = f"pool {pool.id} has {size_of(after)} addresses in {after.cidr}"
            told = self._told(now, actor, pool, "PoolChanged", words)
            return self._guarded(Step(puts=(after, told)), now), None

        await commit_again(self._applier, decide)
        return self.read(name)

    async def delete(self, name: str, actor: str, check: Callable[[Record], None] = lambda _: None) -> None:
        """Delete a pool that no member has a lease of; what is in quarantine stays so. Raises Refused.

        In two commits. After the first nobody is given a lease of it any more, and all that were given are known here;
        only then can be said that there are none. Killed in between, it may be called again.
        """

        def begin() -> tuple[Step | None, None]:
            pool = self._called(name)
            check(pool)
            if refused := self._in_use(pool):
                raise refused
            marked = msgspec.structs.replace(pool, deleting=True, updated_at=self._clock())
            return None if pool.deleting else Step(puts=(marked,)), None

        def finish() -> tuple[Step | None, Refused | None]:
            now, pool = self._clock(), self._cache.snapshot().pools.get(name)
            if pool is None:
                return None, None  # somebody else did, too
            if not pool.deleting:
                return None, refuse(409, "conflict", "Changed meanwhile", "the deletion was called off", "try again")
            if refused := self._in_use(pool):
                return Step(puts=(msgspec.structs.replace(pool, deleting=False, updated_at=now),)), refused
            told = self._told(now, actor, pool, "PoolDeleted", f"pool {pool.id} ({pool.cidr}) is deleted")
            return self._guarded(Step(puts=(told,), deletes=(pool,)), now), None

        await commit_again(self._applier, begin)
        refused = await commit_again(self._applier, finish)
        if refused is not None:
            raise refused

    def _in_use(self, pool: Pool) -> Refused | None:
        try:
            check_unused(self._cache.snapshot(), pool)
        except PoolRefused as refused:
            return refused_pool(refused)
        return None

    def _called(self, name: str) -> Pool:
        pool = self._cache.snapshot().pools.get(name)
        if pool is None:
            raise not_found(f"pool {name[:80]!r}", "fallow pool list shows all")
        return pool

    def _guarded(self, step: Step, now: float) -> Step:
        return guarded(self._cache, step, "pools", now)

    def _told(self, now: float, actor: str, pool: Pool, reason: str, message: str) -> Event:
        return event(new_id(), now, actor, "pool", pool.id, pool.id, reason, message)

    def _own(self) -> Iterator[Address]:
        """Yield the addresses of the control plane's processes, where they are told as such and not by name."""
        peers = [peer.address for peer in self._cache.records("peers").values() if isinstance(peer, Peer)]
        hosts = {self._settings.session_host, *(address.session_host for address in peers)}
        hosts |= {urlsplit(url).hostname or "" for url in (self._settings.public_url, *(peer.url for peer in peers))}
        for host in sorted(hosts):
            try:
                yield ipaddress.ip_address(host)
            except ValueError:
                continue


def leases_controller() -> Controller:
    """Return the loop that brings leases up to date when their pool has grown."""
    return Controller(name="leases", kinds=frozenset({"pools"}), every_seconds=60.0, decide=follow_pools)


def refused_pool(refused: PoolRefused) -> Refused:
    """Return a refusal of the floor below as the answer to a request."""
    return refuse(
        400 if refused.code in _MALFORMED else 409, refused.code, refused.title, refused.detail, refused.hint
    )  # fmt: skip


def _view(pool: Pool, usage: PoolUsage) -> PoolView:
    return PoolView(
        name=pool.id,
        revision=pool.revision,
        created_at=pool.created_at,
        created_by=pool.created_by,
        cidr=pool.cidr,
        mode=pool.mode,
        agent_port=pool.agent_port,
        host_ports=pool.host_ports,
        host_ports_per_node=pool.host_ports_per_node,
        quarantine_seconds=pool.quarantine_seconds,
        usage=usage,
    )
