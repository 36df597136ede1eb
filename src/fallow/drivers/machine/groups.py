"""Control groups of machines below the one of all that is lent. Blocking, but of small files only."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from fallow.drivers.cgroups import KEPT_BELOW, KEPT_QUOTA, TREES, Groups, fields, lines, number
from fallow.drivers.machine.contract import MachineUse

PERIOD_US = 100_000
LEAST_QUOTA_US = 1_000  # the kernel's
_IO_WEIGHTS = ("blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight")
_UNLIMITED = 2**62  # version 1 writes the largest number of pages where there is no limit
_CONTROLLERS = ("cpu", "memory", "io", "pids", "cpuset")


class MachineGroups:
    """The groups below `parent`, such as `fallow.slice`."""

    def __init__(self, parent: str, groups: Groups | None = None) -> None:
        self.parent = parent
        self._groups = groups or Groups()

    def make(self, name: str = "") -> None:
        """Make the parent, and a group in it, in every tree; what is there stays as it is. Raises OSError."""
        groups = self._groups
        trees = [groups.tree(controller) for controller in (*TREES, "systemd")] + [groups.unified]
        for tree in dict.fromkeys(tree for tree in trees if tree is not None):
            folder = tree
            for part in f"{self.parent}/{name}".strip("/").split("/"):
                _hand_down(folder)
                folder = folder / part
                folder.mkdir(exist_ok=True)
                _share_cpuset(folder)

    def remove(self, name: str) -> None:
        """Remove a group with those in it, as far as nothing runs there."""
        for folder in self._groups.folders(f"/{self.parent}/{name}"):
            for inner, _, _ in reversed(list(os.walk(folder))):
                with contextlib.suppress(OSError):
                    Path(inner).rmdir()

    def find(self, pattern: re.Pattern[str]) -> str:
        """Return the name of the group directly below whose name matches; empty: there is none."""
        for folder in self._groups.folders(f"/{self.parent}"):
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    if pattern.match(entry.name):
                        return entry.name
        return ""

    def processes(self, name: str) -> set[int]:
        """Return the ids of everything that runs in a group or below it."""
        return self._groups.processes(f"/{self.parent}/{name}")

    def enter(self, name: str) -> Sequence[Path]:
        """Return the files that a process writes its id to so as to be in a group."""
        return [folder / "cgroup.procs" for folder in self._groups.folders(f"/{self.parent}/{name}")]

    def use(self, name: str, processors: float) -> MachineUse | None:
        """Return what a group has used; `processors` are those its limit is for. None when that cannot be read."""
        group = f"/{self.parent}/{name}"
        seconds = self._groups.cpu_seconds(group)
        if seconds is None:
            return None
        folder = self._groups.folder("cpu", group)
        stat = fields(folder / "cpu.stat") if folder is not None else {}
        throttled = stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9
        return MachineUse(
            cpu_seconds=seconds,
            memory_bytes=self._groups.memory_bytes(group) or 0,
            throttled_seconds=throttled / max(1.0, processors),
        )

    def quota(self, name: str = "") -> float | None:
        """Return how many processors a group may use when nothing is short, 0 without a limit; None: cannot be read."""
        folder = self._groups.folder("cpu", f"/{self.parent}/{name}")
        if folder is None:
            return None
        if words := " ".join(lines(folder / "cpu.max")).split():
            return 0.0 if words[0] == "max" else int(words[0]) / int(words[1])
        limit, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
        if limit is None or not period:
            return None
        with contextlib.suppress(OSError, ValueError):
            limit = int(os.getxattr(folder, KEPT_QUOTA))
        return max(0.0, limit / period)

    def room(self) -> float:
        """Return the largest quota, in processors, that a group below may be given just now."""
        folder = self._groups.folder("cpu", f"/{self.parent}")
        if folder is None or self._groups.version == 2:
            return float("inf")
        limit, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
        return limit / period if limit is not None and limit > 0 and period else float("inf")

    def keep_quota(self, name: str, cpus: float) -> None:
        """Note the quota that a group should have as soon as there is room, and tell who holds all. Raises OSError."""
        folder = self._groups.folder("cpu", f"/{self.parent}/{name}")
        if folder is not None:
            os.setxattr(folder, KEPT_QUOTA, str(quota_us(cpus)).encode())
            os.setxattr(folder.parent, KEPT_BELOW, b"")

    def forget_quota(self, name: str) -> None:
        """Forget that a group should have another quota."""
        folder = self._groups.folder("cpu", f"/{self.parent}/{name}")
        if folder is not None:
            with contextlib.suppress(OSError):
                os.removexattr(folder, KEPT_QUOTA)

    def weight(self, name: str) -> int | None:
        """Return the share of processor time of a group beside its siblings, as its version counts it."""
        folder = self._groups.folder("cpu", f"/{self.parent}/{name}")
        found = (number(folder / each) for each in ("cpu.shares", "cpu.weight")) if folder is not None else ()
        return next((value for value in found if value is not None), None)

    def memory_limit(self, name: str) -> int | None:
        """Return the bytes that a group may have at most, 0 without a limit; None: cannot be read."""
        folder = self._groups.folder("memory", f"/{self.parent}/{name}")
        words = "".join(lines(folder / "memory.max")).strip() if folder is not None else ""
        found = int(words) if words.isdigit() else 0 if words else None
        if found is None and folder is not None:
            found = number(folder / "memory.limit_in_bytes")
        return 0 if found is not None and found >= _UNLIMITED else found

    def io_weight(self, name: str) -> int | None:
        """Return the weight of input and output of a group; None: there is none here."""
        for folder in self._groups.folders(f"/{self.parent}/{name}"):
            for file in (folder / each for each in _IO_WEIGHTS):
                words = " ".join(lines(file)[:1]).split()  # `100`, or `default 100`
                if words and words[-1].isdigit():
                    return int(words[-1])
        return None

    def weighs_io(self) -> bool:
        """Say whether groups have a weight of input and output here."""
        folders = self._groups.folders(f"/{self.parent}")
        return any((folder / name).exists() for folder in folders for name in _IO_WEIGHTS)


def quota_us(cpus: float) -> int:
    """Return what may be used in a period."""
    return max(LEAST_QUOTA_US, round(cpus * PERIOD_US))


def _hand_down(folder: Path) -> None:
    """Let groups below a group of version 2 have what it has; that of a hybrid has nothing."""
    offered, given = " ".join(lines(folder / "cgroup.controllers")), " ".join(lines(folder / "cgroup.subtree_control"))
    for name in set(offered.split()) & set(_CONTROLLERS) - set(given.split()):
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{name}")


def _share_cpuset(folder: Path) -> None:
    """Fill in what a group of version 1 has to have before anything can run in it. Raises OSError."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        if file.exists() and not (folder / "cgroup.controllers").exists() and not "".join(lines(file)).strip():
            file.write_text("".join(lines(folder.parent / name)).strip())
