"""What a session with the host is about: orders in, reports and answers out."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import UnsetType

from fallow.agent.host_registries import Secrets, kept_registries
from fallow.agent.logs import Bounds, Lines, LogStreams
from fallow.agent.share_outbox import ShareOutbox
from fallow.decide.federation.accept import Orders, accept, creates, follows, refusal
from fallow.decide.federation.fence import fence, fenceable
from fallow.decide.federation.report import concerned, refused, report_of
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.harvest.throttled import LOOK_SECONDS, Weights, reweighed, weights
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.drivers.authority import AuthorityError
from fallow.drivers.clusters.counting import Counting
from fallow.drivers.clusters.telling import REST_SECONDS, Telling, rest_seconds
from fallow.model.cluster_frames import AskRoom, LogRead, RemotesApplied, SetRemotes, SetShares, SharesStored, Withdrawn
from fallow.model.frames import Frame
from fallow.model.members import Facts
from fallow.model.portions import encoded_bytes, portions
from fallow.model.shares import ShareReport
from fallow.model.wire import OLDEST_PROTOCOL, PROTOCOL_VERSION, CloseLog, Hello, OpenLog, ToMember, Usage, Welcome
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Fenced, StoreError
from fallow.version import VERSION

_log = structlog.get_logger("fallow.agent.cluster")

RETRY_SECONDS = 0.5
FENCE_LOOK_SECONDS = 0.5
BYTES_AT_ONCE = 512 * 1024  # of deployments made in one commit, but for a single one that is larger
# Reports, answers and heartbeats share the session with logs, and wait for no more of them than this: a MiB at most.
LOGS = Bounds(streams=16, chunk_chars=16 * 1024, unread=2)


class Remotes(Protocol):
    """Keeps what the host says of services in other clusters; `control.remote_services` is one."""

    def opened(self) -> None:
        """Begin anew: a session has opened."""

    def closed(self) -> None:
        """Note that the session has ended."""

    def received(self, frame: SetRemotes | Withdrawn) -> None:
        """Take in what the host says."""

    async def settled(self) -> None:
        """Return once what was received is stored, or after a while."""

    async def run(self) -> None:
        """Work until cancelled. Raises Fenced."""


@dataclass(frozen=True, kw_only=True)
class Home:
    """What a cluster's agent has of its own control plane.

    `guard` makes a step fail when another has made a deployment meanwhile; `heard` gives what nodes said last that
    they use, `servers` what servers that lend said last; `remotes` makes what keeps services of other clusters, given
    an applier and a way to answer the host; `logs` reads what the host may read, and `errors` counts what gateways have
    answered. `clock` gives UTC seconds, `steady` seconds that nobody sets.
    """

    cache: Cache
    secrets: Secrets
    folder: Path
    new_id: Callable[[], str]
    guard: Callable[[Step, float], Step]
    heard: Callable[[], Heard]
    most_records: int  # of one commit
    remotes: Callable[[Applier, Callable[[RemotesApplied], None]], Remotes]
    logs: Lines
    errors: Callable[[], dict[str, int] | UnsetType]
    servers: Callable[[], HeardServers] = dict
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic


class ClusterMember:
    """One cluster on its session with the host, as `agent.session` sees it. Made anew whenever a process leads.

    `applier` is that of the process that leads; `heard_at` is when the host was last heard by whoever led before. Its
    `instance` names this lead among all others.
    """

    def __init__(self, home: Home, applier: Applier, heard_at: float = 0.0) -> None:
        self.outbox = ShareOutbox(home.steady)
        self.rooms = Counting(home.cache.snapshot, home.heard, self._included, home.servers, home.clock)
        self._answers: asyncio.Queue[Frame] = asyncio.Queue()
        self._remotes = home.remotes(applier, self._answers.put_nowait)
        self._errors = home.errors
        self._logs = LogStreams(home.logs, self._send, LOGS)
        self._sending: Callable[[Frame], Awaitable[None]] | None = None
        self.news = asyncio.Event()  # a session has opened or ended, or the host was heard
        self.welcome: Welcome | None = None
        self._cache = home.cache
        self._applier = applier
        self._guard = home.guard
        self._secrets = home.secrets
        self._servers = home.servers
        self._new_id = home.new_id
        self._most_records = home.most_records
        self._clock = home.clock
        self._steady = home.steady
        self._heard_before = heard_at
        self._instance = home.new_id()
        self._orders = Orders()
        self._ordered = asyncio.Event()
        self._due: set[str] | None = set()  # deployments whose orders are to be looked at; None: all
        self._refused: set[str] = set()  # deployments whose orders cannot be taken in
        self._dirty: set[str] = set()  # deployments that there may be something new to report of
        self._soiled = asyncio.Event()
        self._telling = Telling()
        self._weights: Weights = {}  # of nodes that are throttled

    @property
    def heard_at(self) -> float:
        """Return when what the host has answered was sent, in UTC seconds."""
        at = self.outbox.heard_at
        return self._heard_before if at is None else self._clock() - (self._steady() - at)

    def shortest_fence(self) -> float | None:
        """Return the seconds of the shortest fence there is; None: nothing asks for one."""
        found = fenceable(self._cache.snapshot())
        return min((each.spec.clusters.fence_seconds for each in found), default=None)

    # what the session asks of its member

    def hello(self) -> Hello:
        """Return the first frame."""
        nodes = self._cache.snapshot().nodes.values()
        facts = Facts(
            hostname=socket.gethostname()[:256],
            agent_version=VERSION,
            cpus=min(65536.0, sum(node.facts.cpus for node in nodes)),
            memory_bytes=min(2**60, sum(node.facts.memory_bytes for node in nodes)),
        )
        return Hello(
            protocol=PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PROTOCOL,
            instance=self._instance,
            agent_version=VERSION,
            boot_id="",
            facts=facts,
            variables=(),
            relays_logs=True,
        )

    def usage(self) -> Usage:
        """Return one sample: of errors alone, for what a cluster uses, its answers of room tell."""
        return Usage(errors_5xx=self._errors())

    def opened(self, welcome: Welcome) -> None:
        """Tell the host how all its shares are; its orders follow by themselves."""
        self.welcome = welcome
        self._orders, self._due = Orders(), set()
        self._refused.clear()
        while not self._answers.empty():
            self._answers.get_nowait()  # it was for the session before
        self._remotes.opened()
        snapshot = self._cache.snapshot()
        ours = [found for found in snapshot.deployments.values() if found.origin is not None]
        self._telling.begin()
        self.outbox.begin(
            self._telling.news((found.id, report_of(snapshot, found, weights=self._weights)) for found in ours)
        )
        self.news.set()

    def received(self, frame: ToMember) -> None:
        """Take in orders and questions."""
        match frame:
            case SetShares():
                self._orders.take(frame)
                self._order(None if frame.full else {*frame.removed, *(each.deployment_id for each in frame.orders)})
            case SharesStored(batch=batch):
                self.outbox.ack(batch)
                self.news.set()
            case AskRoom(questions=questions):
                self.rooms.ask(questions)
            case SetRemotes() | Withdrawn():
                self._remotes.received(frame)
            case OpenLog():
                self._logs.open(frame)
            case LogRead():
                self._logs.read(frame)
            case CloseLog(stream_id=stream_id):
                self._logs.close(stream_id)
            case _:
                _log.warning("frame not for a cluster", frame=type(frame).__name__)

    def closed(self) -> None:
        """Go on with what is stored; what the session had brought beside that is over."""
        self.welcome = None
        self._orders = Orders()
        self._remotes.closed()
        self._logs.close_all()
        self.rooms.ask(None)
        self.news.set()

    # what it does besides

    async def run(self, send: Callable[[Frame], Awaitable[None]]) -> None:
        """Take in orders, report and answer until cancelled. Raises Fenced when another process leads."""
        self._sending = send
        parts = (
            self._follow(),
            self._accept(),
            self._report(),
            self._watch_fences(),
            self._watch_weights(),
            self._answer(send),
            self._remotes.run(),
            self.rooms.run(send),
        )
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, frame: Frame) -> None:
        """Send a frame. Raises OSError when there is no session."""
        if self._sending is None:
            raise ConnectionError("there is no session yet")
        await self._sending(frame)

    async def _answer(self, send: Callable[[Frame], Awaitable[None]]) -> None:
        """Send what is said beside reports; without a session it is not needed."""
        while True:
            frame = await self._answers.get()
            with contextlib.suppress(OSError, TimeoutError):
                await send(frame)

    async def _follow(self) -> None:
        """Note what changes in the store."""
        subscription = self._cache.subscribe()
        try:
            async for changed in subscription:
                snapshot = self._cache.snapshot()
                self._look_at(concerned(snapshot, changed))
                if deployments := {id_ for kind, id_ in changed if kind == "deployments"}:
                    self._order(deployments | self._refused)  # a path may be free now
                self.rooms.changed({kind for kind, _ in changed})
                await asyncio.sleep(REST_SECONDS)
        finally:
            subscription.close()

    async def _accept(self) -> None:
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            if not self._orders.complete:
                continue
            await self._remotes.settled()  # gateways should know what is elsewhere before less runs here
            began = self._steady()
            due, self._due = self._due, set()
            try:
                done, left = await self._take_in(due)
            except Fenced:
                raise
            except StoreError as error:
                _log.warning("orders not taken in; they are tried again", error=str(error))
                done, left = False, True
            self._look_at(self._orders.orders if due is None else due)
            spent = self._steady() - began
            if left:
                self._order(due)
            await asyncio.sleep(RETRY_SECONDS if not done else spent if left else rest_seconds(spent))

    def _order(self, ids: set[str] | None) -> None:
        """Look soon at the orders of deployments; None: at all."""
        self._due = None if ids is None or self._due is None else self._due | ids
        self._ordered.set()

    async def _take_in(self, due: set[str] | None) -> tuple[bool, bool]:
        """Make deployments of the orders that are due; say whether all steps held, and whether something is left to do.

        Raises StoreError.
        """
        now = self._clock()
        plan = accept(self._cache.snapshot(), self._orders.orders, now, self._new_id, self.heard_at, due)
        made = [step for step in plan.steps if creates(step)]
        steps = [*self._registries(), *(step for step in plan.steps if not creates(step))]
        portion = first_steps(made, self._most_records - 1)  # one more is the guard
        if portion:
            steps.append(self._guard(Step(puts=tuple(record for step in portion for record in step.puts)), now))
        applied = await self._applier.apply(Plan(steps=steps))
        return applied.dropped == 0, applied.dropped > 0 or len(portion) < len(made)

    def _registries(self) -> tuple[Step, ...]:
        """Return what keeps how the registries of all orders are spoken to; it goes before what is pulled."""
        try:
            step = kept_registries(self._cache, self._secrets, self._orders.orders.values(), self._clock)
        except AuthorityError as error:
            _log.warning("logins of the host's registries are not kept", error=str(error))
            return ()
        return (step,) if step is not None else ()

    def _look_at(self, ids: Iterable[str]) -> None:
        """Look soon whether there is something new to report of deployments."""
        self._dirty.update(ids)
        if self._dirty:
            self._soiled.set()

    async def _report(self) -> None:
        while True:
            await self._soiled.wait()
            self._soiled.clear()
            began = self._steady()
            dirty, self._dirty = self._dirty, set()
            self._put(self._cache.snapshot(), dirty)
            await asyncio.sleep(rest_seconds(self._steady() - began))

    def _put(self, snapshot: Snapshot, ids: Iterable[str]) -> None:
        """Send the reports of deployments that differ from what was told."""
        found = {id_: self._report_of(snapshot, id_) for id_ in ids}
        for id_, report in found.items():
            if report is None:
                self.outbox.forget(id_)
        if news := self._telling.news(found.items()):
            self.outbox.put(news)

    def _report_of(self, snapshot: Snapshot, id_: str) -> ShareReport | None:
        order, deployment = self._orders.orders.get(id_), snapshot.deployments.get(id_)
        self._refused.discard(id_)
        if order is not None and (why := refusal(snapshot, order)):
            self._refused.add(id_)
            return refused(order, why)
        if deployment is None or deployment.origin is None:
            return None
        revision = order.revision if order is not None and follows(deployment, order) else None
        return report_of(snapshot, deployment, revision, self._weights)

    def _included(self, snapshot: Snapshot) -> Mapping[str, int]:
        """Return the orders that are taken in, deployment id -> revision: a count of room includes them."""
        found = {}
        for id_, deployment in snapshot.deployments.items():
            if deployment.origin is not None:
                order = self._orders.orders.get(id_)
                taken = order is not None and follows(deployment, order)
                found[id_] = order.revision if taken and order is not None else deployment.origin.revision
        return found

    async def _watch_weights(self) -> None:
        """Look how throttled nodes on lent capacity are: the host's gateways send them fewer requests, too."""
        while True:
            snapshot, then = self._cache.snapshot(), self._weights
            self._weights = weights(snapshot, self._servers(), self._clock(), then)
            self._look_at(reweighed(snapshot, self._weights, then))
            await asyncio.sleep(LOOK_SECONDS)

    async def _watch_fences(self) -> None:
        while True:
            await asyncio.sleep(FENCE_LOOK_SECONDS)
            snapshot, now, shortest = self._cache.snapshot(), self._clock(), self.shortest_fence()
            if fenced := {id_ for id_, found in snapshot.deployments.items() if found.origin and found.origin.fenced}:
                self._order(fenced)  # they may come back
            if shortest is None:
                continue
            if now - self.heard_at > shortest / 4:
                self.outbox.ask_for_a_sign()
            try:
                await self._applier.apply(fence(snapshot, self.heard_at, now, self._new_id))
            except Fenced:
                raise
            except StoreError as error:
                _log.warning("a fence could not be stored; it is tried again", error=str(error))


def first_steps(steps: Sequence[Step], most_records: int) -> list[Step]:
    """Return the first of some steps, as many as one commit should have; at least one."""
    return list(next(portions(steps, most_records, BYTES_AT_ONCE, _weigh), ()))


def _weigh(step: Step) -> tuple[int, int]:
    """Return how many records a step writes, and their bytes."""
    return len(step.puts), sum(map(encoded_bytes, step.puts))
