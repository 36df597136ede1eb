"""A member cluster's control plane as a script: it takes shares, starts and stops replicas, and says how things are.

It speaks the frames of `model/wire.py` over the session that agents have. What it decides is as plain as can be; what
it must not get wrong - acknowledging, counting room, waiting before it stops a replica - is as members promise it.
"""

import asyncio
from collections.abc import Callable, Iterable
from random import Random

from fallow.agent.repeating import Repeating
from fallow.client.tasks import first_to_end
from fallow.model.cluster_frames import (
    AskRoom,
    RemotesApplied,
    RoomReported,
    SetRemotes,
    SetShares,
    SharesReported,
    SharesStored,
    Withdrawn,
)
from fallow.model.frames import Frame
from fallow.model.members import Facts
from fallow.model.rooms import MOST, RoomAnswer, RoomQuestion, RoomSummary
from fallow.model.shares import RemoteEndpoint, ShareOrder, ShareReport
from fallow.model.wire import PROTOCOL_VERSION, Hello, ToMember, Usage, Welcome
from simulation.federation.sites import Container, Site
from simulation.members import Identity, MemorySession
from simulation.network import Network

DRAIN_SECONDS = 30.0  # so long a leaving replica stays when no host says that it may stop
HOST_SECONDS = 5.0  # and so much longer when there is one, which waits for as long itself
GATEWAY_SECONDS = 0.05  # its gateways take so long to do what they are told
LOOK_SECONDS = 1.0
BATCH_REPORTS = 1000


class Reports(Repeating[ShareReport, SharesReported]):
    """Reports on their way, the newest of each deployment; the first frame of a session says that it is all."""

    full = True
    packed_at = 0.0  # when what is flying was first sent
    answered_at = -1e9  # when what the host has answered last was first sent

    def ack(self, batch: int) -> None:
        """Note that the host was there after a batch was sent."""
        if self._flying is not None and self._flying.batch == batch:
            self.answered_at = self.packed_at
        super().ack(batch)

    def put(self, reports: Iterable[ShareReport]) -> None:
        """Take in reports; older ones of the same deployments that have not left are forgotten."""
        for report in reports:
            self._waiting[report.deployment_id] = report
        self._changed.set()

    def say_all(self, reports: Iterable[ShareReport]) -> None:
        """Begin anew with everything there is to say."""
        self.full = True
        self._flying = None
        self._waiting.clear()
        self.put(reports)

    def pack(self, batch: int) -> SharesReported:
        """Take the first ones."""
        self.packed_at = asyncio.get_running_loop().time()
        ids = list(self._waiting)[:BATCH_REPORTS]
        full, self.full = self.full, False
        return SharesReported(batch=batch, full=full, reports=tuple(self._waiting.pop(id_) for id_ in ids))

    def take_back(self, frame: SharesReported) -> None:
        """Let reports wait again, but for those that there are newer ones of."""
        self.full = self.full or frame.full
        newer = dict(self._waiting)
        self._waiting = {report.deployment_id: report for report in frame.reports} | newer

    async def next(self) -> SharesReported:
        """Return the next frame; a full one is sent though it may say nothing."""
        if self.full and not self._waiting and self._flying is None:
            self._batch += 1
            self._sent_at = asyncio.get_running_loop().time()
            self._flying = self.pack(self._batch)
            return self._flying
        return await super().next()


class Cluster:
    """One run of a member cluster's control plane; `tell` puts a line into the story."""

    def __init__(
        self,
        site: Site,
        identity: Identity,
        network: Network,
        chance: Random,
        clock: Callable[[], float],
        tell: Callable[[str, str], None],
    ) -> None:
        self.site = site
        self._number = 0
        self._tell = tell
        self._chance = chance
        self._reports = Reports()
        self._said: dict[str, ShareReport] = {}
        self._questions: tuple[RoomQuestion, ...] | None = None
        self._said_room: RoomReported | None = None
        self._collecting: dict[str, ShareOrder] | None = None  # of a full SetShares whose rest is still to come
        self._collecting_remotes: dict[str, set[str]] | None = None
        self._moved = asyncio.Event()
        self._outgoing: asyncio.Queue[Frame] = asyncio.Queue()
        self._alone_since: float | None = asyncio.get_running_loop().time()  # None: the host is there
        self._instance = chance.randbytes(8).hex()
        self._session = MemorySession(identity, self, self._reports, clock=clock, chance=chance.random)  # type: ignore[arg-type]
        self._session.network, self._session.identity = network, identity

    async def run(self, stop: asyncio.Event) -> None:
        """Work until cancelled. Raises SessionRefused."""
        self.site.changed = self._moved.set
        self._moved.set()
        await first_to_end(self._session.run(stop), self._work(), self._send())

    # what a session asks of a member

    def hello(self) -> Hello:
        """Return the first frame."""
        return Hello(
            protocol=PROTOCOL_VERSION,
            agent_version="1.0",
            boot_id="boot",
            instance=self._instance,
            facts=Facts(hostname=self.site.name, cpus=self.site.cpus, memory_bytes=2**40),
        )

    def usage(self) -> Usage:
        """Return what a heartbeat says."""
        return Usage(containers=len(self.site.containers))

    def opened(self, welcome: Welcome) -> None:
        """Say everything anew to a host that has just been found."""
        self._alone_since = None
        self._collecting = self._collecting_remotes = None
        self._said_room = None
        self._said = {report.deployment_id: report for report in self._all_reports()}
        self._reports.say_all(self._said.values())
        self._moved.set()

    def closed(self) -> None:
        """Note that the host is away."""
        self._alone_since = asyncio.get_running_loop().time()
        while not self._outgoing.empty():
            self._outgoing.get_nowait()

    def received(self, frame: ToMember) -> None:
        """Take in what the host says."""
        if isinstance(frame, SetShares):
            self._take(frame)
        elif isinstance(frame, SharesStored):
            self._reports.ack(frame.batch)
            self.site.answered_at = max(self.site.answered_at, self._reports.answered_at)
        elif isinstance(frame, AskRoom):
            self._questions, self._said_room = frame.questions, None
        elif isinstance(frame, Withdrawn):
            known = [id_ for id_ in frame.replica_ids if id_ in self.site.containers]
            self.site.kept.withdrawn.update(dict.fromkeys(known))
        elif isinstance(frame, SetRemotes):
            self._take_remotes(frame)
        self._moved.set()

    # shares

    def _take(self, frame: SetShares) -> None:
        orders = self.site.kept.orders
        if frame.full and self._collecting is None:
            self._collecting = {}
        for order in frame.orders:
            if self._collecting is not None:
                self._collecting[order.deployment_id] = order
            known = orders.get(order.deployment_id)
            if known is None or order.revision >= known.revision:
                if (
                    known is None
                    or (order.replicas, order.keep) != (known.replicas, known.keep)
                    or order.generation != known.generation
                ):
                    keep = f" (and to keep {order.keep} that are ready)" if order.keep > order.replicas else ""
                    what = f"{order.replicas}{keep} of {order.project}/{order.name} generation {order.generation}"
                    self._tell(self.site.name, f"is told to run {what} (order {order.revision})")
                orders[order.deployment_id] = order
        for id_ in frame.removed:
            orders.pop(id_, None)
        if self._collecting is not None and frame.full and not frame.more:
            for id_ in [id_ for id_ in orders if id_ not in self._collecting]:
                self._tell(self.site.name, f"is to forget {id_}")
                del orders[id_]
            self._collecting = None

    def _take_remotes(self, frame: SetRemotes) -> None:
        if frame.full and self._collecting_remotes is None:
            self._collecting_remotes = {}
        told = {
            service.id: {endpoint.id for cluster in service.clusters for endpoint in cluster.endpoints}
            for service in frame.services
        }
        whole = frame.full and not frame.more
        if self._collecting_remotes is not None:
            self._collecting_remotes |= told
            if not whole:
                return
            told, self._collecting_remotes = self._collecting_remotes, None

        def applied() -> None:
            routed = self.site.routed
            if whole:
                routed.clear()
            routed.update(told)
            for id_ in frame.removed:
                routed.pop(id_, None)
            if self._alone_since is None:
                self._outgoing.put_nowait(RemotesApplied(revision=frame.revision))

        asyncio.get_running_loop().call_later(GATEWAY_SECONDS, applied)

    async def _work(self) -> None:
        while True:
            due = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._moved.set)
            await self._moved.wait()
            due.cancel()
            self._moved.clear()
            await asyncio.sleep(0.01 + self._chance.random() * 0.04)
            if self.site.powered:
                for deployment_id in self._concerned():
                    self._follow(deployment_id)
                self._stop_leaving()
            self._report()

    def _concerned(self) -> list[str]:
        running = (found.deployment_id for found in self.site.containers.values())
        return list(dict.fromkeys([*self.site.kept.orders, *running]))

    def _follow(self, deployment_id: str) -> None:
        """Take the next step towards what is ordered: start, renew one at a time, retire the excess."""
        site = self.site
        order = site.kept.orders.get(deployment_id)
        live = [found for found in site.of(deployment_id) if found.state != "leaving"]
        if order is not None and self._is_fenced(order):
            for container in live:
                site.give_up(container)
            return
        wanted = order.replicas if order is not None else 0
        generation = order.generation if order is not None else 0
        ready = [found for found in live if found.state == "ready"]
        surge = 1 if any(found.generation != generation for found in live) and wanted else 0
        if not surge:
            for container in live:
                container.extra = False
        # what is not ready goes first, then what is not of this generation, then the newest
        going = sorted(live, key=lambda found: (found.state == "ready", found.generation == generation, -found.number))
        idle = len(live) - len(ready)
        keep = order.keep if order is not None else 0
        excess = min(len(live) - wanted - surge, idle + max(0, len(ready) - keep))
        replaced = surge > 0 and excess <= 0 and len(ready) > max(wanted, min(keep, _slots(live)))
        if replaced:
            excess, going = 1, [found for found in going if found.generation != generation]
            for container in [found for found in ready if found.extra][:1]:
                container.extra = False
        for container in going[: max(0, excess)]:
            site.retire(container, replaced)
        if order is None:
            return
        cpus = order.spec.container.resources.cpus
        current = sum(found.generation == generation for found in live)
        for more in range(min(wanted - current, wanted + surge - len(live))):
            if site.free + 1e-9 < cpus:
                break
            site.begin(deployment_id, generation, cpus, extra=len(live) + more >= wanted)

    def _is_fenced(self, order: ShareOrder) -> bool:
        """Say whether the host has answered nothing for as long as makes it run this elsewhere."""
        fence = order.spec.clusters.fence_seconds
        return fence > 0 and asyncio.get_running_loop().time() - self.site.answered_at >= fence

    def _stop_leaving(self) -> None:
        now = asyncio.get_running_loop().time()
        for container in list(self.site.containers.values()):
            if container.state == "leaving" and not container.stops:
                patience = DRAIN_SECONDS + (HOST_SECONDS if self._alone_since is None else 0.0)
                if container.id in self.site.kept.withdrawn or now - container.left_at >= patience:
                    self.site.stop(container)

    # what it says

    def _all_reports(self) -> list[ShareReport]:
        return [self._report_of(deployment_id) for deployment_id in self._concerned()]

    def _report_of(self, deployment_id: str) -> ShareReport:
        site = self.site
        order = site.kept.orders.get(deployment_id)
        all_ = site.of(deployment_id)
        live = [found for found in all_ if found.state != "leaving"]
        ready = [found for found in live if found.state == "ready"]
        generation = order.generation if order is not None else 0
        wanted = order.replicas if order is not None and not self._is_fenced(order) else 0
        return ShareReport(
            deployment_id=deployment_id,
            revision=order.revision if order is not None else 0,
            generation=generation,
            replicas=max(wanted, min(order.keep if order is not None else 0, _slots(live))),
            placed=len(live),
            running=len(live),
            ready=len(ready),
            updated=sum(found.generation == generation for found in ready),
            leaving=tuple(found.id for found in all_ if found.state == "leaving"),
            remaining=len(all_),
            state="serving" if len(ready) >= wanted else "waiting",
            reason="" if len(live) >= wanted else "no node has room",
            endpoints=tuple(self._endpoint(found) for found in ready),
        )

    def _endpoint(self, container: Container) -> RemoteEndpoint:
        return RemoteEndpoint(id=container.id, address="10.9.0.1", ports={"80/tcp": 20000 + container.number % 9999})

    def _report(self) -> None:
        if self._alone_since is not None:
            return
        reports = self._all_reports()
        changed = [report for report in reports if self._said.get(report.deployment_id) != report]
        gone = [
            ShareReport(deployment_id=id_)
            for id_ in self._said
            if id_ not in {report.deployment_id for report in reports}
        ]
        self._said = {report.deployment_id: report for report in reports}
        self._reports.put([*changed, *gone])
        if any(order.spec.clusters.fence_seconds for order in self.site.kept.orders.values()):
            self._reports.put(reports[:1])  # for an answer
        if self._questions is not None and (room := self._room(self._questions)) != self._said_room:
            self._said_room = room
            self._outgoing.put_nowait(room)

    def _room(self, questions: Iterable[RoomQuestion]) -> RoomReported:
        """Count what is free, beside what is ordered and not yet placed."""
        site = self.site
        missing = sum(
            max(0, order.replicas - site.live(order.deployment_id)) * order.spec.container.resources.cpus
            for order in site.kept.orders.values()
        )
        free = max(0.0, site.free - missing)
        answers = tuple(RoomAnswer(key=asked.key, more=self._more(asked, free)) for asked in questions)
        summary = RoomSummary(nodes=1, cpus=site.cpus, free_cpus=free, memory_bytes=2**40, free_memory_bytes=2**40)
        orders = {id_: order.revision for id_, order in site.kept.orders.items()}
        return RoomReported(answers=answers, orders=orders, summary=summary)

    def _more(self, asked: RoomQuestion, free: float) -> int:
        if self.site.lie is not None:
            return self.site.lie
        cpus = asked.resources.cpus
        return min(MOST, int((free + 1e-9) / cpus)) if cpus else MOST

    async def _send(self) -> None:
        while True:
            frame = await self._outgoing.get()
            if self._session.connected:
                await self._session.send(frame)


def _slots(live: Iterable[Container]) -> int:
    """Return how many replicas these are: one that is to replace another is none more, as in a cluster of ours.

    Counted, it would be one that the host takes for kept, and what it tells others would find no room.
    """
    return sum(not found.extra for found in live)
