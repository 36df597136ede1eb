"""Control groups in place of virtual machines: each holds an agent of a node, and the containers that it starts.

The agent is this very program with a data folder of its own; it and its containers outlive who started it. Nothing of
it is apart from the server but its limits.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from fallow.drivers.cgroups import Groups, number
from fallow.drivers.folders import write_whole
from fallow.drivers.machine.contract import ErrorKind, FoundMachine, MachineError, MachineSpec, MachineUse, Seed
from fallow.drivers.machine.domain import domain_name
from fallow.drivers.machine.groups import PERIOD_US, MachineGroups, quota_us
from fallow.model.pools import PortRange
from fallow.model.server_pools import Isolation
from fallow.model.vms import LENT_GROUP

AGENT, CONTAINERS = "agent", "containers"  # groups in that of a machine
MANIFEST = "machine.json"
LOG_BYTES = 8 * 2**20  # of the agent, the one before it is kept as well
AGENT_SECONDS = 5.0  # for an agent to end in good order
POLL_SECONDS = 0.1
TOKEN_VARIABLE = "FALLOW_JOIN_TOKEN"  # noqa: S105 - the name of a variable
_LOWEST = (("cpu", "cpu.shares", 2), ("cpu", "cpu.weight", 1))
_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of version 2 and 1
_SOFT_LIMITS = ("memory.high", "memory.soft_limit_in_bytes")
_PAGE = 4096
# Into the groups first, and only then to be the agent: nothing of it ever ran elsewhere.
_ENTER = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@"'


T = TypeVar("T")


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine was made with last, as it is started again by whoever comes next."""

    cpus: float
    memory_bytes: int
    name: str


@dataclass(frozen=True, kw_only=True)
class CgroupOptions:
    """`program` is the agent, `arguments` what it is always called with, such as which engine to use."""

    folder: Path
    program: Sequence[str] = (sys.executable, "-P", "-m", "fallow")
    arguments: Sequence[str] = ()


class CgroupMachines:
    """The control groups of one member that stand for virtual machines."""

    isolation: Isolation = "cgroup"

    def __init__(self, options: CgroupOptions, parent: str = LENT_GROUP, groups: Groups | None = None) -> None:
        self._options = options
        self._groups = groups or Groups()
        self._machines = MachineGroups(parent, self._groups)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def check(self) -> None:
        """Find out whether control groups can be made."""
        if self._groups.version == 0:
            raise MachineError("failed", f"{self._groups.root} has no control groups that limit processors")
        await self._call(self._machines.make)

    async def survey(self) -> tuple[FoundMachine, ...]:
        """Return all that have a folder."""
        return await self._call(lambda: tuple(self._found(vm_id) for vm_id in self._list()))

    async def prepare(self, spec: MachineSpec) -> None:
        """Make its folder."""

        def make() -> None:
            folder = self._folder(spec.vm_id)
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (folder / MANIFEST).exists():
                self._note(spec)

        await self._call(make)

    async def start(self, spec: MachineSpec, seed: Seed | None = None) -> None:
        """Make its group, and start its agent there."""
        found = await self._call(lambda: self._found(spec.vm_id))
        if not found.whole:
            raise MachineError("not-found", f"there is nothing of {spec.name} on the disk")
        if found.status == "running":
            return
        await self._call(lambda: self._start(spec, seed))

    async def stop(self, vm_id: str, grace_seconds: float) -> None:
        """End its agent, which would start containers anew, and then them."""
        group = _group(vm_id)
        await self._end(f"{group}/{AGENT}", signal.SIGTERM, min(AGENT_SECONDS, grace_seconds))
        await self._end(group, signal.SIGTERM, grace_seconds)
        await self._end(group, signal.SIGKILL, AGENT_SECONDS)
        if self._machines.processes(group):
            raise MachineError("failed", f"processes in the control group {self.parent_of(vm_id)} do not end")
        child = self._children.pop(vm_id, None)
        if child is not None:
            await asyncio.to_thread(child.wait)

    async def destroy(self, vm_id: str) -> None:
        """End it, and remove its group and folder."""
        await self.stop(vm_id, 0)
        await self._call(lambda: self._machines.remove(_group(vm_id)))
        await self._call(lambda: shutil.rmtree(self._folder(vm_id), ignore_errors=True))

    async def resize(self, spec: MachineSpec) -> str:
        """Write its limits."""
        await self._call(lambda: self._limit(spec))
        await self._call(lambda: self._note(spec))
        return ""

    async def hold(self, vm_id: str, memory_bytes: int) -> None:
        """Let the kernel take memory back above so much."""
        await self._call(lambda: self._write_memory(vm_id, _SOFT_LIMITS, memory_bytes))

    def least_memory(self, memory_bytes: int) -> int:
        """Return a quarter."""
        return memory_bytes // 4

    async def forward(self, ports: Mapping[str, Sequence[PortRange]]) -> None:
        """Do nothing: containers publish on the server itself."""

    async def clear_seed(self, vm_id: str, seed: Seed) -> None:
        """Do nothing: its token is on no disk."""

    def use(self, vm_id: str) -> MachineUse | None:
        """Return what its group has used."""
        group = _group(vm_id)
        return self._machines.use(group, self._machines.quota(group) or 1.0)

    def parent_of(self, vm_id: str) -> str:
        """Return the control group of a machine, from the root."""
        return f"/{self._machines.parent}/{_group(vm_id)}"

    # blocking

    async def _call(self, work: Callable[[], T]) -> T:
        """Do something in a thread. Raises MachineError instead of OSError."""
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            kind: ErrorKind = "no-space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "failed"
            raise MachineError(kind, f"{error.filename or self._options.folder}: {error.strerror}") from error

    def _list(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.scandir(self._options.folder), key=lambda each: each.name):
                with contextlib.suppress(ValueError):
                    domain_name(entry.name)
                    yield entry.name

    def _folder(self, vm_id: str) -> Path:
        domain_name(vm_id)
        return self._options.folder / vm_id

    def _found(self, vm_id: str) -> FoundMachine:
        child = self._children.get(vm_id)
        if child is not None:
            child.poll()
        group = _group(vm_id)
        whole = (self._folder(vm_id) / MANIFEST).exists()
        if not self._machines.processes(f"{group}/{AGENT}"):
            return FoundMachine(vm_id=vm_id, whole=whole)
        weight = self._machines.weight(group)
        return FoundMachine(
            vm_id=vm_id,
            status="running",
            whole=whole,
            cpus=round(self._machines.quota(group) or 0.0, 3),
            memory_bytes=self._read_memory(vm_id),
            problem=f"its share of processor time reads back as {weight}" if weight not in (1, 2) else "",
        )

    def _start(self, spec: MachineSpec, seed: Seed | None) -> None:
        group, folder = _group(spec.vm_id), self._folder(spec.vm_id)
        for name in (AGENT, CONTAINERS):
            self._machines.make(f"{group}/{name}")
        self._limit(spec)
        self._note(spec)
        words = [
            "join",
            "--role",
            "node",
            "--data",
            str(folder / "node"),
            "--cgroup-parent",
            self.parent_of(spec.vm_id),
        ]
        words += ["--name", seed.name, seed.url] if seed is not None else []
        enter = [str(path) for path in self._machines.enter(f"{group}/{AGENT}")]
        token = {TOKEN_VARIABLE: seed.token} if seed is not None else {}
        inherited = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        log = folder / "agent.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(folder / "agent.log.1")
        with log.open("ab") as output:
            child = self._children[spec.vm_id] = subprocess.Popen(
                ["/bin/sh", "-c", _ENTER, "sh", *enter, "--", *self._options.program, *words, *self._options.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**inherited, **token},
                start_new_session=True,
            )
        deadline = time.monotonic() + AGENT_SECONDS
        while child.pid not in self._machines.processes(f"{group}/{AGENT}"):
            if child.poll() is not None or time.monotonic() > deadline:
                raise MachineError("failed", f"the agent of {spec.name} did not start: {log} says why")
            time.sleep(POLL_SECONDS / 5)

    def _limit(self, spec: MachineSpec) -> None:
        """Set the limits of its group, or as much of them as there is room for, and read them back."""
        group = _group(spec.vm_id)
        for controller, name, value in _LOWEST:
            self._write(controller, group, name, str(value))
        now = min(spec.cpus, self._machines.room())
        self._machines.forget_quota(group)
        self._write("cpu", group, "cpu.cfs_quota_us", str(quota_us(now)))
        self._write("cpu", group, "cpu.max", f"{quota_us(now)} {PERIOD_US}")
        if now < spec.cpus:
            self._machines.keep_quota(group, spec.cpus)
        self._write_memory(spec.vm_id, _LIMITS, spec.memory_bytes)
        found = self._machines.quota(group)
        if found is None or abs(found - spec.cpus) > 0.01:
            raise MachineError("failed", f"its limit of {spec.cpus:g} processors reads back as {found}")
        if self._read_memory(spec.vm_id) != spec.memory_bytes:
            raise MachineError("failed", f"its memory limit of {spec.memory_bytes} bytes reads back as another")

    def _write_memory(self, vm_id: str, names: Sequence[str], value: int) -> None:
        for name in names:
            self._write("memory", _group(vm_id), name, str(value))

    def _write(self, controller: str, group: str, name: str, text: str) -> None:
        """Write to a file of a group, where this version of control groups has it. Raises OSError."""
        folder = self._groups.folder(controller, f"/{self._machines.parent}/{group}")
        if folder is not None and (folder / name).exists():
            (folder / name).write_text(text)

    def _read_memory(self, vm_id: str) -> int:
        """Return the memory limit as it was asked for: the kernel keeps whole pages."""
        folder = self._groups.folder("memory", self.parent_of(vm_id))
        read = (number(folder / name) for name in _LIMITS) if folder is not None else ()
        value = next((each for each in read if each is not None), 0)
        asked = self._made(vm_id)
        return asked if asked - asked % _PAGE == value else value

    def _made(self, vm_id: str) -> int:
        try:
            return msgspec.json.decode((self._folder(vm_id) / MANIFEST).read_bytes(), type=_Made).memory_bytes
        except (OSError, msgspec.DecodeError):
            return 0

    def _note(self, spec: MachineSpec) -> None:
        made = _Made(cpus=spec.cpus, memory_bytes=spec.memory_bytes, name=spec.name)
        write_whole(self._folder(spec.vm_id) / MANIFEST, msgspec.json.encode(made), durable=True)

    async def _end(self, group: str, number: signal.Signals, seconds: float) -> None:
        """Send a signal to everything in a group, and wait for its end for so long."""
        deadline = time.monotonic() + seconds
        while processes := self._machines.processes(group):
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            for child in self._children.values():
                child.poll()  # so that it does not stay in its group when it has ended
            if time.monotonic() >= deadline:
                return
            await asyncio.sleep(POLL_SECONDS)


def _group(vm_id: str) -> str:
    """Return the name of a machine's group: one that systemd would take for a slice of the slice it is in."""
    return f"{domain_name(vm_id)}.slice"
