"""Machines in memory, for tests: they start when told, and what goes wrong is scripted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fallow.drivers.machine.contract import FoundMachine, MachineError, MachineSpec, MachineUse, Seed
from fallow.model.pools import PortRange
from fallow.model.server_pools import Isolation


@dataclass
class FakeMachine:
    """One machine of the fake."""

    found: FoundMachine
    spec: MachineSpec
    seed: Seed | None = None
    held_bytes: int = 0
    boots: int = 0
    use: MachineUse = field(default_factory=MachineUse)


class FakeMachines:
    """Machines of one member. `fail` is asked before each call, and may raise."""

    def __init__(self, isolation: Isolation = "vm", fail: Callable[[str, str], None] = lambda _call, _vm: None) -> None:
        self.isolation: Isolation = isolation
        self.machines: dict[str, FakeMachine] = {}
        self.fail = fail
        self.calls: list[tuple[str, str]] = []
        self.ports: dict[str, Sequence[PortRange]] = {}

    async def check(self) -> None:
        """Find nothing missing."""
        self._called("check", "")

    async def survey(self) -> tuple[FoundMachine, ...]:
        """Return all of them."""
        self._called("survey", "")
        return tuple(machine.found for machine in self.machines.values())

    async def prepare(self, spec: MachineSpec) -> None:
        """Make one."""
        self._called("prepare", spec.vm_id)
        machine = self.machines.get(spec.vm_id)
        if machine is None or not machine.found.whole:
            self.machines[spec.vm_id] = FakeMachine(found=FoundMachine(vm_id=spec.vm_id), spec=spec)

    async def start(self, spec: MachineSpec, seed: Seed | None = None) -> None:
        """Start one."""
        self._called("start", spec.vm_id)
        machine = self._get(spec.vm_id)
        if machine.found.status == "stopped":
            machine.boots += 1
            machine.spec = spec
            if seed is not None:
                machine.seed = seed
            machine.found = FoundMachine(
                vm_id=spec.vm_id,
                status="running",
                seeded=machine.seed is not None and bool(machine.seed.token),
                cpus=spec.cpus,
                memory_bytes=spec.memory_bytes,
            )
        else:
            machine.found = replace(machine.found, status="running", problem="")

    async def stop(self, vm_id: str, grace_seconds: float) -> None:
        """Stop one."""
        self._called("stop", vm_id)
        if vm_id in self.machines:
            self.end(vm_id)

    async def destroy(self, vm_id: str) -> None:
        """Forget one."""
        self._called("destroy", vm_id)
        self.machines.pop(vm_id, None)

    async def resize(self, spec: MachineSpec) -> str:
        """Change its size; memory above what it started with has to wait."""
        self._called("resize", spec.vm_id)
        machine = self._get(spec.vm_id)
        memory = min(spec.memory_bytes, machine.spec.memory_bytes)
        machine.found = replace(machine.found, cpus=spec.cpus, memory_bytes=memory)
        return "" if memory == spec.memory_bytes else "it has more memory from its next start on"

    async def hold(self, vm_id: str, memory_bytes: int) -> None:
        """Note how much memory it is left."""
        self._called("hold", vm_id)
        self._get(vm_id).held_bytes = memory_bytes

    def least_memory(self, memory_bytes: int) -> int:
        """Return a quarter."""
        return memory_bytes // 4

    async def forward(self, ports: Mapping[str, Sequence[PortRange]]) -> None:
        """Note which ports lead where."""
        self.ports = dict(ports)

    async def clear_seed(self, vm_id: str, seed: Seed) -> None:
        """Drop the token."""
        self._called("clear-seed", vm_id)
        machine = self._get(vm_id)
        machine.seed, machine.found = seed, replace(machine.found, seeded=False)

    def use(self, vm_id: str) -> MachineUse | None:
        """Return what the test says it uses."""
        machine = self.machines.get(vm_id)
        return machine.use if machine is not None and machine.found.status != "stopped" else None

    def end(self, vm_id: str, status: Literal["paused", "stopped"] = "stopped") -> None:
        """Let one end by itself, or be paused."""
        machine = self.machines[vm_id]
        size = (machine.found.cpus, machine.found.memory_bytes) if status == "paused" else (0.0, 0)
        machine.found = replace(machine.found, status=status, cpus=size[0], memory_bytes=size[1])

    def _get(self, vm_id: str) -> FakeMachine:
        machine = self.machines.get(vm_id)
        if machine is None or not machine.found.whole:
            raise MachineError("not-found", f"there is no disk of {vm_id}")
        return machine

    def _called(self, call: str, vm_id: str) -> None:
        self.calls.append((call, vm_id))
        self.fail(call, vm_id)
