"""The virtual machines of a server: runs their state machine on the back-ends, and tells what they use."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import msgspec
import structlog

from fallow.agent.folder import set_aside, write_private
from fallow.client.tasks import first_to_end
from fallow.decide.agent.balloons import divided
from fallow.decide.agent.vms import Grant, Instruction, Seen, VmMachines
from fallow.drivers.machine.contract import Machine, MachineError, MachineSpec, MachineUse, Seed
from fallow.model.frames import Frame
from fallow.model.pools import PortRange
from fallow.model.server_frames import VmTokenAsked, VmTokenGranted
from fallow.model.server_pools import Isolation
from fallow.model.vms import VmOrder, VmState, VmUse

_log = structlog.get_logger("fallow.agent.machines")

FILE = "machines.json"
VERSION = 1
STEP_SECONDS = 1.0
SURVEY_SECONDS = 5.0
IDLE_SECONDS = 60.0  # between looks at a back-end that nothing is ordered of
CHECK_SECONDS = 30.0  # between looks at a back-end in which something is missing
SAMPLE_SECONDS = 0.5  # uses asked for more often are the same
HOLD_STEP = 0.02  # a limit that changes by less of the machine's memory is left as it is


class MachinesJournal(msgspec.Struct, frozen=True, kw_only=True):
    """What was ordered last and who has joined ever; for the next start, when the control plane may be out of reach."""

    version: int = VERSION
    orders: tuple[VmOrder, ...] = ()
    joined: tuple[str, ...] = ()


class Machines:
    """All machines of a server, over its back-ends. `send` may raise OSError; `clock` gives UTC seconds.

    Ending it leaves every machine running; the next one adopts them.
    """

    def __init__(
        self,
        drivers: Mapping[Isolation, Machine],
        folder: Path,
        send: Callable[[Frame], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._drivers = drivers
        self._path = folder / FILE
        self._send = send
        self._clock = clock
        self._machine = VmMachines()
        self._awake = asyncio.Event()
        self._look = {isolation: asyncio.Event() for isolation in drivers}
        self._tasks: set[asyncio.Task[None]] = set()
        self._saved: MachinesJournal | None = None
        self._usage = _Usage(drivers)
        self._held: dict[str, int] = {}  # what each should be left, in bytes
        self._holding: dict[str, int] = {}  # and what it was last told
        self._load()

    # what it is told

    def ordered(self, orders: Sequence[VmOrder]) -> None:
        """Take in all orders."""
        self._machine.ordered(orders)
        for isolation in {order.isolation for order in orders} - self._drivers.keys():
            self._machine.lost(isolation, f"this server runs nothing with the isolation {isolation}")
        for isolation in {order.isolation for order in orders} & self._drivers.keys():
            self._look[isolation].set()
        self._awake.set()

    def granted(self, frame: VmTokenGranted) -> None:
        """Take in a token for one machine, or why there is none."""
        grant = Grant(url=frame.url, token=frame.token) if frame.token else None
        self._machine.granted(frame.vm_id, grant, frame.problem or "the control plane gave no token", self._clock())
        self._awake.set()

    def hold(self, memory_limit_bytes: int) -> None:
        """Divide memory over the running machines in proportion to their size, never below the least of each."""
        running = {order.vm_id: order for order in self._machine.running}
        least = {
            vm_id: self._drivers[order.isolation].least_memory(order.memory_bytes) for vm_id, order in running.items()
        }
        sizes = {vm_id: order.memory_bytes for vm_id, order in running.items()}
        self._held = divided(memory_limit_bytes, sizes, least)
        if self._to_hold():
            self._awake.set()

    def stop_lowest(self) -> str:
        """Stop the machine of the lowest rank for a while, quickly; return its name, empty when none runs."""
        vm_id = self._machine.halt(self._clock())
        self._awake.set()
        return next((order.name for order in self._machine.orders if order.vm_id == vm_id), "")

    def stop_all(self) -> None:
        """Stop every machine until `resume`."""
        self._machine.close(True)
        self._awake.set()

    def resume(self) -> None:
        """Go on with what is ordered."""
        self._machine.close(False)
        self._awake.set()

    @property
    def stopped(self) -> bool:
        """Say whether no machine runs, as far as is known."""
        return self._machine.stopped

    def uses(self) -> tuple[VmUse, ...]:
        """Return what each machine that is ordered does now."""
        now = self._clock()
        self._usage.sample([(order.isolation, order.vm_id) for order in self._machine.orders])
        return tuple(self._use(order, now) for order in self._machine.orders)

    def _use(self, order: VmOrder, now: float) -> VmUse:
        state, problem = self._machine.state(order, now)
        if state in (VmState.WAITING, VmState.PREPARING, VmState.STOPPED, VmState.FAILED):
            return VmUse(vm_id=order.vm_id, state=state, problem=problem)
        cpus, throttled, memory = self._usage.of(order.vm_id)
        return VmUse(
            vm_id=order.vm_id,
            state=state,
            cpus=cpus,
            cpus_limit=order.cpus,
            memory_bytes=memory,
            memory_limit_bytes=self._holding.get(order.vm_id, order.memory_bytes),
            throttled=throttled,
            problem=problem,
        )

    # the work

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await first_to_end(self._step_always(), *(self._watch(driver) for driver in self._drivers.values()))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _step_always(self) -> None:
        while True:
            self._awake.clear()
            await self._save()
            for instruction in self._machine.next(self._clock()):
                self._start(self._carry_out(instruction))
            for vm_id in self._to_hold():
                self._holding[vm_id] = self._held[vm_id]
                self._start(self._hold(vm_id, self._held[vm_id]))
            with suppress(TimeoutError):
                async with asyncio.timeout(STEP_SECONDS):
                    await self._awake.wait()

    async def _watch(self, driver: Machine) -> None:
        """Look at what a back-end has, for good; one in which something is missing is asked less often."""
        told, checked = "", False
        while True:
            try:
                if not checked:
                    await driver.check()
                    checked = True
                await driver.forward(self._ports(driver))
                began = self._clock()
                found = await driver.survey()
            except MachineError as error:
                if str(error) != told and self._orders(driver):
                    told = str(error)
                    _log.error("virtual machines cannot be looked at", isolation=driver.isolation, reason=told)
                self._machine.lost(driver.isolation, str(error))
                await asyncio.sleep(SURVEY_SECONDS if checked else CHECK_SECONDS)
                continue
            self._look[driver.isolation].clear()
            if told:
                _log.info("virtual machines are back", isolation=driver.isolation)
                told = ""
            seen = [Seen(**asdict(each)) for each in found]
            self._machine.surveyed(driver.isolation, seen, began, self._clock())
            self._awake.set()
            pause = SURVEY_SECONDS if seen or self._orders(driver) else IDLE_SECONDS
            await first_to_end(self._look[driver.isolation].wait(), timeout_seconds=pause)

    def _orders(self, driver: Machine) -> bool:
        return any(order.isolation == driver.isolation for order in self._machine.orders)

    def _ports(self, driver: Machine) -> dict[str, tuple[PortRange, ...]]:
        running = (order for order in self._machine.running if order.isolation == driver.isolation)
        return {order.vm_id: order.ports for order in running if order.ports}

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, instruction: Instruction) -> None:
        _log.info("virtual machine", action=instruction.action, vm=instruction.vm_id)
        try:
            note = await self._do(self._drivers[instruction.isolation], instruction)
        except MachineError as error:
            _log.warning("virtual machine: failed", action=instruction.action, vm=instruction.vm_id, reason=str(error))
            self._machine.failed(instruction, str(error), self._clock())
        except Exception as error:  # noqa: BLE001 - a fault of ours with one machine must not end the others' agent
            _log.exception("virtual machine: failed", action=instruction.action, vm=instruction.vm_id)
            self._machine.failed(instruction, f"{type(error).__name__}: {error}", self._clock())
        else:
            if instruction.action != "ask":
                self._machine.done(instruction, self._clock(), note)
        self._awake.set()

    async def _do(self, driver: Machine, instruction: Instruction) -> str:
        """Carry out one instruction; return what waits for the machine's next start. Raises MachineError."""
        vm_id, order, grant = instruction.vm_id, instruction.order, instruction.grant
        if instruction.action == "destroy":
            await driver.destroy(vm_id)
            self._holding.pop(vm_id, None)
            return ""
        assert order is not None
        spec = _spec(order)
        match instruction.action:
            case "ask":
                with suppress(OSError):  # asked again, later
                    await self._send(VmTokenAsked(vm_id=vm_id))
            case "prepare":
                await driver.prepare(spec)
            case "start":
                seed = Seed(name=order.name, url=grant.url, token=grant.token) if grant is not None else None
                self._holding.pop(vm_id, None)
                await driver.start(spec, seed)
            case "stop":
                await driver.stop(vm_id, instruction.grace_seconds)
            case "resize":
                return await driver.resize(spec)
            case "clear":
                await driver.clear_seed(vm_id, Seed(name=order.name))
        return ""

    def _to_hold(self) -> list[str]:
        sizes = {order.vm_id: order.memory_bytes for order in self._machine.running}
        return [
            vm_id
            for vm_id, wanted in self._held.items()
            if vm_id in sizes and abs(self._holding.get(vm_id, sizes[vm_id]) - wanted) > HOLD_STEP * sizes[vm_id]
        ]

    async def _hold(self, vm_id: str, memory_bytes: int) -> None:
        order = next((order for order in self._machine.running if order.vm_id == vm_id), None)
        if order is None:
            return
        try:
            await self._drivers[order.isolation].hold(vm_id, memory_bytes)
        except MachineError as error:
            self._holding.pop(vm_id, None)  # again at the next step
            _log.warning("memory of a virtual machine is not held", vm=vm_id, reason=str(error))

    # the journal

    def _load(self) -> None:
        try:
            journal = msgspec.json.decode(self._path.read_bytes(), type=MachinesJournal)
            if journal.version != VERSION:
                raise ValueError(f"it has version {journal.version}, this agent knows {VERSION}")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:  # also what msgspec raises
            kept = set_aside(self._path)
            _log.error(
                "journal of virtual machines cannot be read; waiting for the control plane",
                kept_as=str(kept),
                reason=str(error),
            )
            return
        self._saved = journal
        self._machine.ordered(journal.orders, journal.joined)

    async def _save(self) -> None:
        journal = MachinesJournal(orders=self._machine.orders, joined=self._machine.joined)
        if journal == self._saved:
            return
        try:
            await asyncio.to_thread(write_private, self._path, msgspec.json.encode(journal))
            self._saved = journal
        except OSError as error:
            _log.error("journal of virtual machines cannot be written", reason=str(error))


class _Usage:
    """Differences of what the back-ends count."""

    def __init__(self, drivers: Mapping[Isolation, Machine]) -> None:
        self._drivers = drivers
        self._last: dict[str, tuple[float, MachineUse]] = {}
        self._rates: dict[str, tuple[float, float, int]] = {}
        self._at = float("-inf")

    def sample(self, wanted: Sequence[tuple[Isolation, str]]) -> None:
        now = time.monotonic()
        if now - self._at < SAMPLE_SECONDS:
            return
        self._at = now
        newest = {}
        for isolation, vm_id in wanted:
            use = self._drivers[isolation].use(vm_id) if isolation in self._drivers else None
            if use is not None:
                newest[vm_id] = (now, use)
        self._rates = {vm_id: _rates(self._last.get(vm_id), each) for vm_id, each in newest.items()}
        self._last = newest

    def of(self, vm_id: str) -> tuple[float, float, int]:
        """Return processors used, share of the time throttled, and memory in bytes."""
        return self._rates.get(vm_id, (0.0, 0.0, 0))


def _rates(before: tuple[float, MachineUse] | None, after: tuple[float, MachineUse]) -> tuple[float, float, int]:
    at, use = after
    if before is None or at <= before[0]:
        return 0.0, 0.0, use.memory_bytes
    seconds = at - before[0]
    cpus = max(0.0, use.cpu_seconds - before[1].cpu_seconds) / seconds
    throttled = max(0.0, use.throttled_seconds - before[1].throttled_seconds) / seconds
    return cpus, min(1.0, throttled), use.memory_bytes


def _spec(order: VmOrder) -> MachineSpec:
    return MachineSpec(
        vm_id=order.vm_id,
        name=order.name,
        cpus=order.cpus,
        memory_bytes=order.memory_bytes,
        disk_bytes=order.disk_bytes,
        image=order.image,
    )
