"""A scripted member cluster: so much room, and replicas that are ready as soon as they are ordered."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from fallow.drivers.clusters.contract import Listener, LogsRefused
from fallow.model.cluster_frames import RoomReported, SharesReported
from fallow.model.rooms import MOST, RoomAnswer, RoomQuestion, RoomSummary
from fallow.model.shares import RemoteEndpoint, ShareOrder, ShareReport
from fallow.model.wire import OpenLog


class FakeCluster:
    """Runs what it is told, up to `room` replicas in all, and has deployments of its own at the paths `own`.

    What it retires stays in `leaving` until it is withdrawn, or until `slow` is False. While `cut` it hears and says
    nothing, and goes on with what it has. Its nodes are throttled when `weigh` says so.
    """

    def __init__(self, cluster_id: str, listener: Listener, room: int = 100, own: Sequence[str] = ()) -> None:
        self.cluster_id = cluster_id
        self.room = room
        self.own = set(own)
        self.slow = False
        self.cut = False
        self.running: dict[str, list[str]] = {}  # deployment id -> ids of ready replicas
        self.leaving: dict[str, list[str]] = {}
        self._listener = listener
        self._orders: dict[str, ShareOrder] = {}
        self._questions: tuple[RoomQuestion, ...] | None = None
        self._made = 0
        self._weight = 100
        self._printed: dict[str, list[str]] = {}  # lines of replicas
        self._readers: set[asyncio.Event] = set()  # of logs that are followed

    def opened(self) -> None:
        """Report all shares, as after a reconnect; what was read before breaks off."""
        self.cut = False
        readers, self._readers = self._readers, set()
        for reader in readers:
            reader.set()
        self._tell(self._orders, full=True)

    def order(self, orders: Sequence[ShareOrder], removed: Sequence[str] = (), full: bool = False) -> None:
        """Run what is told; see `contract.Cluster`."""
        if self.cut:
            return
        gone = (set(self._orders) - {order.deployment_id for order in orders} if full else set()) | set(removed)
        for id_ in gone:
            self._orders.pop(id_, None)
            self.running.pop(id_, None)
            self.leaving.pop(id_, None)
        for order in orders:
            before = self._orders.get(order.deployment_id)
            if full or before is None or before.revision <= order.revision:
                self._orders[order.deployment_id] = order
        self._tell(self._settle())

    def ask(self, questions: Sequence[RoomQuestion]) -> None:
        """Answer how much room is left."""
        self._questions = tuple(questions)
        self._answer()

    def withdrawn(self, replica_ids: Sequence[str]) -> None:
        """Stop leaving replicas."""
        for id_, found in self.leaving.items():
            self.leaving[id_] = [replica for replica in found if replica not in replica_ids]
        self._tell(self._orders)

    def say(self, replica_id: str, *lines: str) -> None:
        """Let a replica print."""
        self._printed.setdefault(replica_id, []).extend(lines)
        for reader in self._readers:
            reader.set()

    @property
    def followed(self) -> int:
        """Return how many logs are followed."""
        return len(self._readers)

    async def logs(self, wanted: OpenLog) -> AsyncGenerator[str, None]:
        """Yield what replicas have printed; see `contract.Cluster`."""
        id_ = wanted.deployment_id
        known = [*self.running.get(id_, ()), *self.leaving.get(id_, ())]
        if id_ not in self._orders or wanted.replica_id not in {"", *known}:
            raise LogsRefused("nothing is ordered of it")
        news = asyncio.Event()
        self._readers.add(news)
        told = {each: max(0, len(self._printed.get(each, ())) - wanted.tail) for each in known}
        try:
            while True:
                news.clear()
                for each in [wanted.replica_id] if wanted.replica_id else known:
                    for line in self._printed.get(each, [])[told[each] :]:
                        told[each] += 1
                        yield line if wanted.replica_id else f"{each} | {line}"
                if not wanted.follow:
                    return
                await news.wait()
                if news not in self._readers:
                    raise LogsRefused("the cluster's session ended")
        finally:
            self._readers.discard(news)

    def weigh(self, weight: int) -> None:
        """Let its endpoints have so much of a full weight, in hundredths."""
        self._weight = weight
        self._tell(self._orders)

    def _settle(self) -> Sequence[str]:
        """Start and retire replicas as ordered, as far as there is room; return whose report may differ."""
        for id_, order in self._orders.items():
            ready = self.running.setdefault(id_, [])
            wanted = 0 if self._is_refused(order) else order.replicas
            stays = wanted if self._is_refused(order) else order.most
            going, self.running[id_] = ready[stays:], ready[:stays]
            self.leaving.setdefault(id_, []).extend(going if self.slow else ())
        for id_, order in self._orders.items():
            ready = self.running[id_]
            wanted = 0 if self._is_refused(order) else order.replicas
            while len(ready) < wanted and self._left() > 0:
                self._made += 1
                ready.append(f"{order.name}-{self._made}-{self.cluster_id}")
        self._answer()
        return tuple(self._orders)

    def _is_refused(self, order: ShareOrder) -> bool:
        return f"{order.project}/{order.name}" in self.own

    def _left(self) -> int:
        return self.room - sum(map(len, self.running.values()))

    def _report(self, order: ShareOrder) -> ShareReport:
        id_ = order.deployment_id
        ready, leaving = self.running.get(id_, []), self.leaving.get(id_, [])
        endpoints = tuple(
            RemoteEndpoint(id=name, address="192.0.2.1", ports={"80/tcp": 20000}, weight=self._weight) for name in ready
        )
        refused = self._is_refused(order)
        return ShareReport(
            deployment_id=id_,
            revision=order.revision,
            generation=order.generation,
            replicas=0 if refused else max(order.replicas, min(order.keep, len(ready))),
            placed=len(ready),
            running=len(ready),
            ready=len(ready),
            updated=len(ready),
            leaving=tuple(leaving),
            remaining=len(ready) + len(leaving),
            state="refused" if refused else "serving" if len(ready) >= order.replicas else "waiting",
            reason="this cluster has one of its own" if refused else "",
            endpoints=endpoints,
        )

    def _tell(self, ids: Sequence[str] | dict[str, ShareOrder], full: bool = False) -> None:
        if not self.cut:
            reports = tuple(self._report(self._orders[id_]) for id_ in ids)
            self._listener.shared(self.cluster_id, SharesReported(batch=0, full=full, reports=reports))

    def _answer(self) -> None:
        if not self.cut and self._questions is not None:
            waiting = sum(order.replicas - len(self.running.get(id_, ())) for id_, order in self._orders.items())
            more = min(MOST, max(0, self._left() - max(0, waiting)))
            answers = tuple(RoomAnswer(key=question.key, more=more) for question in self._questions)
            orders = {id_: order.revision for id_, order in self._orders.items()}
            summary = RoomSummary(
                nodes=1, cpus=self.room, free_cpus=more, memory_bytes=self.room * 2**30, free_memory_bytes=more * 2**30
            )
            self._listener.roomed(self.cluster_id, RoomReported(answers=answers, orders=orders, summary=summary))


class Heard:
    """A listener that keeps what it hears: the newest report of each share, and the newest answers."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.reports: dict[str, ShareReport] = {}
        self.room: RoomReported | None = None
        self._then = then

    def shared(self, cluster_id: str, frame: SharesReported) -> "asyncio.Future[None]":
        """Keep reports; see `contract.Listener`."""
        if frame.full:
            self.reports.clear()
        self.reports.update({report.deployment_id: report for report in frame.reports})
        self._then()
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        return stored

    def roomed(self, cluster_id: str, frame: RoomReported) -> None:
        """Keep answers."""
        self.room = frame
        self._then()
