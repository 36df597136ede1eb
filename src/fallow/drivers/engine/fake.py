"""An engine in memory, scripted: images, programs, delays and faults, and containers that end when told to.

FakeMachine is the machine: it outlives the drivers (FakeEngine) that talk to it, as a real engine does.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from fallow.drivers.engine.configuration import unapplied
from fallow.drivers.engine.contract import (
    Container,
    ContainerRequest,
    EngineError,
    EngineEvent,
    EngineInfo,
)
from fallow.drivers.engine.fake_images import FakeImages, ImageShelf
from fallow.model.containers import ContainerSpec
from fallow.model.references import qualified


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a command does: says `output`, then ends with `exit_code`, or runs until stopped when that is None."""

    output: tuple[str, ...] = ()
    exit_code: int | None = None
    heeds_stop: bool = True  # else it is killed after the grace: exit code 137
    start_error: EngineError | None = None


@dataclass
class _Box:
    """A container and whose it is."""

    container: Container
    node_id: str
    request: ContainerRequest
    image_id: str = ""
    log: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeMachine(ImageShelf):
    """A machine with an engine. Set its attributes to script it; call `exit`, `fail` and `set_online` for faults.

    `programs` says what a container's command does, by its command line; `commands` what `execute` answers: an exit
    code, or None to run without end. Both default to what is most useful: run until stopped, and 0.
    """

    def __init__(
        self,
        *,
        architecture: str = "amd64",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__()
        self.info = EngineInfo(
            name="fake",
            version="1",
            api_version="1.41",
            architecture=architecture,
            os="Fake",
            kernel="1",
            hostname="fake",
            cpus=4.0,
            memory_bytes=8 * 2**30,
            disk_bytes=100 * 2**30,
            disk_free_bytes=50 * 2**30,
        )
        self.programs: dict[tuple[str, ...], Program] = {}
        self.commands: dict[tuple[str, ...], int | None] = {}
        self.delays: dict[str, float] = {}  # of a method, in seconds
        self.foreign_ports: set[int] = set()
        self.unlimited = False  # limits are accepted and not applied
        self.calls: list[tuple[str, str]] = []  # method and its subject, in order
        self.clock = clock
        self.sleep = sleep
        self._online = True
        self._faults: defaultdict[str, list[EngineError]] = defaultdict(list)
        self._boxes: dict[str, _Box] = {}
        self._numbers = itertools.count(1)
        self._listeners: list[tuple[str, asyncio.Queue[EngineEvent | None]]] = []

    def fail(self, method: str, *errors: EngineError) -> None:
        """Let the next calls of `method` raise these, one each."""
        self._faults[method] += errors

    def set_online(self, online: bool) -> None:
        """Let the engine be reached or not; streams of events break when it is not."""
        self._online = online
        if not online:
            self.tell(None)
            for _, queue in self._listeners:
                queue.put_nowait(None)

    def exit(self, replica_id: str, exit_code: int, *, out_of_memory: bool = False) -> None:
        """End a replica's running container, as if by itself."""
        self.end(self.box_of(replica_id), exit_code, out_of_memory=out_of_memory)

    def power_cut(self) -> None:
        """End everything without a word, as after a reboot."""
        for box in self._boxes.values():
            if box.container.status == "running":
                box.container = replace(box.container, status="exited", exit_code=137)

    def say(self, replica_id: str, *lines: str) -> None:
        """Let a replica's container write to its log."""
        box = self.box_of(replica_id)
        box.log += lines
        self._wake(box)

    # what follows is for FakeEngine

    async def enter(self, method: str, subject: str = "") -> None:
        """Begin a call: note it, take its delay, raise the fault that is due."""
        self.calls.append((method, subject))
        if delay := self.delays.get(method, 0.0):
            await self.sleep(delay)
        if not self._online:
            raise EngineError("unreachable", "the engine cannot be reached: it was switched off")
        if self._faults[method]:
            raise self._faults[method].pop(0)

    def box_of(self, replica_id: str) -> _Box:
        """Return a replica's container. Raises KeyError."""
        for box in self._boxes.values():
            if box.container.replica_id == replica_id:
                return box
        raise KeyError(replica_id)

    def boxes(self, node_id: str) -> list[_Box]:
        """Return the containers of one node."""
        return [box for box in self._boxes.values() if box.node_id == node_id]

    def box(self, container_id: str, node_id: str) -> _Box | None:
        """Return one of a node's containers."""
        found = self._boxes.get(container_id)
        return found if found is not None and found.node_id == node_id else None

    def add(self, request: ContainerRequest, node_id: str) -> _Box:
        """Make a container."""
        asked = request.spec.resources
        container = Container(
            id=f"{next(self._numbers):064x}",
            replica_id=request.replica_id,
            deployment=request.deployment,
            spec_hash=request.spec_hash,
            status="created",
            address="127.0.0.1",
            host_ports=dict(request.host_ports),
            applied_cpus=0.0 if self.unlimited else asked.cpu_limit,
            applied_memory_bytes=0 if self.unlimited else asked.memory_limit_bytes,
            applied_pids=0 if self.unlimited else asked.pids_limit,
        )
        image = self.known(request.image_id or qualified(request.spec.image))
        box = self._boxes[container.id] = _Box(container, node_id, request, image.id if image is not None else "")
        return box

    def discard(self, box: _Box) -> None:
        """Remove a container."""
        del self._boxes[box.container.id]
        self._tell(box, "removed")
        self._wake(box)

    @property
    def shelf(self) -> ImageShelf:
        """Return its images."""
        return self

    def used_images(self) -> list[str]:
        """Return the image id of every container, of any node."""
        return [box.image_id for box in self._boxes.values()]

    def begin(self, box: _Box) -> None:
        """Start a container and let its program do what it does at once."""
        program = self.program(box.request.spec)
        if program.start_error is not None:
            raise program.start_error
        running = [other.container for other in self._boxes.values() if other.container.status == "running"]
        taken = self.foreign_ports.union(*(other.host_ports.values() for other in running))
        for port in taken.intersection(box.container.host_ports.values()):
            raise EngineError("port-in-use", f"port {port} is already allocated")
        box.container = replace(box.container, status="running", started_at=self.clock(), exit_code=None)
        self._tell(box, "started")
        box.log += program.output
        self._wake(box)
        if program.exit_code is not None:
            self.end(box, program.exit_code)

    def end(self, box: _Box, exit_code: int, *, out_of_memory: bool = False) -> None:
        """End a running container."""
        box.container = replace(box.container, status="exited", exit_code=exit_code, out_of_memory=out_of_memory)
        self._tell(box, "exited", exit_code)
        self._wake(box)

    def program(self, spec: ContainerSpec) -> Program:
        """Return what a container of this spec does."""
        return self.programs.get(tuple(spec.entrypoint or ()) + tuple(spec.command or ()), Program())

    def listen(self, node_id: str) -> asyncio.Queue[EngineEvent | None]:
        """Return a queue of a node's events from now on; None says that the stream broke."""
        queue: asyncio.Queue[EngineEvent | None] = asyncio.Queue()
        self._listeners.append((node_id, queue))
        if not self._online:
            queue.put_nowait(None)
        return queue

    def ignore(self, queue: asyncio.Queue[EngineEvent | None]) -> None:
        """End what `listen` began."""
        self._listeners = [entry for entry in self._listeners if entry[1] is not queue]

    def _tell(self, box: _Box, kind: Literal["started", "exited", "removed"], exit_code: int | None = None) -> None:
        event = EngineEvent(
            kind=kind,
            container_id=box.container.id,
            replica_id=box.container.replica_id,
            exit_code=exit_code,
            at=self.clock(),
        )
        for node_id, queue in self._listeners:
            if node_id == box.node_id:
                queue.put_nowait(event)

    def _wake(self, box: _Box) -> None:
        box.changed.set()
        box.changed = asyncio.Event()


class FakeEngine(FakeImages):
    """A driver of a FakeMachine for one node."""

    def __init__(self, machine: FakeMachine, node_id: str) -> None:
        super().__init__(machine)
        self.machine = machine
        self._node_id = node_id

    async def info(self) -> EngineInfo:
        """Return what the machine is."""
        await self.machine.enter("info")
        return self.machine.info

    async def create(self, request: ContainerRequest) -> Container:
        """Make the container; see the contract."""
        await self.machine.enter("create", request.replica_id)
        with suppress(KeyError):
            box = self.machine.box_of(request.replica_id)
            if box.node_id != self._node_id or box.container.spec_hash != request.spec_hash:
                raise EngineError("conflict", f"fallow-{request.replica_id} was made from something else")
            return box.container
        if self.machine.known(request.image_id or qualified(request.spec.image)) is None:
            raise EngineError("not-found", f"no such image: {request.spec.image}")
        box = self.machine.add(request, self._node_id)
        faults = unapplied(request.spec.resources, box.container)
        if faults:
            self.machine.discard(box)
            raise EngineError("failed", f"the engine did not apply: {', '.join(faults)}")
        return box.container

    async def start(self, container_id: str) -> Container:
        """Start it; no error when it runs already."""
        box = await self._require("start", container_id)
        if box.container.status != "running":
            self.machine.begin(box)
        return box.container

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        """End it: at once when its program heeds, else after the grace."""
        await self.machine.enter("stop", container_id)
        box = self.machine.box(container_id, self._node_id)
        if box is None or box.container.status != "running":
            return
        heeds = self.machine.program(box.request.spec).heeds_stop
        if not heeds:
            await self.machine.sleep(grace_seconds)
        if box.container.status == "running":
            self.machine.end(box, 0 if heeds else 137)

    async def remove(self, container_id: str) -> None:
        """Remove an ended container; no error when it is gone."""
        await self.machine.enter("remove", container_id)
        box = self.machine.box(container_id, self._node_id)
        if box is None:
            return
        if box.container.status == "running":
            raise EngineError("conflict", "a running container is not removed")
        self.machine.discard(box)

    async def inspect(self, container_id: str) -> Container | None:
        """Return one of our containers; None when it is gone or not ours."""
        await self.machine.enter("inspect", container_id)
        box = self.machine.box(container_id, self._node_id)
        return box.container if box is not None else None

    async def list(self) -> list[Container]:
        """Return all of our containers."""
        await self.machine.enter("list")
        return [box.container for box in self.machine.boxes(self._node_id)]

    def events(self) -> AsyncIterator[EngineEvent]:
        """Yield events of our containers from now on."""
        return self._events(self.machine.listen(self._node_id))

    async def _events(self, queue: asyncio.Queue[EngineEvent | None]) -> AsyncIterator[EngineEvent]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.machine.ignore(queue)
        raise EngineError("unreachable", "the engine closed the stream of events")

    async def logs(self, container_id: str, follow: bool = False, tail: int = 100) -> AsyncIterator[str]:
        """Yield log lines; when following, until the container has ended."""
        box = await self._require("logs", container_id)
        position = max(0, len(box.log) - tail)
        while True:
            while position < len(box.log):
                position += 1
                yield box.log[position - 1]
            if not follow or box.container.status != "running":
                return
            await box.changed.wait()

    async def execute(self, container_id: str, command: tuple[str, ...], timeout_seconds: float) -> int:
        """Answer what `machine.commands` says; 124 after the timeout when it says None."""
        box = await self._require("execute", container_id)
        if box.container.status != "running":
            raise EngineError("conflict", "the container does not run")
        code = self.machine.commands.get(command, 0)
        if code is None:
            await self.machine.sleep(timeout_seconds)
            return 124
        return code

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    async def _require(self, method: str, container_id: str) -> _Box:
        await self.machine.enter(method, container_id)
        box = self.machine.box(container_id, self._node_id)
        if box is None:
            raise EngineError("not-found", f"this node has no container {container_id[:12]}")
        return box
