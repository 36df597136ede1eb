"""What this machine is and what it uses, read from the kernel."""

import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fallow.drivers.cgroups import lines
from fallow.drivers.engine.contract import EngineInfo
from fallow.model.members import Facts
from fallow.model.wire import Usage
from fallow.version import VERSION

# OCI's names for what the kernel calls its machine.
_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}
_NO_LIMIT = 2**60  # cgroup v1 says "no limit" with a number near 2**63
_TEXT_CHARS = 256


def architecture(machine: str) -> str:
    """Return what OCI images call a machine such as `x86_64`."""
    return _ARCHITECTURES.get(machine, machine)


@dataclass(kw_only=True)
class Vitals:
    """Reads facts and usage; `folder` lies on the disk whose space counts."""

    folder: Path
    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")
    _busy: float = field(default=-1.0, init=False)
    _total: float = field(default=0.0, init=False)

    def boot_id(self) -> str:
        """Return what the kernel calls this boot; empty where it does not say."""
        return _text(self.proc / "sys/kernel/random/boot_id")

    def facts(self, engine: str, info: EngineInfo | None = None) -> Facts:
        """Return what this machine is; where the engine has other limits than we, the smaller ones count."""
        cpus, memory, disk = self.cpus(), self.memory_bytes(), self._disk()[0]
        if info is not None:
            cpus = min(cpus, info.cpus or cpus)
            memory = min(memory, info.memory_bytes or memory)
            disk = info.disk_bytes or disk
        return Facts(
            hostname=socket.gethostname()[:_TEXT_CHARS],
            os=_os_name()[:_TEXT_CHARS],
            kernel=platform.release()[:_TEXT_CHARS],
            architecture=info.architecture if info and info.architecture else architecture(platform.machine()),
            engine=engine[:_TEXT_CHARS],
            agent_version=VERSION,
            cpus=cpus,
            memory_bytes=memory,
            disk_bytes=disk,
        )

    def usage(self, containers: int = 0) -> Usage:
        """Return what is used now; processors since the last call, 0 at the first one."""
        busy, total = self._ticks()
        share = (busy - self._busy) / (total - self._total) if self._busy >= 0 and total > self._total else 0.0
        self._busy, self._total = busy, total
        memory = self.meminfo()
        return Usage(
            cpus=max(0.0, share) * (os.cpu_count() or 1),
            memory_bytes=max(0, memory.get("MemTotal", 0) - memory.get("MemAvailable", 0)),
            disk_free_bytes=self._disk()[1],
            containers=containers,
        )

    def cpus(self) -> float:
        """Return the processors we may use: by affinity, and by the quota of our control group or any above it."""
        found = float(len(os.sched_getaffinity(0)))
        for group in self._groups("cpu"):
            quota, period = 0, 0
            both = _text(group / "cpu.max").split()
            if len(both) == 2 and both[0] != "max":
                quota, period = _number(both[0]), _number(both[1])
            elif not both:
                quota, period = _number(_text(group / "cpu.cfs_quota_us")), _number(_text(group / "cpu.cfs_period_us"))
            if quota > 0 and period > 0:
                found = min(found, quota / period)
        return round(found, 3)

    def memory_bytes(self) -> int:
        """Return the memory we may use: the machine's, or the limit of our control group or any above it."""
        found = self.meminfo().get("MemTotal", 0)
        for group in self._groups("memory"):
            for name in ("memory.max", "memory.limit_in_bytes"):
                limit = _number(_text(group / name))
                if 0 < limit < _NO_LIMIT:
                    found = min(found, limit) if found else limit
        return found

    def _groups(self, controller: str) -> Iterator[Path]:
        """Yield our control group's folder and those above it: in the tree of `controller` (v1), or the only one."""
        for line in _text(self.proc / "self/cgroup").splitlines():
            number, names, path = [*line.split(":", 2), "", ""][:3]
            if number == "0" and not names:
                root = self.cgroup
            elif controller in names.split(","):
                root = self.cgroup / names if (self.cgroup / names).is_dir() else self.cgroup / controller
            else:
                continue
            group = root / path.strip("/")
            while True:
                yield group
                if group in (root, group.parent):
                    break
                group = group.parent

    def _ticks(self) -> tuple[float, float]:
        """Return busy and all ticks of all processors since boot."""
        first = _text(self.proc / "stat").partition("\n")[0].split()
        if len(first) < 6 or first[0] != "cpu":
            return 0.0, 0.0
        ticks = [float(_number(value)) for value in first[1:9]]  # guest time is part of user time
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle, sum(ticks)

    def meminfo(self) -> dict[str, int]:
        """Return what the kernel says of memory as a whole, in bytes by its names: the three that begin with `Mem`."""
        found = {}
        for line in lines(self.proc / "meminfo"):
            if not line.startswith("Mem"):
                continue
            name, _, value = line.partition(":")
            words = value.split()
            if words:
                found[name] = _number(words[0]) * (1024 if words[-1] == "kB" else 1)
        return found

    def _disk(self) -> tuple[int, int]:
        """Return size and free space in bytes; before the folder is made, of the disk that it will be on."""
        folder = self.folder.absolute()
        try:
            found = os.statvfs(next(place for place in (folder, *folder.parents) if place.exists()))
        except OSError:
            return 0, 0
        return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.system()
