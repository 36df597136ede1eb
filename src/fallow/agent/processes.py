"""Processes by name, with their children: which there are, and what they use, as /proc tells."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fallow.drivers.cgroups import lines, text

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
YOUNG_LOOKS = 5  # a new process may be another program a moment later, so that it is looked at again so often
AGAIN_LOOKS = 30  # and an old one every so many looks
TITLE_LOOKS = 8  # a program's title is read again when its command is another, and otherwise every so many looks at it
SLOW_LOOKS = 2  # memory and disks are looked at every so many looks
THREADS = 256  # whose waiting is read in one look


@dataclass(kw_only=True, slots=True)
class Process:
    """One process: what it is, and what it used when it was looked at last."""

    parent: int
    started: int
    command: str
    looks: int = 0
    called_otherwise: bool = False  # neither its command nor its title is the name
    ours: bool = False
    cpu_seconds: float = 0.0
    threads: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessUse:
    """What processes used between two looks: processor seconds, waiting seconds, bytes of disk; and memory now."""

    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0
    memory_bytes: int = 0
    io_bytes: int = 0


@dataclass(kw_only=True)
class Watched:
    """Counters of a set of processes, of which only differences count: what comes begins at what it has."""

    proc: Path = Path("/proc")
    _cpu: dict[int, tuple[int, float]] = field(default_factory=dict, init=False)  # start time, seconds
    _waited: dict[int, dict[int, int]] = field(default_factory=dict, init=False)
    _io: dict[int, int] = field(default_factory=dict, init=False)
    _turn: int = field(default=0, init=False)
    _looks: int = field(default=0, init=False)
    _memory: int = field(default=0, init=False)
    _threads: dict[int, int] = field(default_factory=dict, init=False)

    def use(self, pids: Iterable[int]) -> ProcessUse:
        """Return what these processes used since the last call; processes that are new begin to count."""
        wanted = list(pids)
        cpu, io, private, shared = 0.0, 0, 0, 0
        self._looks += 1
        slow = self._looks % SLOW_LOOKS == 1 or not self._memory
        for pid in wanted:
            found = stat(self.proc, pid)
            if found is None:
                continue
            before = self._cpu.get(pid)
            if before is not None and before[0] == found.started:
                cpu += max(0.0, found.cpu_seconds - before[1])
            self._cpu[pid] = (found.started, found.cpu_seconds)
            self._threads[pid] = found.threads
            if not slow:
                continue
            own, common = _memory(self.proc, pid)
            private, shared = private + own, max(shared, common)
            moved = _io_bytes(self.proc, pid)
            io += max(0, moved - self._io.get(pid, moved))
            self._io[pid] = moved
        if slow:
            self._memory = private + shared
        waited = self._wait(wanted)
        self._forget(set(wanted))
        return ProcessUse(cpu_seconds=cpu, waited_seconds=waited, memory_bytes=self._memory, io_bytes=io)

    def _wait(self, pids: list[int]) -> float:
        """Return for how long their threads waited for a processor; of very many threads a part is asked in turn."""
        threads = [
            (pid, thread)
            for pid in pids
            for thread in ([pid] if self._threads.get(pid) == 1 else _numbers(f"{self.proc}/{pid}/task"))
        ]
        if len(threads) > THREADS:
            begin = self._turn % len(threads)
            threads = (threads[begin:] + threads[:begin])[:THREADS]
            self._turn += THREADS
        waited = 0
        for pid, thread in threads:
            words = text(f"{self.proc}/{pid}/task/{thread}/schedstat").split()
            if len(words) == 3:
                kept = self._waited.setdefault(pid, {})
                waited += max(0, int(words[1]) - kept.get(thread, int(words[1])))
                kept[thread] = int(words[1])
        return waited / 1e9

    def _forget(self, wanted: set[int]) -> None:
        for gone in self._cpu.keys() - wanted:
            del self._cpu[gone]
            self._waited.pop(gone, None)
            self._threads.pop(gone, None)
            self._io.pop(gone, None)


@dataclass(kw_only=True)
class Named:
    """Finds the processes called `name`, and their children. Those in a control group `apart` are never among them."""

    name: str
    apart: str
    proc: Path = Path("/proc")
    _known: dict[int, Process] = field(default_factory=dict, init=False)
    _looks: int = field(default=0, init=False)

    def find(self) -> set[int]:
        """Return their ids now."""
        self._looks += 1
        pids = set(_numbers(str(self.proc)))
        for pid in self._known.keys() - pids:
            del self._known[pid]
        for pid in sorted(pids):
            kept = self._known.get(pid)
            if kept is None or kept.looks < YOUNG_LOOKS or (pid + self._looks) % AGAIN_LOOKS == 0:
                self._look(pid, kept)
        self._adopt()
        return {pid for pid, process in self._known.items() if process.ours}

    def _look(self, pid: int, kept: Process | None) -> None:
        found = stat(self.proc, pid)
        if found is None:
            self._known.pop(pid, None)
            return
        if kept is not None and kept.started == found.started:
            found.looks, found.ours = kept.looks + 1, kept.ours
            same = found.looks > YOUNG_LOOKS and found.command == kept.command and found.looks % TITLE_LOOKS
            found.called_otherwise = bool(same) and kept.called_otherwise
        if not found.ours and not found.called_otherwise:
            found.called_otherwise = not self._is_called(pid, found.command)
            found.ours = not found.called_otherwise and not self._is_apart(pid)
        self._known[pid] = found

    def _adopt(self) -> None:
        """Take in children of those found. A child whose parent has ended since stays."""
        fresh = True
        while fresh:
            fresh = False
            for pid, process in self._known.items():
                parent = self._known.get(process.parent)
                if not process.ours and parent is not None and parent.ours and not self._is_apart(pid):
                    process.ours = fresh = True

    def _is_called(self, pid: int, command: str) -> bool:
        if command == self.name:  # the kernel keeps 15 characters
            return True
        first = text(f"{self.proc}/{pid}/cmdline").split("\0", 1)[0]
        return first.rpartition("/")[2] == self.name

    def _is_apart(self, pid: int) -> bool:
        groups = (line.split(":", 2)[-1] for line in lines(f"{self.proc}/{pid}/cgroup"))
        return any(group == self.apart or group.startswith(self.apart + "/") for group in groups)


def stat(proc: Path, pid: int) -> Process | None:
    """Return what /proc/PID/stat says; None: there is no such process any more."""
    head, _, tail = text(f"{proc}/{pid}/stat").rpartition(")")
    words = tail.split()
    if len(words) < 20 or words[0] in ("Z", "X"):
        return None
    return Process(
        parent=int(words[1]),
        started=int(words[19]),
        command=head.partition("(")[2],
        cpu_seconds=(int(words[11]) + int(words[12])) / _TICKS,
        threads=int(words[17]),
    )


def _memory(proc: Path, pid: int) -> tuple[int, int]:
    """Return a process's own memory, and what it may share with others."""
    words = text(f"{proc}/{pid}/statm").split()
    if len(words) < 3:
        return 0, 0
    return max(0, int(words[1]) - int(words[2])) * _PAGE, int(words[2]) * _PAGE


def _io_bytes(proc: Path, pid: int) -> int:
    moved = 0
    for line in lines(f"{proc}/{pid}/io"):
        if line.startswith(("read_bytes:", "write_bytes:")):
            moved += int(line.partition(":")[2])
    return moved


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []
