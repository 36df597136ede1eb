"""Who runs the control loops: the one process that holds the leader's record.

Every process of a shared store keeps a lease for as long as it lives. Its own record and, when it leads, the leader's
record hang on that lease, so that both go when the process does. Whatever the loops commit is checked against the
leader's record: a process that was held up, and does not know that another leads now, can no longer write.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from fallow.client.tasks import first_to_end
from fallow.model.kinds import key_of
from fallow.model.meta import Record
from fallow.model.peers import LEADER_ID, Leader, Peer
from fallow.store.cache import Cache, Subscription
from fallow.store.contract import Check, Conflict, Delete, Fenced, LeaseGone, Put, Store, StoreError, Write

_log = structlog.get_logger("fallow.control")

LEASE_SECONDS = 4.0
RETRY_SECONDS = 0.5
GIVE_UP_SECONDS = 1.0  # so long a stopping process tries to give its lease back


class Leadership:
    """Keeps this process on record as `peer`, and runs `lead` whenever, and as long as, it is the one that leads.

    `lead` is given the check that all its commits must carry; it is cancelled when another process leads. A store that
    is not shared needs no lease: whoever has opened it leads. `clock` gives UTC seconds.
    """

    def __init__(
        self,
        store: Store,
        cache: Cache,
        peer: Peer,
        lead: Callable[[Check], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.peer = peer
        self._store = store
        self._cache = cache
        self._lead = lead
        self._clock = clock
        self._key = key_of(self._record(0))
        self.settled = asyncio.Event()  # who leads has been looked into once

    @property
    def leader(self) -> Peer | None:
        """Return the process that leads, as far as is known here."""
        record = self._current()
        found = self._cache.get("peers", record.peer_id) if record is not None else None
        return found if isinstance(found, Peer) else None

    @property
    def leads(self) -> bool:
        """Say whether this process leads."""
        record = self._current()
        return record is not None and record.peer_id == self.peer.id

    async def run(self) -> None:
        """Live, and lead when it is our turn, until cancelled. Raises what `lead` raises by a mistake of its own."""
        while True:
            try:
                await self._live()
            except (StoreError, TimeoutError) as error:
                _log.warning("this process is not on record; trying again", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _live(self) -> None:
        """Hold one lease, from its beginning to its end. Raises StoreError when it has ended."""
        lease = await self._store.grant(LEASE_SECONDS) if self._store.shared else ""
        try:
            await self._register(lease)
            await first_to_end(self._keep(lease), self._campaign(lease))
        finally:
            if lease:
                with contextlib.suppress(StoreError, TimeoutError):
                    async with asyncio.timeout(GIVE_UP_SECONDS):
                        await self._store.revoke(lease)

    async def _register(self, lease: str) -> None:
        writes: list[Write] = [_put(self.peer, lease)]
        if not self._store.shared:  # what a process that was killed has left behind
            writes += [Delete(f"peers/{id_}") for id_ in self._cache.records("peers") if id_ != self.peer.id]
        await self._cache.wait(await self._store.commit([], writes))

    async def _keep(self, lease: str) -> None:
        """Keep the lease alive. Raises LeaseGone, and StoreError when nothing was heard for as long as it lasts."""
        kept = time.monotonic()
        while True:
            await asyncio.sleep(LEASE_SECONDS / 4)
            if not lease:
                continue
            try:
                async with asyncio.timeout(LEASE_SECONDS / 2):
                    await self._store.keep_alive(lease)
                kept = time.monotonic()
            except LeaseGone:
                raise
            except (StoreError, TimeoutError) as error:
                if time.monotonic() - kept > LEASE_SECONDS:
                    raise StoreError("the store did not answer for as long as our lease lasts") from error

    async def _campaign(self, lease: str) -> None:
        subscription = self._cache.subscribe()
        try:
            while True:
                revision = await self._claim(lease)
                self.settled.set()
                if revision:
                    await self._hold(revision, subscription)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await anext(subscription)
        finally:
            subscription.close()

    async def _claim(self, lease: str) -> int:
        """Try to become the leader; return the record's revision, 0 when another leads."""
        found = self._current()
        if found is not None and found.peer_id != self.peer.id and self._store.shared:
            return 0
        record = self._record(self._clock())
        try:
            revision = await self._store.commit(
                [Check(self._key, found.revision if found is not None else 0)], [_put(record, lease)]
            )
        except Conflict:
            return 0
        await self._cache.wait(revision)
        return revision

    async def _hold(self, revision: int, subscription: Subscription) -> None:
        """Lead until another does."""
        _log.info("this process leads", peer=self.peer.id)
        try:
            await first_to_end(self._work(Check(self._key, revision)), self._deposed(revision, subscription))
        except* Fenced:
            pass
        _log.warning("this process no longer leads", peer=self.peer.id)

    async def _work(self, fence: Check) -> None:
        await self._lead(fence)

    async def _deposed(self, revision: int, subscription: Subscription) -> None:
        while (found := self._current()) is not None and found.revision == revision:
            await anext(subscription)

    def _current(self) -> Leader | None:
        found = self._cache.get("leaders", LEADER_ID)
        return found if isinstance(found, Leader) else None

    def _record(self, now: float) -> Leader:
        return Leader(id=LEADER_ID, created_at=now, updated_at=now, peer_id=self.peer.id)


def _put(record: Record, lease: str) -> Put:
    return Put(key_of(record), msgspec.msgpack.encode(record), lease)
