"""What runs the virtual machines of a server. Back-ends pass `tests/contract/test_machine.py`.

A back-end sees and touches only machines of its own member, and calls each by its VM's id. Every machine lives below
the control group LENT_GROUP, at the lowest weight. Every call may be made twice, and by a process that knows nothing of
what the one before it did: what is there, on the disk and in the hypervisor, is the only state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fallow.model.pools import PortRange
from fallow.model.server_pools import Isolation

ErrorKind = Literal["unreachable", "no-space", "not-found", "failed"]


class MachineError(Exception):
    """Something could not be done with a machine; the text says why and what to do. It holds no secret."""

    def __init__(self, kind: ErrorKind, text: str) -> None:
        super().__init__(text)
        self.kind: ErrorKind = kind


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineSpec:
    """A machine that is wanted. `image` is a name that the back-end knows, or a path."""

    vm_id: str
    name: str
    cpus: float
    memory_bytes: int
    disk_bytes: int
    image: str = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """What a machine is told at its first start, so that it joins; without `token` it has joined already."""

    name: str
    url: str = ""
    token: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundMachine:
    """One of our machines as it is.

    `whole`: its disk was made to the end. `seeded`: a token may still lie on its seed. `cpus` and `memory_bytes` are
    what it may use, read back, 0 while it does not run. `problem` is for people: a limit that reads back as
    another, a disk that is full.
    """

    vm_id: str
    status: Literal["running", "paused", "stopped"] = "stopped"
    whole: bool = True
    seeded: bool = False
    cpus: float = 0.0
    memory_bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineUse:
    """What a machine has used since it started, and uses now."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    throttled_seconds: float = 0.0  # it had to wait for its own limit, as a mean of its processors


class Machine(Protocol):
    """The machines of one server's member. Every coroutine raises MachineError."""

    isolation: Isolation

    async def check(self) -> None:
        """Raise MachineError when machines cannot be run here, with what is missing; takes seconds."""

    async def survey(self) -> tuple[FoundMachine, ...]:
        """Return everything that is ours, also what was left half made."""

    async def prepare(self, spec: MachineSpec) -> None:
        """Make the machine's disk, with all that outlives a stop; nothing when it is there. A half made one goes."""

    async def start(self, spec: MachineSpec, seed: Seed | None = None) -> None:
        """Start it at this size, with this seed or the one it has; a paused one goes on.

        Never a second one: nothing, the seed neither, changes when it runs. MachineError("not-found"): it has no disk.
        """

    async def stop(self, vm_id: str, grace_seconds: float) -> None:
        """Ask it to end, and switch it off after the grace; nothing when it does not run."""

    async def destroy(self, vm_id: str) -> None:
        """Switch it off and remove everything of it; nothing when there is nothing."""

    async def resize(self, spec: MachineSpec) -> str:
        """Give a running machine this size and read it back; return what only its next start brings."""

    async def hold(self, vm_id: str, memory_bytes: int) -> None:
        """Take memory from a running machine, or give it back, up to what it has; it may be slow to follow."""

    def least_memory(self, memory_bytes: int) -> int:
        """Return how far a machine of this much memory may be held down."""

    async def forward(self, ports: Mapping[str, Sequence[PortRange]]) -> None:
        """Let just these ports of the server lead to its machines, by their ids; called before each survey.

        Nothing where machines have addresses that others reach. What is in the way is told as the machine's problem.
        """

    async def clear_seed(self, vm_id: str, seed: Seed) -> None:
        """Take the token off the seed of a machine, running or not; the rest of it stays."""

    def use(self, vm_id: str) -> MachineUse | None:
        """Return what a machine uses, None when that cannot be read. Quick enough to be called each second."""
