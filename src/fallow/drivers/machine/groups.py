"""Control groups of machines, of version 1, 2 or both: found, made, and read. Blocking, but of small files only."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fallow.drivers.machine.contract import MachineUse

ROOT = Path("/sys/fs/cgroup")


class Groups:
    """The control group `parent` (`fallow.slice`) in every hierarchy that this machine has."""

    def __init__(self, parent: str, root: Path = ROOT) -> None:
        self.parent = parent
        self._root = root

    def hierarchies(self) -> Sequence[Path]:
        """Return where they are mounted: one of version 2, or one for each controller, and maybe version 2 beside."""
        if (self._root / "cgroup.controllers").exists():
            return (self._root,)
        try:
            return tuple(path for path in sorted(self._root.iterdir()) if path.is_dir() and not path.is_symlink())
        except OSError:
            return ()

    def make(self, *names: str) -> None:
        """Make the group, or one below it, in every hierarchy; nothing where it is. Raises OSError."""
        for hierarchy in self.hierarchies():
            path = hierarchy
            for name in (self.parent, *names):
                _delegate(path)
                path = path / name
                path.mkdir(exist_ok=True)
                _inherit_cpuset(path)

    def remove(self, name: str) -> None:
        """Remove a group below, with those in it, as far as nothing runs there."""
        for hierarchy in self.hierarchies():
            path = hierarchy / self.parent / name
            for inner in sorted(path.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    inner.rmdir()

    def processes(self, name: str) -> set[int]:
        """Return the ids of everything that runs in a group below, or in those in it."""
        found: set[int] = set()
        for hierarchy in self.hierarchies():
            for path in (hierarchy / self.parent / name).glob("**/cgroup.procs"):
                with contextlib.suppress(OSError, ValueError):
                    found |= {int(pid) for pid in path.read_text().split()}
        return found

    def find(self, pattern: re.Pattern[str]) -> tuple[Path, ...]:
        """Return the folders, one a hierarchy, of the group directly below whose name matches."""
        found = []
        for hierarchy in self.hierarchies():
            with contextlib.suppress(OSError):
                found += [path for path in (hierarchy / self.parent).iterdir() if pattern.match(path.name)]
        return tuple(path for path in found if path.is_dir())


def use(folders: Sequence[Path], processors: float) -> MachineUse | None:
    """Return what a group has used; `processors` are those its limit is for. None when nothing of it can be read."""
    stats = [_numbers(folder / "cpu.stat") for folder in folders]
    cpu_us = [stat["usage_usec"] for stat in stats if "usage_usec" in stat]
    cpu_ns = [value for value in (_number(folder / "cpuacct.usage") for folder in folders) if value]
    if not cpu_us and not cpu_ns:
        return None
    throttled = [stat["throttled_usec"] / 1e6 for stat in stats if "throttled_usec" in stat]
    throttled += [stat["throttled_time"] / 1e9 for stat in stats if "throttled_time" in stat]
    return MachineUse(
        cpu_seconds=max([*(value / 1e6 for value in cpu_us), *(value / 1e9 for value in cpu_ns)]),
        memory_bytes=max(_memory(folders), default=0),
        throttled_seconds=max(throttled, default=0.0) / max(1.0, processors),
    )


def quota(folders: Sequence[Path]) -> float | None:
    """Return how many processors a group may use, 0 without a limit; None when that cannot be read."""
    for folder in folders:
        text = _text(folder / "cpu.max").split()
        if len(text) == 2:
            return 0.0 if text[0] == "max" else int(text[0]) / int(text[1])
        limit, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if limit is not None and period:
            return max(0.0, limit / period)
    return None


def weight(folders: Sequence[Path]) -> int | None:
    """Return the share of processor time of a group beside its siblings, as its own version counts it."""
    found = (_number(folder / name) for folder in folders for name in ("cpu.shares", "cpu.weight"))
    return next((value for value in found if value is not None), None)


def weighs_io(folders: Sequence[Path]) -> bool:
    """Say whether groups have a weight of input and output here."""
    names = ("blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight")
    return any((folder / name).exists() for folder in folders for name in names)


def _memory(folders: Sequence[Path]) -> Iterator[int]:
    """Yield what a group holds that could not be dropped."""
    for folder in folders:
        stat = _numbers(folder / "memory.stat")
        for name in ("total_rss", "anon"):
            if name in stat:
                yield stat[name]


def _delegate(path: Path) -> None:
    """Let groups below a group of version 2 have what it has; the root of a hybrid's has nothing."""
    wanted = _text(path / "cgroup.controllers").split()
    given = _text(path / "cgroup.subtree_control").split()
    for name in set(wanted) & {"cpu", "memory", "io", "pids", "cpuset"} - set(given):
        with contextlib.suppress(OSError):
            (path / "cgroup.subtree_control").write_text(f"+{name}")


def _inherit_cpuset(path: Path) -> None:
    """Fill in what a group of version 1 has to have before anything can run in it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = path / name
        if file.exists() and not (path / "cgroup.controllers").exists() and not _text(file):
            file.write_text(_text(path.parent / name))


def _numbers(path: Path) -> Mapping[str, int]:
    found = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
