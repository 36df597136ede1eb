"""Tells member clusters what to run and what to answer: everything when one is opened, then what changes."""

import asyncio
import functools
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable

import structlog

from fallow.control.complaints import Complaints
from fallow.control.hub import Link
from fallow.control.ids import new_id
from fallow.control.intake import Unstored
from fallow.control.rooms import Rooms
from fallow.control.share_reports import ShareReports
from fallow.control.spoken import Spoken
from fallow.decide.events import event
from fallow.decide.federation.checks import cleaned
from fallow.decide.federation.orders import order_of
from fallow.decide.plan import Step
from fallow.decide.snapshot import Snapshot
from fallow.drivers.clusters.contract import Cluster
from fallow.drivers.clusters.session import Logs, SessionCluster
from fallow.model.cluster_frames import RoomReported, SharesReported, SharesStored
from fallow.model.deployments import Deployment
from fallow.model.members import Member, Role
from fallow.model.rooms import RoomQuestion
from fallow.model.shares import Share, SharedRegistry, ShareOrder, parse_share_id
from fallow.model.wire import Goodbye, OpenLog
from fallow.store.applier import Applier
from fallow.store.cache import Cache

_log = structlog.get_logger("fallow.control")

REST_SECONDS = 0.01  # what changes meanwhile is told together

_ORDERED = frozenset({"shares", "deployments", "templates", "registries"})  # of which orders are made

Questions = Callable[[Snapshot], tuple[RoomQuestion, ...]]
RegistryOf = Callable[[str], SharedRegistry | None]


class Shares:
    """Remembers what each cluster was told, so that only differences are sent. One for each process.

    `clock` gives UTC seconds; `questions` are those that a snapshot's deployments raise. `before_less` is called before
    a cluster is told to run less: its gateways should know by then what runs elsewhere. `registry` tells how the
    registry of an image is spoken to.
    """

    def __init__(
        self,
        cache: Cache,
        applier: Applier,
        clock: Callable[[], float],
        questions: Questions,
        before_less: Callable[[Snapshot], None] = lambda _: None,
        registry: RegistryOf = lambda _: None,
    ) -> None:
        self.spoken = Spoken(cache, applier)
        self.reports = ShareReports(cache, applier, clock, self.spoken.opening_of)
        self.rooms = Rooms(cache, applier, clock, questions, self.spoken.room_stored, self.spoken.opening_of)
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._questions = questions
        self._before_less = before_less
        self._registry = registry
        self._open: dict[str, Cluster] = {}
        self._told: dict[str, dict[str, ShareOrder]] = {}  # cluster id -> deployment id -> its order
        self._asked: dict[str, tuple[RoomQuestion, ...]] = {}
        self._links: dict[Link, SessionCluster] = {}
        self._unstored: dict[Link, Unstored] = {}
        self._complaints = Complaints()  # about clusters that do not obey us

    def greet(self, link: Link, logs: Logs | None = None) -> None:
        """Open the cluster whose session has just been opened; `logs` asks it for lines, if it understands that."""
        member = self._cache.get("members", link.member_id)
        if isinstance(member, Member) and member.role is Role.CLUSTER:
            self._links[link] = SessionCluster(link.send, logs)
            self.open(link.member_id, self._links[link])

    async def parted(self, link: Link, goodbye: Goodbye) -> None:
        """Note that a cluster has ended its session; that it does not obey us goes on record. Raises StoreError."""
        member, now = self._cache.get("members", link.member_id), self._clock()
        if not goodbye.stale or not isinstance(member, Member) or member.role is not Role.CLUSTER:
            return
        if not self._complaints.may(member.id, now):
            return
        text = f"cluster {member.name} does not obey this control plane: {cleaned(goodbye.reason)[:512]}"
        told = event(
            new_id(), now, f"cluster:{member.name}", "member", member.id, member.name, "HostTwice", text, "warning"
        )
        _log.warning("a cluster does not obey us", cluster=member.name, reason=told.message)
        await self._applier.commit(Step(puts=(told,)))

    def ended(self, link: Link) -> None:
        """Forget a session that has ended."""
        self._unstored.pop(link, None)
        cluster = self._links.pop(link, None)
        if cluster is not None and self._open.get(link.member_id) is cluster:
            self.close(link.member_id)

    def open(self, cluster_id: str, cluster: Cluster) -> None:
        """Tell a cluster all it should run, and all it should answer."""
        self.reports.opened(cluster_id)
        self.rooms.forget(cluster_id)
        snapshot = self._cache.snapshot()
        shares = snapshot.shares_by_cluster.get(cluster_id, ())
        wanted = self._orders(snapshot, shares, functools.cache(self._registry))
        self._before_less(snapshot)
        self._open[cluster_id], self._told[cluster_id] = cluster, wanted
        cluster.order(tuple(wanted.values()), full=True)
        self._asked.pop(cluster_id, None)
        self._ask(snapshot)
        self.spoken.opened(cluster_id, asked=bool(self._asked[cluster_id]))

    def close(self, cluster_id: str) -> None:
        """Forget a cluster that can be told nothing any more."""
        self.spoken.closed(cluster_id)
        self.rooms.forget(cluster_id)
        for known in (self._open, self._told, self._asked):
            known.pop(cluster_id, None)

    def logs(self, cluster_id: str, wanted: OpenLog) -> AsyncGenerator[str, None] | None:
        """Ask a cluster for lines; see `drivers.clusters.contract.Cluster`. None, too: it is not open here."""
        cluster = self._open.get(cluster_id)
        return cluster.logs(wanted) if cluster is not None else None

    async def heard(self, link: Link, frame: SharesReported | RoomReported) -> None:
        """Take in what a cluster says; waits only for one that sends more than can be stored."""
        if isinstance(frame, RoomReported):
            self.rooms.roomed(link.member_id, frame)
            return
        await self._unstored.setdefault(link, Unstored()).take_in(
            frame.batch,
            lambda: self.reports.shared(link.member_id, frame),
            lambda: self._stored(link, frame),
        )

    def _stored(self, link: Link, frame: SharesReported) -> None:
        link.send(SharesStored(batch=frame.batch))
        if frame.full and not frame.more and self._open.get(link.member_id) is self._links.get(link):
            self.spoken.shares_stored(link.member_id)

    async def run(self) -> None:
        """Send what changes, and store what is reported, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.reports.run())
            group.create_task(self.rooms.run())
            group.create_task(self.spoken.run())
            group.create_task(self._tell())

    async def _tell(self) -> None:
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                for kind, id_ in changed:
                    if kind == "members":
                        self.spoken.changed(id_)
                if self._open and any(kind in _ORDERED for kind, _ in changed):
                    self._send_changes({id_ for kind, id_ in changed if kind == "shares"}, self._concerned(changed))
                    await asyncio.sleep(REST_SECONDS)
        finally:
            subscription.close()

    def _concerned(self, changed: Collection[tuple[str, str]]) -> set[str]:
        """Return the ids of deployments whose orders may be others now, whatever became of their shares."""
        if any(kind == "registries" for kind, _ in changed):
            return set(self._cache.snapshot().deployments)
        generations = {id_.rpartition(".")[0] for kind, id_ in changed if kind == "templates"}
        return generations | {id_ for kind, id_ in changed if kind == "deployments"}

    def _send_changes(self, share_ids: set[str], deployment_ids: set[str]) -> None:
        snapshot = self._cache.snapshot()
        by_deployment = snapshot.shares_by_deployment
        touched: dict[str, set[str]] = defaultdict(set)  # cluster id -> ids of its shares
        theirs = (share.id for id_ in deployment_ids for share in by_deployment.get(id_, ()))
        for share_id in share_ids.union(theirs):
            touched[parse_share_id(share_id)[1]].add(share_id)
        deleted = deployment_ids - snapshot.deployments.keys()
        registry = functools.cache(self._registry)  # which opens a sealed login: once for all clusters
        for cluster_id, cluster in list(self._open.items()):
            told, known = self._told[cluster_id], touched.get(cluster_id, ())
            shares = (share for id_ in sorted(known) if (share := snapshot.shares.get(id_)) is not None)
            wanted = self._orders(snapshot, shares, registry)
            changed = [order for id_, order in wanted.items() if told.get(id_) != order]
            gone = {parse_share_id(id_)[0] for id_ in known} - wanted.keys()
            removed = sorted((gone | deleted) & told.keys())
            if changed or removed:
                if removed or any(_lowers(told.get(order.deployment_id), order) for order in changed):
                    self._before_less(snapshot)
                told.update((order.deployment_id, order) for order in changed)
                for id_ in removed:
                    del told[id_]
                cluster.order(changed, removed)
        if deployment_ids:
            self._ask(snapshot)

    def _orders(self, snapshot: Snapshot, shares: Iterable[Share], registry: RegistryOf) -> dict[str, ShareOrder]:
        """Return the orders of shares by deployment id, but for those whose deployment is gone."""
        return {
            share.deployment_id: _order_of(snapshot, share, deployment, registry)
            for share in shares
            if (deployment := snapshot.deployments.get(share.deployment_id)) is not None
        }

    def _ask(self, snapshot: Snapshot) -> None:
        """Ask every cluster the questions that stand now, if they are others than it was asked.

        Also when there are none: what is free in all is told with the answers, and old ones are forgotten.
        """
        questions = self._questions(snapshot)
        for cluster_id, cluster in self._open.items():
            if self._asked.get(cluster_id) != questions:
                self._asked[cluster_id] = questions
                cluster.ask(questions)


def _order_of(snapshot: Snapshot, share: Share, deployment: Deployment, registry: RegistryOf) -> ShareOrder:
    template = snapshot.templates.get(f"{deployment.id}.{deployment.generation}")
    image = template.image if template is not None else None
    return order_of(share, deployment, image, registry(deployment.spec.container.image))


def _lowers(before: ShareOrder | None, order: ShareOrder) -> bool:
    return before is not None and order.most < before.most
