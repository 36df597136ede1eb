"""The host's own nodes as a cluster among the others: the same questions and reports, without a session.

It runs in the process that leads, as soon as the host has a member record of itself. What it should run, the host's
loop writes into the deployments themselves, so orders bring nothing new.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence

from fallow.client.tasks import first_to_end
from fallow.control.shares import Shares
from fallow.decide.federation.orders import order_revision
from fallow.decide.federation.report import concerned, report_of
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.drivers.clusters.counting import Counting
from fallow.drivers.clusters.telling import Telling, rest_seconds
from fallow.model.cluster_frames import RoomReported, SharesReported
from fallow.model.clusters import HERE_ID
from fallow.model.rooms import RoomQuestion
from fallow.model.shares import Share, ShareOrder, ShareReport, parse_share_id, share_id
from fallow.model.wire import OpenLog
from fallow.store.cache import Cache, Subscription


class Here:
    """The cluster `HERE_ID`; see `drivers.clusters.contract.Cluster`. `heard` is what nodes said last that they use."""

    def __init__(
        self,
        cache: Cache,
        shares: Shares,
        heard: Callable[[], Heard],
        servers: Callable[[], HeardServers] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._shares = shares
        self._counting = Counting(cache.snapshot, heard, _included, servers, clock)
        self._telling = Telling()

    def order(self, orders: Sequence[ShareOrder], removed: Sequence[str] = (), full: bool = False) -> None:
        """Do nothing: the deployments are the host's own, and say what runs here."""

    def ask(self, questions: Sequence[RoomQuestion]) -> None:
        """Answer these questions from now on."""
        self._counting.ask(tuple(questions))

    def withdrawn(self, replica_ids: Sequence[str]) -> None:
        """Do nothing: the loop that lets replicas stop looks at all gateways."""

    def logs(self, wanted: OpenLog) -> AsyncGenerator[str, None] | None:
        """Return nothing: the host asks its own nodes."""
        return None

    async def run(self) -> None:
        """Report until cancelled, whenever the host has a member record of itself."""
        subscription = self._cache.subscribe()
        try:
            while True:
                while HERE_ID not in self._cache.snapshot().clusters:
                    await anext(subscription)
                self._shares.open(HERE_ID, self)
                await first_to_end(self._follow(subscription), self._counting.run(self._room))
                self._shares.close(HERE_ID)
        finally:
            self._shares.close(HERE_ID)
            subscription.close()

    async def _follow(self, subscription: Subscription) -> None:
        """Report everything, then what changes, until there is no such cluster any more."""
        snapshot = self._cache.snapshot()
        self._telling.begin()
        self._report(snapshot, snapshot.deployments, full=True)
        async for changed in subscription:
            began = time.perf_counter()
            snapshot = self._cache.snapshot()
            if HERE_ID not in snapshot.clusters:
                return
            dirty = concerned(snapshot, changed)
            shares = (parse_share_id(id_) for kind, id_ in changed if kind == "shares")
            dirty |= {deployment_id for deployment_id, cluster_id in shares if cluster_id == HERE_ID}
            self._report(snapshot, dirty, full=False)
            self._counting.changed({kind for kind, _ in changed})
            await asyncio.sleep(rest_seconds(time.perf_counter() - began))

    def _report(self, snapshot: Snapshot, ids: Iterable[str], *, full: bool) -> None:
        """Hand in the reports of deployments that differ from what was told."""
        news = self._telling.news((id_, _report_of(snapshot, id_)) for id_ in ids)
        if news or full:
            self._shares.reports.shared(HERE_ID, SharesReported(batch=0, full=full, reports=tuple(news)))

    async def _room(self, frame: RoomReported) -> None:
        self._shares.rooms.roomed(HERE_ID, frame)


def _report_of(snapshot: Snapshot, deployment_id: str) -> ShareReport | None:
    """Return the report of a deployment; None: it has no share here."""
    deployment, share = snapshot.deployments.get(deployment_id), snapshot.shares.get(share_id(deployment_id, HERE_ID))
    if deployment is None or share is None:
        return None
    return report_of(snapshot, deployment, _revision(snapshot, share))


def _revision(snapshot: Snapshot, share: Share) -> int:
    """Return the revision of the order that the deployment follows: the newest, unless its share is yet to follow."""
    deployment = snapshot.deployments[share.deployment_id]
    if (deployment.replicas_here, deployment.keep) == (share.replicas, share.keep) or deployment.deleting:
        return order_revision(share, deployment)
    return share.reported.revision if share.reported is not None else 0


def _included(snapshot: Snapshot) -> Mapping[str, int]:
    found = (snapshot.shares.get(share_id(id_, HERE_ID)) for id_ in snapshot.deployments)
    return {share.deployment_id: _revision(snapshot, share) for share in found if share is not None}
