"""Machines of nodes: a scripted engine that outlives its drivers, a disk that may be full, probes without a network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from fallow.agent.image_notes import ImageNotes
from fallow.agent.journal import Journal
from fallow.decide.agent.messages import Probe, ProbeResult
from fallow.drivers.engine.contract import (
    Container,
    ContainerRequest,
    Credentials,
    EngineError,
    EngineEvent,
    EngineInfo,
    Image,
    Progress,
    StoredImage,
)
from fallow.drivers.engine.fake import FakeEngine, FakeMachine, Program
from simulation.clock import Process

T = TypeVar("T")

STUBBORN = ("sleep", "forever")  # ignores its stop signal
EXITS = ("false",)
ILL = ("serve", "nothing")  # runs and never answers
ANSWER_SECONDS = 0.004
SLOWEST = {"create": 0.05, "start": 0.1, "pull": 1.5, "stop": 0.2}  # seconds at most, of a machine that is well


class Disk:
    """What an agent keeps. A full one refuses to write; what was written survives a power cut."""

    def __init__(self) -> None:
        self.full = False
        self.data: bytes | None = None

    def write(self, _path: Path, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.data = data

    def notes(self) -> ImageNotes:
        """Return an agent's notes on images; a power cut loses them, which costs nothing but their age."""
        return ImageNotes(Path("/nonexistent"), lambda _path, _data: None)

    def journal(self) -> Journal | None:
        return msgspec.json.decode(self.data, type=Journal) if self.data is not None else None


class Machine(FakeMachine):
    """A node's machine. `watch` is told whenever a container starts or ends."""

    def __init__(self, node_id: str, address: str, clock: Callable[[], float], watch: Any) -> None:
        super().__init__(clock=clock)
        self.node_id = node_id
        self.address = address
        self.disk = Disk()
        self.watch = watch
        self.work = Process("engine")  # what the engine has begun
        self.powered = True
        self.sick: dict[str, None] = {}  # replicas whose probes fail
        self.slowness = 1.0
        self.programs[STUBBORN] = Program(heeds_stop=False)
        self.programs[EXITS] = Program(exit_code=1)
        self.stopping: dict[str, None] = {}  # containers being ended because the agent asked for it

    def begin(self, box: Any) -> None:
        super().begin(box)
        self.watch.container_started(self, box.container.replica_id)

    def end(self, box: Any, exit_code: int, *, out_of_memory: bool = False) -> None:
        super().end(box, exit_code, out_of_memory=out_of_memory)
        asked = box.container.id in self.stopping
        self.watch.container_ended(self, box.container.replica_id, exit_code, asked)

    def power_cut(self) -> None:
        self.powered = False
        self.work.kill()
        self.set_online(False)
        ended = self.running()
        super().power_cut()
        for replica_id in ended:
            self.watch.container_ended(self, replica_id, 137, False)

    def power_on(self) -> None:
        self.powered = True
        self.work = Process("engine")
        self.stopping.clear()
        self.set_online(True)

    def containers(self) -> dict[str, str]:
        """Return the status of every container by replica id."""
        return {box.container.replica_id: box.container.status for box in self.boxes(self.node_id)}

    def command(self, replica_id: str) -> tuple[str, ...] | None:
        """Return what a replica's container runs."""
        for box in self.boxes(self.node_id):
            if box.container.replica_id == replica_id:
                return box.request.spec.command
        return None

    def running(self) -> list[str]:
        return [replica_id for replica_id, status in self.containers().items() if status == "running"]

    def serves(self, port: int) -> str:
        """Return the replica that answers at a host port; empty when none does."""
        for box in self.boxes(self.node_id) if self.powered else ():
            if box.container.status == "running" and port in box.container.host_ports.values():
                return box.container.replica_id
        return ""


class Engine:
    """A driver of a Machine for one agent process. What the engine has begun goes on when the agent dies."""

    def __init__(self, machine: Machine, process: Process, chance: Random) -> None:
        self.machine = machine
        self._inner = FakeEngine(machine, machine.node_id)
        self._process = process
        self._chance = chance
        self.lost_answers = 0.0  # share of operations that are done though their answer is lost

    async def _call(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        if not self._process.alive:
            raise EngineError("unreachable", "the agent is dead")
        seconds = ANSWER_SECONDS + self._chance.random() * SLOWEST.get(what, 0.01) * self.machine.slowness
        if not self.machine.powered:
            raise EngineError("unreachable", "the machine is off")

        async def at_the_engine() -> T:
            await asyncio.sleep(seconds)
            return await work()

        answer = await asyncio.shield(self.machine.work.spawn(at_the_engine()))
        await asyncio.sleep(ANSWER_SECONDS)
        if what in SLOWEST and self._chance.random() < self.lost_answers:
            raise EngineError("unreachable", "the answer was lost")
        return answer

    async def info(self) -> EngineInfo:
        return await self._call("info", self._inner.info)

    async def image(self, reference: str) -> Image | None:
        return await self._call("image", lambda: self._inner.image(reference))

    async def pull(
        self,
        reference: str,
        credentials: Credentials | None = None,
        on_progress: Progress | None = None,
        insecure: bool = False,
    ) -> Image:
        return await self._call("pull", lambda: self._inner.pull(reference, credentials, on_progress, insecure))

    async def images(self) -> list[StoredImage]:
        return await self._call("images", self._inner.images)

    async def tag(self, image_id: str, reference: str) -> None:
        await self._call("tag", lambda: self._inner.tag(image_id, reference))

    async def delete_image(self, name: str) -> None:
        await self._call("delete_image", lambda: self._inner.delete_image(name))

    async def load(self, archive: AsyncIterator[bytes]) -> tuple[str, ...]:
        return await self._inner.load(archive)

    def image_events(self) -> AsyncIterator[str]:
        return self._inner.image_events()

    async def disk(self) -> tuple[int, int]:
        return await self._call("disk", self._inner.disk)

    async def create(self, request: ContainerRequest) -> Container:
        self.machine.watch.container_ordered(self.machine, request.replica_id)
        return await self._call("create", lambda: self._inner.create(request))

    async def start(self, container_id: str) -> Container:
        return await self._call("start", lambda: self._inner.start(container_id))

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        async def stop() -> None:
            self.machine.stopping[container_id] = None
            try:
                await self._inner.stop(container_id, grace_seconds)
            finally:
                self.machine.stopping.pop(container_id, None)

        await self._call("stop", stop)

    async def remove(self, container_id: str) -> None:
        await self._call("remove", lambda: self._inner.remove(container_id))

    async def inspect(self, container_id: str) -> Container | None:
        return await self._call("inspect", lambda: self._inner.inspect(container_id))

    async def list(self) -> list[Container]:
        return await self._call("list", self._inner.list)

    def events(self) -> AsyncIterator[EngineEvent]:
        return self._inner.events()

    def logs(self, container_id: str, follow: bool = False, tail: int = 100) -> AsyncIterator[str]:
        return self._inner.logs(container_id, follow, tail)

    async def execute(self, container_id: str, command: tuple[str, ...], timeout_seconds: float) -> int:
        return await self._call("execute", lambda: self._inner.execute(container_id, command, timeout_seconds))

    async def close(self) -> None:
        """Nothing to release."""


class Prober:
    """Answers probes as the container would."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def probe(self, order: Probe) -> ProbeResult:
        await asyncio.sleep(ANSWER_SECONDS)
        machine, id_ = self._machine, order.replica_id
        sick = id_ in machine.sick or machine.command(id_) == ILL
        well = machine.powered and not sick and machine.containers().get(id_) == "running"
        outcome: Any = "ok" if well else "failed"
        return ProbeResult(
            replica_id=id_, serial=order.serial, outcome=outcome, text="" if well else "connection refused"
        )
