"""Runs the state machine of a node on a container engine: instructions become tasks, their outcomes events."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from fallow.agent.journal import Journal, JournalError, JournalWriter
from fallow.agent.probes import Prober
from fallow.agent.pulling import PullFailed
from fallow.agent.reserve import Reserve
from fallow.decide.agent import AgentMachine
from fallow.decide.agent import messages as m
from fallow.drivers.engine.contract import Container, ContainerRequest, Engine, EngineError, EngineInfo, Resolving
from fallow.model.deployments import Observation
from fallow.model.images import PlatformImage

_log = structlog.get_logger("fallow.agent.shell")

CREATES_AT_ONCE = 4  # engines become slower in total with more
QUICK_SECONDS = 30.0  # for what an engine answers from memory
START_SECONDS = 180.0
RETRY_SECONDS = 0.2
RETRY_CAP_SECONDS = 5.0

Report = Callable[[Sequence[Observation]], None]
T = TypeVar("T")


class ImageSource(Protocol):
    """Where a replica's image comes from. Both raise EngineError and PullFailed."""

    async def find(self, reference: str, replica_id: str) -> tuple[str | None, PlatformImage | None]:
        """Return the id of the image it is to be started from, None when it is not there, and which it has to be."""

    async def pull(self, reference: str, replica_id: str, wanted: PlatformImage | None) -> str:
        """Get the image, and return its id."""


class Shell:
    """One machine and one engine. `clock` gives UTC seconds."""

    def __init__(
        self,
        engine: Engine,
        machine: AgentMachine,
        journal: JournalWriter,
        report: Report,
        images: ImageSource,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._machine = machine
        self._journal = journal
        self._report = report
        self._images = images
        self._wanted: dict[tuple[str, str], PlatformImage | None] = {}  # what was found to be missing
        self._bind_address: Callable[[], str] = str
        self.resolving: Callable[[str], Resolving] = lambda _: Resolving()  # how containers of a deployment find names
        self.reserve: Reserve | None = None  # to remove containers from a full disk
        self._clock = clock
        self._prober = Prober(engine)
        self._creates = asyncio.Semaphore(CREATES_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[m.TimerKey, asyncio.TimerHandle] = {}
        self._closed = False
        self.info: EngineInfo | None = None  # what the engine said of itself last
        self.met = asyncio.Event()  # set once the engine has answered

    def publishes_at(self, bind_address: Callable[[], str]) -> None:
        """Let containers' ports be published at an address of this machine; without one at all of them."""
        self._bind_address = bind_address
        self._prober = Prober(self._engine, bind_address)

    def feed(self, event: m.Event) -> None:
        """Hand the machine one event and start what it asks for."""
        if self._closed:
            return
        for order in self._machine.handle(event, self._clock()):
            self._take(order)

    async def run(self) -> None:
        """Listen to the engine until cancelled; then everything under way is dropped, and no container touched."""
        tries = 0
        complained = ""
        if self.reserve is not None:
            await asyncio.to_thread(self.reserve.keep)
        try:
            while True:
                begun = time.monotonic()
                try:
                    await self._listen()
                except EngineError as error:
                    reason = str(error)
                    if time.monotonic() - begun > RETRY_CAP_SECONDS:
                        tries, complained = 0, ""
                    if reason != complained:
                        complained = reason
                        _log.warning("no engine; trying again", reason=reason)
                    self.feed(m.EngineLost(text=reason))
                await asyncio.sleep(min(RETRY_CAP_SECONDS, RETRY_SECONDS * 2.0**tries))
                tries = min(tries + 1, 16)
        finally:
            await self._close()

    async def _listen(self) -> None:
        """Hear the engine's events for as long as it tells them. Raises EngineError at the end."""
        self.info = await _within(QUICK_SECONDS, self._engine.info())
        listening = asyncio.create_task(self._hear())
        try:
            await asyncio.sleep(0)  # let the stream open first: what happens before the listing is then not missed
            _log.info("engine found", engine=self.info.name, version=self.info.version)
            self.met.set()
            self.feed(m.EngineBack())
            await listening
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _hear(self) -> None:
        async for event in self._engine.events():
            self.feed(m.ContainerChanged(replica_id=event.replica_id, container_id=event.container_id))
        raise EngineError("unreachable", "the engine closed its stream of events")

    async def _close(self) -> None:
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._save()

    def _take(self, order: m.Instruction) -> None:
        match order:
            case m.SetTimer():
                self._set_timer(order)
            case m.Report(observations=observations):
                self._report(observations)
            case m.SaveJournal():
                self._journal.put(
                    Journal(assignments=order.assignments, failed=dict(order.failed), serial=order.serial)
                )
                self._start(self._save())
            case m.Warn(text=text):
                _log.warning("odd", text=text)
            case _:
                self._start(self._answer(order))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_timer(self, order: m.SetTimer) -> None:
        before = self._timers.pop(order.key, None)
        if before is not None:
            before.cancel()
        delay = max(0.0, order.at - self._clock())
        self._timers[order.key] = asyncio.get_running_loop().call_later(delay, self._fire, order)

    def _fire(self, order: m.SetTimer) -> None:
        self._timers.pop(order.key, None)
        self.feed(m.TimerFired(key=order.key, serial=order.serial))

    async def _save(self) -> None:
        try:
            await self._journal.flush()
        except JournalError as error:
            _log.error("journal not saved", reason=str(error))

    async def _answer(self, order: m.Instruction) -> None:
        """Carry out one instruction and feed back its one event, whatever happens."""
        try:
            event = await self._perform(order)
        except (EngineError, PullFailed) as error:
            event = _failure(order, error.kind, str(error))
        except Exception as error:  # noqa: BLE001 - an instruction without an answer would hold up its replica for good
            _log.error("instruction failed", order=type(order).__name__, exc_info=True)
            event = _failure(order, "failed", f"{type(error).__name__}: {error}")
        self.feed(event)

    async def _perform(self, order: m.Instruction) -> m.Event:
        match order:
            case m.Probe():
                return await self._prober.probe(order)
            case m.FindImage(reference=reference, pin=pin, replica_id=id_):
                found, wanted = await self._images.find(reference, id_)
                if found is None:
                    self._wanted[reference, pin] = wanted
                    return m.ImageMissing(reference=reference, pin=pin)
                return m.ImageReady(reference=reference, pin=pin, image_id=found)
            case m.PullImage(reference=reference, pin=pin, replica_id=id_):
                image_id = await self._images.pull(reference, id_, self._wanted.pop((reference, pin), None))
                return m.ImageReady(reference=reference, pin=pin, image_id=image_id)
            case m.StartContainer():
                async with self._creates:
                    return await self._create_and_start(order)
        return await self._look_or_end(order)

    async def _look_or_end(self, order: m.Instruction) -> m.Event:
        match order:
            case m.ListContainers(mark=mark):
                found = await _within(QUICK_SECONDS, self._engine.list())
                return m.EngineListed(mark=mark, containers=tuple(fact_of(container) for container in found))
            case m.InspectContainer(replica_id=id_, container_id=container_id, mark=mark):
                seen = await _within(QUICK_SECONDS, self._engine.inspect(container_id))
                fact = fact_of(seen) if seen is not None else None
                return m.ContainerSeen(replica_id=id_, container_id=container_id, mark=mark, container=fact)
            case m.StopContainer(replica_id=id_, container_id=container_id, grace_seconds=grace):
                await self._save()
                await _within(grace + QUICK_SECONDS, self._engine.stop(container_id, grace))
                return m.ContainerStopped(replica_id=id_)
            case m.RemoveContainer(replica_id=id_, container_id=container_id):
                if self.reserve is not None:
                    await _within(START_SECONDS, self.reserve.remove(self._engine, container_id))
                else:
                    await _within(START_SECONDS, self._engine.remove(container_id))
                return m.ContainerRemoved(replica_id=id_)
        raise AssertionError(order)

    async def _create_and_start(self, order: m.StartContainer) -> m.Event:
        """Make and start a container, but not before the journal knows of it: else it would be a stray one."""
        wanted = order.assignment
        try:
            await self._journal.flush()
        except JournalError as error:
            raise EngineError("no-space", str(error)) from error
        request = ContainerRequest(
            replica_id=wanted.replica_id,
            deployment=wanted.deployment,
            spec=wanted.container,
            host_ports=dict(wanted.host_ports),
            bind_address=self._bind_address(),
            resolving=self.resolving(wanted.deployment),
            spec_hash=order.spec_hash,
            image_id=order.image_id,
        )
        made = await _within(START_SECONDS, self._engine.create(request))
        try:
            started = await _within(START_SECONDS, self._engine.start(made.id))
        except EngineError as error:
            return m.StartFailed(
                replica_id=wanted.replica_id, kind=error.kind, text=str(error), container=fact_of(made)
            )
        _log.info("container started", replica=wanted.replica_id, container=started.id[:12])
        return m.ContainerStarted(replica_id=wanted.replica_id, container=fact_of(started))


def fact_of(container: Container) -> m.ContainerFact:
    """Return what the machine needs to know of a container."""
    return m.ContainerFact(
        id=container.id,
        replica_id=container.replica_id,
        spec_hash=container.spec_hash,
        status=container.status,
        address=container.address,
        host_ports=dict(container.host_ports),
        started_at=container.started_at,
        exit_code=container.exit_code,
        out_of_memory=container.out_of_memory,
    )


async def _within(seconds: float, work: Awaitable[T]) -> T:
    """Await an engine's answer. Raises EngineError, "unreachable" when there is none in time."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError as error:
        raise EngineError("unreachable", f"the engine did not answer in {seconds:g} s") from error


def _failure(order: m.Instruction, kind: str, text: str) -> m.Event:
    """Return the event that answers an instruction which could not be carried out."""
    match order:
        case m.ListContainers(mark=mark):
            return m.ListFailed(mark=mark, text=text)
        case m.InspectContainer(replica_id=id_):
            return m.InspectFailed(replica_id=id_)
        case m.FindImage(reference=reference, pin=pin) | m.PullImage(reference=reference, pin=pin):
            return m.ImageFailed(reference=reference, pin=pin, kind=kind, text=text)
        case m.StartContainer(assignment=assignment):
            return m.StartFailed(replica_id=assignment.replica_id, kind=kind, text=text)
        case m.StopContainer(replica_id=id_) | m.RemoveContainer(replica_id=id_):
            return m.StopFailed(replica_id=id_, kind=kind, text=text)
        case m.Probe(replica_id=id_, serial=serial):
            return m.ProbeResult(replica_id=id_, serial=serial, outcome="unknown", text=text)
    raise AssertionError(order)
