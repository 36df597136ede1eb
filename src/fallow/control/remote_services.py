"""What a member keeps of services in other clusters, as its host tells them, and when its gateways do as told.

Kept in the store: gateways go on with it while the host is away, and every process of this control plane knows it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from fallow.client.tasks import first_to_end
from fallow.control.hub import Hub
from fallow.decide.plan import Plan, Step
from fallow.decide.services import gateway_id, is_elsewhere
from fallow.model.cluster_frames import RemotesApplied, SetRemotes, Withdrawn
from fallow.model.meta import Record
from fallow.model.remotes import RemoteService
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Fenced, StoreError

_log = structlog.get_logger("fallow.control")

RETRY_SECONDS = 0.5
ATTEMPTS = 10  # at what collides with other writers, or is too large for the store
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 5.0

Changes = dict[str, RemoteService | None]  # None: it is to go


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What the host has sent up to `revision` is stored since `local`, a revision of our own store.

    `gone` are endpoints that went with it, as gateways know them; None: whatever is not known any more.
    """

    revision: int
    local: int
    gone: frozenset[str] | None


class RemoteServices:
    """For the process that has the session with the host. `clock` gives UTC seconds; `send` says frames to the host."""

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        hub: Hub,
        clock: Callable[[], float],
        send: Callable[[RemotesApplied], None],
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._hub = hub
        self._clock = clock
        self._send = send
        self._wake = asyncio.Event()
        self._full: Changes | None = None  # all that there is; being gathered while `_gathering`
        self._changes: Changes = {}
        self._gathering = False  # more frames belong to the last one
        self._revision = 0  # of what was received whole
        self._written = 0  # of what was begun to be stored
        self._stored: list[_Stored] = []  # what gateways do not do yet, oldest first
        self._applied = 0
        self._idle = asyncio.Event()  # all that was received is stored
        self._idle.set()
        self._newest = 0  # revision of our store in which any of it changed, whatever session it came by

    def opened(self) -> None:
        """Begin anew: a session with the host has opened, which tells everything at first."""
        self._full, self._changes, self._gathering = None, {}, False
        self._revision, self._written, self._stored, self._applied = 0, 0, [], 0
        self._idle.set()
        self._hub.host_opened()

    def closed(self) -> None:
        """Note that the session with the host has ended; what is known stays."""
        self._hub.host_closed()

    def received(self, frame: SetRemotes | Withdrawn) -> None:
        """Take in what the host says; it is stored later, together with what comes meanwhile."""
        if isinstance(frame, Withdrawn):
            self._hub.clear(frame.replica_ids)
            return
        self._idle.clear()
        if frame.full and not self._gathering:
            self._full, self._changes = {}, {}
        target = self._full if frame.full and self._full is not None else self._changes
        target.update(dict.fromkeys(frame.removed))
        target.update({service.id: service for service in frame.services})
        self._gathering = frame.more
        if not frame.more:
            self._revision = frame.revision
            self._wake.set()

    async def settled(self) -> None:
        """Return once what was received is stored: what is to run less here waits for that, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._idle.wait()

    def applied(self) -> int:
        """Return up to which revision of the host our gateways do what they were asked; 0: nothing yet."""
        return self._applied

    async def run(self) -> None:
        """Store what was received and tell the host what gateways do, until cancelled.

        Raises Fenced when another process leads.
        """
        self._hub.on_change.append(self._wake.set)
        try:
            while True:
                await first_to_end(self._wake.wait(), timeout_seconds=LOOK_SECONDS)
                self._wake.clear()
                if self._revision > self._written and not self._gathering:
                    await self._store()
                if self._written == self._revision and not self._gathering:
                    self._idle.set()
                self._look()
        finally:
            self._hub.on_change.remove(self._wake.set)

    async def _store(self) -> None:
        """Store what was received whole. Raises Fenced."""
        full, changes, revision = self._full, self._changes, self._revision
        self._full, self._changes, self._written = None, {}, revision
        gone: set[str] = set()
        for _ in range(ATTEMPTS):
            steps, went = self._steps(_over(full, changes, self._records()), revision)
            gone |= went
            if await self._apply(steps):
                break
            await asyncio.sleep(RETRY_SECONDS)
        else:
            _log.error("services of other clusters are not all stored", revision=revision)
        if self._written == revision:  # no other session has opened meanwhile
            newest = max((record.revision for record in self._records().values()), default=0)
            self._newest = max(self._newest, newest)
            left = None if full is not None else frozenset(gone)
            self._stored.append(_Stored(revision=revision, local=self._newest, gone=left))

    async def _apply(self, steps: list[Step]) -> bool:
        """Say whether all steps are stored; waits while the store is away. Raises Fenced."""
        while True:
            try:
                done = await self._applier.apply(Plan(steps=steps))
            except Fenced:
                raise
            except StoreError as error:
                _log.warning("the store refused services of other clusters; they are tried again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._newest = max(self._newest, done.revision)
                return done.dropped == 0

    def _steps(self, wanted: Changes, revision: int) -> tuple[list[Step], set[str]]:
        """Return what is to be written so that the store has what is wanted, and the endpoints that go with it."""
        now = self._clock()
        steps: list[Step] = []
        gone: set[str] = set()
        for id_, service in wanted.items():
            known = self._cache.get("remote-services", id_)
            old = known if isinstance(known, RemoteService) else None
            if service is None:
                steps += [Step(deletes=(old,))] if old is not None else []
                gone |= _endpoints(old)
                continue
            created = old.created_at if old is not None else now
            put = msgspec.structs.replace(
                service,
                created_at=created,
                updated_at=now,
                revision=old.revision if old is not None else 0,
                host_revision=revision,
            )
            if old is None or put != msgspec.structs.replace(old, updated_at=now, host_revision=revision):
                steps.append(Step(puts=(put,)))
                gone |= _endpoints(old) - _endpoints(service)
        return steps, gone

    def _records(self) -> Mapping[str, Record]:
        return self._cache.records("remote-services")

    def _look(self) -> None:
        """Tell the host of what all gateways that are ready have done."""
        before = self._applied
        while self._stored and self._done(self._stored[0]):
            self._applied = self._stored.pop(0).revision
        if self._applied != before:
            self._send(RemotesApplied(revision=self._applied))

    def _done(self, stored: _Stored) -> bool:
        for gateway in self._cache.snapshot().live_gateways:
            report = self._hub.proxy_report(gateway.id)
            if report is None or report.applied_revision < stored.local:
                return False
            draining = {id_ for id_ in report.draining if is_elsewhere(id_)}
            if stored.gone is None:
                draining -= self._known() if draining else set()
            else:
                draining &= stored.gone
            if draining:
                return False
        return True

    def _known(self) -> set[str]:
        found = (record for record in self._records().values() if isinstance(record, RemoteService))
        return {id_ for service in found for id_ in _endpoints(service)}


def _over(full: Changes | None, changes: Changes, stored: Iterable[str]) -> Changes:
    """Return what is to be changed: with a full picture everything that is stored and not in it goes."""
    if full is None:
        return changes
    return dict.fromkeys(stored) | full | changes


def _endpoints(service: RemoteService | None) -> set[str]:
    """Return a service's endpoints as gateways know them."""
    clusters = service.clusters if service is not None else ()
    return {gateway_id(cluster.cluster_id, found.id) for cluster in clusters for found in cluster.endpoints}
