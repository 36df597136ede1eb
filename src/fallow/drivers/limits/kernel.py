"""The group of what is lent in the kernel's control groups, version 1 or 2."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fallow.decide.harvest.suppress import SURE_CPUS
from fallow.drivers.cgroups import KEPT_BELOW, KEPT_QUOTA, TREES, Groups, lines, number, write
from fallow.drivers.limits.contract import Classes, LentUse, LimitsError
from fallow.drivers.limits.resctrl import Files, Resctrl

PERIOD_US = 100_000
LEAST_QUOTA_US = 1_000  # the kernel's
CLOSE_SHARE = 0.01  # two quotas that differ by less are the same
PAGE = 4096
MEMORY_STEP = 16 * 2**20  # a memory limit that moves by less is not worth a write
FLOOR_MEMORY = 16 * 2**20
_NO_LIMIT = 2**60
_CONTROLLERS = ("cpu", "memory", "io", "pids", "cpuset")


class KernelLimits:
    """Limits by control group `group`. `groups` says where control groups lie, `resctrl` what classes are made in."""

    def __init__(self, group: str, groups: Groups | None = None, resctrl: Files | None = None) -> None:
        self._group = group
        self._groups = groups or Groups()
        name = group.strip("/").replace("/", "-")  # classes have no classes below them
        self._classes = Resctrl(name, lambda: self._groups.threads(group), resctrl)
        self._lowered = True  # some quota below ours may be: this agent's or one's before it

    @property
    def group(self) -> str:
        """Return the group's name."""
        return self._group

    def prepare(self) -> tuple[str, ...]:
        """Make the group with the lowest weights."""
        if self._groups.version == 0:
            raise LimitsError(
                f"{self._groups.root} has no control groups that limit processors, so that nothing can be lent safely"
            )
        try:
            for folder in self._wanted_folders():
                folder.mkdir(parents=True, exist_ok=True)
            if self._groups.version == 2:
                self._enable()
            self._share_cpuset()
        except OSError as error:
            raise LimitsError(
                f"the control group {self._group} cannot be made: {error.strerror}; a server's agent has to run as root"
            ) from error
        held = self.cpus()
        return (*self._weigh_cpus(sure=held is not None and held <= SURE_CPUS), *self._lower_io())

    def hold_cpus(self, cpus: float) -> tuple[str, ...]:
        """Set and read back the quota, and the weight that goes with it: never a high one with a high quota."""
        sure = cpus <= SURE_CPUS
        if sure:
            return (*self._hold_quota(cpus), *self._weigh_cpus(sure))
        return (*self._weigh_cpus(sure), *self._hold_quota(cpus))

    def _hold_quota(self, cpus: float) -> tuple[str, ...]:
        quota = max(LEAST_QUOTA_US, round(cpus * PERIOD_US))
        anew = self._kept_below()
        if (held := self.cpus()) is not None and _close(held * PERIOD_US, quota) and not anew:
            return ()
        self._lowered |= anew
        try:
            self._write_quota(quota)
        except OSError as error:
            return (f"the processor limit {cpus:.2f} of {self._group} was refused: {error.strerror}",)
        read = self.cpus()
        if read is None or not _close(read * PERIOD_US, quota):
            return (f"the processor limit of {self._group} is {_cpus_text(read)} instead of {cpus:.2f}",)
        return ()

    def hold_memory(self, high_bytes: int, max_bytes: int) -> tuple[str, ...]:
        """Set and read back both memory limits."""
        folder = self._groups.folder("memory", self._group)
        if folder is None:
            return (f"memory of {self._group} cannot be limited: the kernel has no such controller",)
        version2 = self._groups.version == 2
        used = number(folder / ("memory.current" if version2 else "memory.usage_in_bytes")) or 0
        high = max(FLOOR_MEMORY, high_bytes)
        most = max(high, max_bytes, used + MEMORY_STEP)
        names = ("memory.high", "memory.max") if version2 else ("memory.soft_limit_in_bytes", "memory.limit_in_bytes")
        problems = [_hold_bytes(folder / name, value) for name, value in zip(names, (high, most), strict=True)]
        return tuple(problem for problem in problems if problem)

    def hold_classes(self, cache: float, bandwidth: float) -> Classes:
        """Set and read back the class of all threads in the group."""
        return self._classes.hold(cache, bandwidth)

    def cpus(self) -> float | None:
        """Return the quota in processors."""
        return self._groups.quota(self._group)

    def use(self) -> LentUse:
        """Return what is used."""
        periods, throttled = self._groups.periods(self._group)
        return LentUse(
            cpu_seconds=self._groups.cpu_seconds(self._group),
            memory_bytes=self._groups.memory_bytes(self._group),
            periods=periods,
            throttled_periods=throttled,
        )

    def _wanted_folders(self) -> list[Path]:
        name = self._group.strip("/")
        if self._groups.version == 2:
            return [self._groups.root / name]
        trees = [self._groups.tree(controller) for controller in TREES]
        return [tree / name for tree in (*trees, self._groups.unified) if tree is not None]

    def _share_cpuset(self) -> None:
        """Let the group have all processors and all memory: version 1 begins with none, and takes in nothing then."""
        folder = self._groups.folder("cpuset", self._group)
        if folder is None or self._groups.version == 2:
            return
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not "".join(lines(folder / name)).strip():
                write(folder / name, "".join(lines(folder.parent / name)).strip())
        write(folder / "cgroup.clone_children", "1")

    def _enable(self) -> None:
        """Let the group and those directly below it have controllers: version 2 hands them down one by one."""
        folder = self._groups.root
        for part in ("", *self._group.strip("/").split("/")):
            folder = folder / part
            offered = (lines(folder / "cgroup.controllers") or [""])[0].split()
            had = (lines(folder / "cgroup.subtree_control") or [""])[0].split()
            for controller in _CONTROLLERS:
                if controller in offered and controller not in had:
                    try:
                        write(folder / "cgroup.subtree_control", f"+{controller}")
                    except OSError as error:
                        if error.errno != errno.EBUSY or controller in ("cpu", "memory"):
                            raise

    def _weigh_cpus(self, sure: bool) -> Iterator[str]:
        """Give the group the lowest weight of all; or, `sure`, that of any other: its quota is bound enough then."""
        cpu = self._groups.folder("cpu", self._group)
        if cpu is not None and _idle(cpu, not sure) and not sure:
            return
        lowest, usual = (1, 100) if self._groups.version == 2 else (2, 1024)
        name = "cpu.weight" if self._groups.version == 2 else "cpu.shares"
        yield from _weigh(cpu, name, usual if sure else lowest)

    def _lower_io(self) -> Iterator[str]:
        """Give the group the lowest weight at disks; what this kernel does not have is left out."""
        io = self._groups.folder("blkio", self._group)
        if self._groups.version == 2:
            io = self._groups.folder("io", self._group)
            names = (("io.weight", 1), ("io.bfq.weight", 1))
        else:
            names = (("blkio.weight", 10), ("blkio.bfq.weight", 1))
        for name, weight_value in names:
            if io is not None and (io / name).is_file():
                yield from _weigh(io, name, weight_value)

    def _kept_below(self) -> bool:
        """Say whether a group below has been made since the last call that had to take less than its quota."""
        folder = self._groups.folder("cpu", self._group)
        try:
            os.removexattr(folder or "", KEPT_BELOW)
        except OSError:
            return False
        return True

    def _write_quota(self, quota_us: int) -> None:
        folder = self._groups.folder("cpu", self._group)
        assert folder is not None
        if self._groups.version == 2:
            write(folder / "cpu.max", f"{quota_us} {PERIOD_US}")
            return
        if number(folder / "cpu.cfs_period_us") != PERIOD_US:
            write(folder / "cpu.cfs_period_us", str(PERIOD_US))
        try:
            write(folder / "cpu.cfs_quota_us", str(quota_us))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._lowered = _fit_below(folder, quota_us / PERIOD_US)
            write(folder / "cpu.cfs_quota_us", str(quota_us))
        else:
            if self._lowered:  # looking at all groups below costs more than all else of a second
                self._lowered = _fit_below(folder, quota_us / PERIOD_US)


def _idle(folder: Path, wanted: bool) -> bool:
    """Make the group run only when nothing else wants to, or like any other; False: this kernel cannot."""
    path = folder / "cpu.idle"
    if not path.is_file():
        return False
    try:
        if number(path) != int(wanted):
            write(path, str(int(wanted)))
    except OSError:
        return False
    return number(path) == int(wanted)


def _fit_below(folder: Path, cpus: float) -> bool:
    """Make the quotas of groups of version 1 below `folder` fit a quota of `cpus` of that one; say if any is lowered.

    There the kernel refuses a quota smaller than one below it. Those are lowered, deepest first, and get back what they
    had, highest first, as soon as it fits again; what they had is kept with the group itself.
    """
    below = [Path(name) for name, _, _ in os.walk(folder)][1:]
    for group in reversed(below):
        quota, period = number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us")
        if quota is None or not period or quota <= 0 or quota / period <= cpus:
            continue
        if _kept_quota(group) is None:
            os.setxattr(group, KEPT_QUOTA, str(quota).encode())
        write(group / "cpu.cfs_quota_us", str(max(LEAST_QUOTA_US, int(cpus * period))))
    lowered = False
    for group in below:
        had, period = _kept_quota(group), number(group / "cpu.cfs_period_us")
        if had is None or not period:
            continue
        quota = min(had, max(LEAST_QUOTA_US, int(_room(group.parent, folder, cpus) * period)))
        if (number(group / "cpu.cfs_quota_us") or 0) < quota:
            write(group / "cpu.cfs_quota_us", str(quota))
        if quota == had:
            os.removexattr(group, KEPT_QUOTA)
        else:
            lowered = True
    return lowered


def _room(group: Path, top: Path, cpus: float) -> float:
    """Return the smallest quota from `group` up to `top`, whose own is `cpus`."""
    found = cpus
    while group != top:
        quota, period = number(group / "cpu.cfs_quota_us"), number(group / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            found = min(found, quota / period)
        group = group.parent
    return found


def _kept_quota(group: Path) -> int | None:
    try:
        return int(os.getxattr(group, KEPT_QUOTA))
    except (OSError, ValueError):
        return None


def _weigh(folder: Path | None, name: str, value: int) -> Iterator[str]:
    if folder is None:
        yield f"{name} cannot be set: the kernel has no such controller"
        return
    path = folder / name
    if _weight(path) == value:
        return
    try:
        write(path, str(value))
    except OSError as error:
        yield f"{name} {value} of {folder.name} was refused: {error.strerror}"
        return
    if _weight(path) != value:
        yield f"{name} of {folder.name} is {_weight(path)} instead of {value}"


def _weight(path: Path) -> int | None:
    words = (lines(path) or [""])[0].split()
    return int(words[-1]) if words and words[-1].isdigit() else None  # io.weight: `default 100`


def _hold_bytes(path: Path, value: int) -> str:
    value -= value % PAGE
    held = _bytes(path)
    if held is not None and abs(held - value) < MEMORY_STEP:
        return ""
    try:
        write(path, str(value))
    except OSError as error:
        return f"{path.name} {value} of {path.parent.name} was refused: {error.strerror}"
    held = _bytes(path)
    if held is None or abs(held - value) >= PAGE:
        return f"{path.name} of {path.parent.name} is {held} instead of {value}"
    return ""


def _bytes(path: Path) -> int | None:
    found = number(path)  # `max` is no number
    return None if found is None or found >= _NO_LIMIT else found


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= max(50.0, CLOSE_SHARE * max(one, other))


def _cpus_text(cpus: float | None) -> str:
    return "none" if cpus is None else f"{cpus:.2f}"
