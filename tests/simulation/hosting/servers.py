"""A server as it is beneath its agent: a primary application with a load, limits in a kernel, and virtual machines."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeVar

from fallow.agent.peaks import Peaks
from fallow.agent.whole import MeasureError
from fallow.decide.harvest.lending import Expected
from fallow.decide.harvest.measured import Measured
from fallow.drivers.limits.fake import FakeLimits
from fallow.drivers.machine.contract import FoundMachine, MachineError, MachineSpec, MachineUse, Seed
from fallow.drivers.machine.fake import FakeMachines
from fallow.model.pools import PortRange
from fallow.model.server_pools import Isolation
from fallow.model.servers import PrimaryUse
from simulation.clock import Process, forever
from simulation.machines import Machine

T = TypeVar("T")
GIB = 2**30
SYSTEM_CPUS = 0.1
BOOTED_BYTES = 300 * 2**20  # that a virtual machine uses with nothing in it
MARGIN = 0.02  # of the processors: what is foretold is this much above what is used


@dataclass
class Guest:
    """What is on the disk of one virtual machine: who it joined as, if it did. It is gone with the disk."""

    vm_id: str
    number: int  # of all disks ever
    seed: Seed | None = None
    member_id: str = ""
    machine: Machine | None = None
    process: Process | None = None  # the machine, while it runs


class Server:
    """The machine. Its agents come and go; `own` is what the primary uses now, in processors."""

    def __init__(self, id_: str, name: str, cpus: float, chance: Random, now: Callable[[], float]) -> None:
        self.id, self.name, self.cpus, self.memory_bytes = id_, name, cpus, 16 * GIB
        self.limits = FakeLimits()
        self.machines = FakeMachines()
        self.guests: dict[str, Guest] = {}
        self.work = Process(f"{name} hardware")
        self.powered = True
        self.shuts_down = False
        # what goes wrong
        self.blind = ""  # "fails": nothing can be read; "hangs": reading does not come back
        self.primary_missing = False
        self.waits: dict[str, float] = {}  # shares of the time in which the primary waits, as a measurement has them
        self.deaf: dict[str, None] = {}  # machines that ignore their balloon
        self.hung: dict[str, None] = {}  # machines that do not stop when they are asked to
        self.away = False  # the hypervisor does not answer
        self.boots_fail = 0  # so many of the next boots
        # what is used
        self.own_memory = 2 * GIB
        self._chance = chance
        self._now = now
        self._own = 0.05 * cpus
        self._used, self._since, self._measured_at = 0.0, now(), now()
        self._greed: dict[str, float] = {}  # replicas: what they use of what they asked for

    @property
    def own_cpus(self) -> float:
        """Return what the primary and the system use now."""
        return min(self.cpus, self._own + SYSTEM_CPUS)

    def load(self, share: float) -> None:
        """Let the primary use so much of all processors from now on."""
        now = self._now()
        self._used, self._since = self._used + self.own_cpus * (now - self._since), now
        self._own = share * self.cpus

    def limit(self) -> float:
        """Return what the kernel lets everything that is lent use, together."""
        held = self.limits.cpus()
        return self.cpus if held is None else held

    def lent_cpus(self) -> float:
        """Return what is lent uses now."""
        wanted = 0.0
        for guest in self.running():
            wanted += 0.02 + sum(self._wanted(box) for box in _boxes(guest))
        return max(0.0, min(wanted, self.limit(), self.cpus - self.own_cpus))

    def lent_memory(self) -> int:
        """Return the memory of all machines that run; one that heeds its balloon stays below it."""
        total = 0
        for guest in self.running():
            machine = self.machines.machines[guest.vm_id]
            used = BOOTED_BYTES + sum(_asked_memory(box) for box in _boxes(guest))
            if machine.held_bytes and guest.vm_id not in self.deaf:
                used = min(used, machine.held_bytes)
            total += used
        return total

    def running(self) -> list[Guest]:
        """Return the machines that run."""
        return [guest for guest in self.guests.values() if guest.process is not None]

    def measure(self) -> Measured:
        """Return the means since the last call. Raises MeasureError."""
        if self.blind == "fails":
            raise MeasureError("nothing can be read")
        now, lent = self._now(), self.lent_cpus()
        self.load(self._own / self.cpus)
        seconds = max(1e-3, now - self._measured_at)
        own, self._used, self._measured_at = self._used / seconds, 0.0, now
        primary = PrimaryUse(name="process:shop", found=not self.primary_missing)
        if not self.primary_missing:
            cpus = max(0.0, own - SYSTEM_CPUS)
            primary = PrimaryUse(name="process:shop", found=True, cpus=cpus, memory_bytes=self.own_memory, **self.waits)
        lent_memory = self.lent_memory()
        return Measured(
            at=now,
            seconds=seconds,
            cpus=self.cpus,
            memory_bytes=self.memory_bytes,
            used_cpus=min(self.cpus, own + lent),
            used_memory_bytes=min(self.memory_bytes, self.own_memory + lent_memory),
            lent_cpus=lent,
            lent_memory_bytes=lent_memory,
            throttled=1.0 if lent and lent >= self.limit() - 1e-9 else 0.0,
            primaries=(primary,),
        )

    def _wanted(self, box: Any) -> float:
        id_ = box.container.replica_id
        if id_ not in self._greed:
            self._greed[id_] = self._chance.uniform(0.3, 1.6)
        return float(box.request.spec.resources.cpus) * self._greed[id_]


class Reading:
    """Measures a server for one agent."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._begun = False

    def measure(self) -> Measured | None:
        """Return the means since the last call, None at the first. Raises MeasureError."""
        measured = self._server.measure()
        begun, self._begun = self._begun, True
        return measured if begun else None


class Foretelling(Peaks):
    """Foretells what is used now and a little more, so that lulls are lent at once."""

    def add(self, measured: Measured) -> None:
        """Keep nothing."""

    def expected(self, measured: Measured, predictor: str = "") -> Expected:
        """Return the peak."""
        return Expected(
            cpus=min(measured.cpus, measured.own_cpus + MARGIN * measured.cpus),
            memory_bytes=measured.own_memory_bytes,
            predictor="scripted",
            why="",
        )

    async def work(self, folder: Any, complain: Any) -> None:
        """Wait until cancelled."""
        await forever()


@dataclass
class Told:
    """What the world does when a server's machines start and end."""

    boots: Callable[[Server, Guest], None]
    ends: Callable[[Server, Guest, str], None]  # the last: how
    disks: int = field(default=0)  # made ever


class Driver:
    """A server's hypervisor for one agent process. What was begun goes on when the agent dies."""

    isolation: Isolation = "vm"

    def __init__(self, server: Server, process: Process, told: Told, chance: Random) -> None:
        self._server, self._process, self._told, self._chance = server, process, told, chance
        self._inner = server.machines

    async def _call(self, work: Callable[[], Awaitable[T]], most: float = 0.2) -> T:
        if not self._process.alive or self._server.away or not self._server.powered:
            raise MachineError("unreachable", "the hypervisor does not answer")
        seconds = 0.01 + self._chance.random() * most

        async def there() -> T:
            await asyncio.sleep(seconds)
            return await work()

        return await asyncio.shield(self._server.work.spawn(there()))

    async def check(self) -> None:
        """Find nothing missing."""
        await self._call(self._inner.check)

    async def survey(self) -> tuple[FoundMachine, ...]:
        """Return all machines."""
        return await self._call(self._inner.survey)

    async def prepare(self, spec: MachineSpec) -> None:
        """Make a disk."""

        async def work() -> None:
            await self._inner.prepare(spec)
            if spec.vm_id not in self._server.guests:
                self._told.disks += 1
                self._server.guests[spec.vm_id] = Guest(spec.vm_id, self._told.disks)

        await self._call(work, 1.0)

    async def start(self, spec: MachineSpec, seed: Seed | None = None) -> None:
        """Start one, or let a paused one go on."""

        async def work() -> None:
            await self._inner.start(spec, seed)
            guest = self._server.guests[spec.vm_id]
            guest.seed = self._inner.machines[spec.vm_id].seed
            self._told.boots(self._server, guest)

        await self._call(work)

    async def stop(self, vm_id: str, grace_seconds: float) -> None:
        """Ask one to end; one that hangs is switched off after the grace."""
        hangs = vm_id in self._server.hung
        await self._call(lambda: self._end(vm_id, "stopped"), grace_seconds if hangs else 1.5)

    async def destroy(self, vm_id: str) -> None:
        """Take one away with its disk."""

        async def work() -> None:
            await self._end(vm_id, "destroyed")
            self._server.guests.pop(vm_id, None)
            await self._inner.destroy(vm_id)

        await self._call(work)

    async def _end(self, vm_id: str, how: str) -> None:
        await self._inner.stop(vm_id, 0.0)
        guest = self._server.guests.get(vm_id)
        if guest is not None and guest.process is not None:
            self._told.ends(self._server, guest, how)

    async def resize(self, spec: MachineSpec) -> str:
        """Change a size."""
        return await self._call(lambda: self._inner.resize(spec))

    async def hold(self, vm_id: str, memory_bytes: int) -> None:
        """Let a balloon grow or shrink."""
        await self._call(lambda: self._inner.hold(vm_id, memory_bytes))

    def least_memory(self, memory_bytes: int) -> int:
        """Return how far one may be held down."""
        return self._inner.least_memory(memory_bytes)

    async def forward(self, ports: Mapping[str, Sequence[PortRange]]) -> None:
        """Note which ports lead where; no machine of these is behind NAT."""
        await self._inner.forward(ports)

    async def clear_seed(self, vm_id: str, seed: Seed) -> None:
        """Take a token off a disk."""
        await self._call(lambda: self._inner.clear_seed(vm_id, seed))

    def use(self, vm_id: str) -> MachineUse | None:
        """Return what one uses: its memory; processors are counted by the server."""
        guest = self._server.guests.get(vm_id)
        if guest is None or guest.process is None:
            return None
        return replace(MachineUse(), memory_bytes=BOOTED_BYTES + sum(_asked_memory(box) for box in _boxes(guest)))


def _boxes(guest: Guest) -> list[Any]:
    """Return the containers that run in a machine."""
    if guest.machine is None or not guest.machine.powered:
        return []
    return [box for box in guest.machine.boxes(guest.machine.node_id) if box.container.status == "running"]


def _asked_memory(box: Any) -> int:
    return int(box.request.spec.resources.memory_bytes or 0)
