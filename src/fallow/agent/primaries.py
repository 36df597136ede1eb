"""The primary applications of a server: where each one is, and what it uses and waits for."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fallow.agent.processes import Named, ProcessUse, Watched
from fallow.drivers.cgroups import Groups
from fallow.model.servers import Primary, PrimaryUse

SYSTEM_SLICE = "/system.slice"
ASK_SECONDS = 10.0  # between two questions to systemd where a unit is
_COMMAND_SECONDS = 5.0
RESOURCES = ("cpu", "memory", "io")


class Source(Protocol):
    """One primary application."""

    def use(self, now: float) -> PrimaryUse:
        """Return its use since the last call, at `now` of a clock that never jumps."""


@dataclass(kw_only=True)
class Paced:
    """Turns sums into means over the time since they were told last; a sum that falls begins anew."""

    _kept: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)

    def rate(self, name: str, total: float | None, now: float) -> float:
        """Return how fast a sum grew, per second; 0 at the first time and where there is none."""
        if total is None:
            self._kept.pop(name, None)
            return 0.0
        before = self._kept.get(name)
        self._kept[name] = (now, total)
        if before is None or now <= before[0] or total < before[1]:
            return 0.0
        return (total - before[1]) / (now - before[0])

    def forget(self) -> None:
        """Begin anew."""
        self._kept.clear()


class GroupSource:
    """A primary in a control group: `cgroup:/shop`. What the kernel does not tell of groups is asked of processes."""

    def __init__(self, primary: Primary, groups: Groups, proc: Path = Path("/proc")) -> None:
        self._primary = primary
        self._groups = groups
        self._paced = Paced()
        self._watched = Watched(proc=proc)
        self._at = 0.0

    def group(self, now: float) -> str:
        """Return the group's name; empty: it is not known. `now` as for `use`."""
        del now
        return "/" + self._primary.name.strip("/")

    def use(self, now: float) -> PrimaryUse:
        """Return its use; not found: there is no such group, or nothing runs in it."""
        name, group = self._primary.text, self.group(now)
        if not group or not self._groups.exists(group):
            self._paced.forget()
            return PrimaryUse(name=name, found=False, problem=f"there is no control group {group}" if group else "")
        if not self._groups.populated(group):
            self._paced.forget()
            return PrimaryUse(name=name, found=False, problem=f"nothing runs in the control group {group}")
        cpu, memory, io, waited = (
            self._groups.cpu_seconds(group),
            self._groups.memory_bytes(group),
            self._groups.io_bytes(group),
            {resource: self._groups.waited_seconds(group, resource) for resource in RESOURCES},
        )
        pids = self._groups.processes(group) if None in (cpu, memory, waited["cpu"]) else set()
        seconds, self._at = now - self._at, now
        told = self._watched.use(pids) if pids else ProcessUse()
        paced = {resource: self._paced.rate(resource, waited[resource], now) for resource in RESOURCES}
        own = told.waited_seconds / seconds if waited["cpu"] is None else paced["cpu"]
        return PrimaryUse(
            name=name,
            found=True,
            cpus=self._paced.rate("use", cpu, now) if cpu is not None else told.cpu_seconds / seconds,
            memory_bytes=memory if memory is not None else told.memory_bytes,
            io_bytes_per_second=self._paced.rate("bytes", io, now),
            cpu_waiting=min(1.0, own),
            memory_waiting=min(1.0, paced["memory"]),
            io_waiting=min(1.0, paced["io"]),
        )

    def waiting(self, now: float) -> float:
        """Return for which share of the time since the last call something of it waited for a processor."""
        group = self.group(now)
        waited = self._groups.waited_seconds(group, "cpu")
        if waited is not None:
            return min(1.0, self._paced.rate("cpu", waited, now))
        seconds, self._at = now - self._at, now
        return min(1.0, self._watched.use(self._groups.processes(group)).waited_seconds / seconds)


class UnitSource(GroupSource):
    """A primary that is a systemd unit: the control group that systemd gave it."""

    def __init__(self, primary: Primary, groups: Groups, proc: Path = Path("/proc")) -> None:
        super().__init__(primary, groups, proc)
        self._unit = primary.name
        self._group = ""
        self._asked_at = float("-inf")

    def group(self, now: float) -> str:
        """Return the unit's group: where units usually are, else where systemd says; empty: it does not run."""
        if self._group and self._groups.exists(self._group):
            return self._group
        self._group = ""
        usual = f"{SYSTEM_SLICE}/{self._unit}"
        if self._groups.exists(usual):
            self._group = usual
        elif now - self._asked_at >= ASK_SECONDS:
            self._asked_at = now
            self._group = _control_group(self._unit)
        return self._group

    def use(self, now: float) -> PrimaryUse:
        """Return its use; not found: no such unit runs."""
        found = super().use(now)
        if found.found or found.problem:
            return found
        return PrimaryUse(name=found.name, found=False, problem=f"no unit {self._unit} runs here")


class ProcessSource:
    """A primary by the name of its processes, with their children."""

    def __init__(self, primary: Primary, apart: str, proc: Path = Path("/proc")) -> None:
        self._primary = primary
        self._named = Named(name=primary.name, apart=apart, proc=proc)
        self._watched = Watched(proc=proc)
        self._at: float | None = None

    def use(self, now: float) -> PrimaryUse:
        """Return its use; its waiting is that for processors alone."""
        name = self._primary.text
        pids = self._named.find()
        used = self._watched.use(pids)
        seconds, self._at = now - self._at if self._at is not None else 0.0, now
        if not pids:
            return PrimaryUse(name=name, found=False, problem=f"no process {self._primary.name} runs here")
        if seconds <= 0:
            return PrimaryUse(name=name, found=True, memory_bytes=used.memory_bytes)
        return PrimaryUse(
            name=name,
            found=True,
            cpus=used.cpu_seconds / seconds,
            memory_bytes=used.memory_bytes,
            io_bytes_per_second=used.io_bytes / seconds,
            cpu_waiting=min(1.0, used.waited_seconds / seconds),
        )


def source(primary: Primary, groups: Groups, apart: str, proc: Path = Path("/proc")) -> Source:
    """Return what measures a primary. `apart`: the control group of what is lent, which is never a primary's."""
    if primary.kind == "process":
        return ProcessSource(primary, apart, proc)
    return (UnitSource if primary.kind == "systemd" else GroupSource)(primary, groups, proc)


def _control_group(unit: str) -> str:
    """Ask systemd for a unit's control group; empty: it does not run, or there is no systemd."""
    try:
        done = subprocess.run(
            ["systemctl", "show", "--property", "ControlGroup", "--value", "--", unit],
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    group = done.stdout.strip()
    return group if group.startswith("/") and group != "/" else ""
