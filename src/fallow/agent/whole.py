"""All that a server has and uses: of its machine, or of the control group that it is on a machine it shares."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fallow.agent.vitals import Vitals
from fallow.drivers.cgroups import Groups, lines, number

_TICKS = os.sysconf("SC_CLK_TCK")
_NO_LIMIT = 2**60


class MeasureError(Exception):
    """The kernel did not say what this server uses; the text names what could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeUse:
    """`busy_seconds` is processor time used, ever; memory in bytes, without what can be had back at once."""

    cpus: float
    busy_seconds: float
    memory_bytes: int
    used_memory_bytes: int


class Whole(Protocol):
    """Reads it."""

    def use(self) -> WholeUse:
        """Return what there is and what is used. Raises MeasureError."""


class WholeMachine:
    """This machine, as `proc` tells."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._vitals = Vitals(folder=proc, proc=proc)

    def use(self) -> WholeUse:
        """Return what all processors and all memory do."""
        found = lines(self._proc / "stat")
        cpus = sum(1 for line in found if line.startswith("cpu") and line[3:4].isdigit())
        words = found[0].split() if found else []
        if cpus == 0 or len(words) < 8 or words[0] != "cpu":
            raise MeasureError(f"{self._proc}/stat does not say what processors do")
        ticks = [float(word) for word in words[1:9]]  # guest time is part of user time
        busy = (sum(ticks) - ticks[3] - ticks[4]) / _TICKS  # less idle and waiting for disks
        memory = self._vitals.meminfo()
        total = memory.get("MemTotal", 0)
        if "MemAvailable" not in memory or total <= 0:
            raise MeasureError(f"{self._proc}/meminfo does not say how much memory is available")
        return WholeUse(
            cpus=float(cpus),
            busy_seconds=busy,
            memory_bytes=total,
            used_memory_bytes=max(0, total - memory["MemAvailable"]),
        )


class WholeGroup:
    """A control group that has a share of a machine, such as a container that is a server.

    What it may use is what its limits say; without one, as much as the machine has.
    """

    def __init__(self, group: str, groups: Groups | None = None, proc: Path = Path("/proc")) -> None:
        self._group = group
        self._groups = groups or Groups()
        self._machine = WholeMachine(proc)

    def use(self) -> WholeUse:
        """Return what the group may have, and what it and all below it use."""
        machine = self._machine.use()
        busy, memory = self._groups.cpu_seconds(self._group), self._groups.memory_bytes(self._group)
        if busy is None or memory is None:
            raise MeasureError(f"the control group {self._group} does not say what it uses")
        return WholeUse(
            cpus=min(machine.cpus, self._groups.quota(self._group) or machine.cpus),
            busy_seconds=busy,
            memory_bytes=min(machine.memory_bytes, self._memory_limit() or machine.memory_bytes),
            used_memory_bytes=memory,
        )

    def _memory_limit(self) -> int | None:
        folder = self._groups.folder("memory", self._group)
        names = ("memory.max", "memory.limit_in_bytes")
        limits = (number(folder / name) for name in names) if folder is not None else ()
        return next((limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT), None)
