"""Where control groups lie on this machine, and what the kernel says of one: version 1, 2, or both side by side."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
TREES = ("cpu", "cpuacct", "cpuset", "memory", "devices", "blkio", "freezer", "pids", "perf_event", "net_cls")
# Attributes of groups of version 1, in which no group may have a larger quota than those above it: the quota that one
# gets back when there is room again, and, on the group of all that is lent, that one below has just got such a wish.
KEPT_QUOTA = "trusted.fallow.quota"
KEPT_BELOW = "trusted.fallow.quota-below"
_READ_BYTES = 65536
_SURELY_ALL = 2048  # the kernel ends a read early only where the next line does not fit in its page
_MOST_GROUPS = 4096  # below one group that are looked at


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The trees of control groups below `root`. Names of groups are absolute, such as `/fallow-lent`.

    With version 1 each controller has a tree of its own, and there may be a tree of version 2 beside them that has
    pressure and processor time but no limits ("hybrid").
    """

    root: Path = ROOT
    unified: Path | None = field(init=False)
    trees: dict[str, Path] = field(init=False)  # of version 1, by controller

    def __post_init__(self) -> None:
        """Find the trees; they do not change while a machine runs."""
        places = (self.root, self.root / "unified")
        found = next((place for place in places if (place / "cgroup.controllers").is_file()), None)
        object.__setattr__(self, "unified", found)
        trees = {name: self.root / name for name in (*TREES, "systemd") if (self.root / name).is_dir()}
        object.__setattr__(self, "trees", trees)

    @property
    def version(self) -> int:
        """Return which version limits processors and memory here; 0: there are no control groups."""
        if self.unified == self.root:
            return 2
        return 1 if "cpu" in self.trees else 0

    def tree(self, controller: str) -> Path | None:
        """Return the tree of a controller; None when it has none."""
        return self.root if self.version == 2 else self.trees.get(controller)

    def folder(self, controller: str, group: str) -> Path | None:
        """Return a group's folder in the tree of a controller; None when there is no such tree. It need not exist."""
        tree = self.tree(controller)
        return None if tree is None else tree / group.strip("/")

    def _file(self, controller: str, group: str, name: str) -> str | None:
        """Return the path of a group's file, as `folder`; joined as text, for that is done many times a second."""
        tree = self.tree(controller)
        return None if tree is None else f"{tree}/{group.strip('/')}/{name}"

    def folders(self, group: str) -> list[Path]:
        """Return the folders that this group has, one for each tree."""
        return [place for place in self._places(group) if place.is_dir()]

    def exists(self, group: str) -> bool:
        """Say whether any tree has this group."""
        return any(place.is_dir() for place in self._places(group))

    def _places(self, group: str) -> Iterator[Path]:
        """Yield where a group may have folders."""
        name = group.strip("/")
        if self.unified is not None:
            yield self.unified / name
        if self.version == 2:
            return
        for controller in (*TREES, "systemd"):
            if (tree := self.tree(controller)) is not None:
                yield tree / name

    def cpu_seconds(self, group: str) -> float | None:
        """Return the processor time that a group and those below it used; None: the kernel does not say.

        Where both versions count it the larger counts: libvirt takes one, engines the other.
        """
        found = []
        if self.version == 1 and (path := self._file("cpuacct", group, "cpuacct.usage")) is not None:
            used = number(path)
            found += [used / 1e9] if used is not None else []
        if self.unified is not None:
            used = number_called("usage_usec", f"{self.unified}/{group.strip('/')}/cpu.stat")
            found += [used / 1e6] if used is not None else []
        return max(found, default=None)

    def memory_bytes(self, group: str) -> int | None:
        """Return the memory of a group that cannot be had back by dropping files nobody reads; None: not told."""
        file, inactive = "memory.usage_in_bytes", "total_inactive_file"
        if self.version == 2:
            file, inactive = "memory.current", "inactive_file"
        path, stat = self._file("memory", group, file), self._file("memory", group, "memory.stat")
        used = number(path) if path is not None else None
        if used is None or stat is None:
            return None
        return max(0, used - (number_called(inactive, stat) or 0))

    def waited_seconds(self, group: str, resource: str) -> float | None:
        """Return for how long something of a group waited for `cpu`, `memory` or `io`, ever; None: not told."""
        if self.unified is None:
            return None
        for line in lines(f"{self.unified}/{group.strip('/')}/{resource}.pressure"):
            words = line.split()
            if words and words[0] == "some" and words[-1].startswith("total="):
                return int(words[-1][6:]) / 1e6
        return None

    def periods(self, group: str) -> tuple[int, int]:
        """Return in how many periods a group with a quota ran, and in how many of them it had used that up."""
        path = self._file("cpu", group, "cpu.stat")
        found = fields(path) if path is not None else {}
        return found.get("nr_periods", 0), found.get("nr_throttled", 0)

    def quota(self, group: str) -> float | None:
        """Return how many processors a group may use; None: as many as there are."""
        folder = self._file("cpu", group, "")
        if folder is None:
            return None
        if self.version == 2:
            words = (lines(f"{folder}cpu.max") or [""])[0].split()
            return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None
        quota, period = number(f"{folder}cpu.cfs_quota_us"), number(f"{folder}cpu.cfs_period_us")
        return quota / period if quota is not None and period and quota > 0 else None

    def io_bytes(self, group: str) -> int | None:
        """Return how much a group read from and wrote to disks, ever; None: not told."""
        if self.version == 1:
            folder = self.folder("blkio", group)
            if folder is None:
                return None
            found = [line.split() for line in lines(folder / "blkio.throttle.io_service_bytes_recursive")]
            return sum(int(words[-1]) for words in found if len(words) == 3 and words[1] in ("Read", "Write"))
        folder = self.folder("io", group)
        if folder is None or not (folder / "io.stat").is_file():
            return None
        words = [word for line in lines(folder / "io.stat") for word in line.split()]
        return sum(int(word[7:]) for word in words if word.startswith(("rbytes=", "wbytes=")))

    def processes(self, group: str) -> set[int]:
        """Return the ids of all processes of a group and those below it, as this process sees them."""
        found: set[int] = set()
        for folder in self.folders(group):
            for below in _with_those_below(folder):
                found.update(int(line) for line in lines(below / "cgroup.procs") if line.isdigit())
        found.discard(0)  # of another namespace
        return found

    def threads(self, group: str) -> set[int]:
        """Return the ids of all threads of a group and those below it, as this process sees them."""
        places = [(self.unified / group.strip("/"), "cgroup.threads")] if self.unified is not None else []
        if self.version == 1 and (folder := self.folder("cpu", group)) is not None:
            places.append((folder, "tasks"))
        found = {
            int(line)
            for folder, name in places
            for below in _with_those_below(folder)
            for line in lines(below / name)
            if line.isdigit()
        }
        found.discard(0)  # of another namespace
        return found

    def populated(self, group: str) -> bool:
        """Say whether any process is in a group or below it."""
        if self.unified is not None:
            populated = bool(number_called("populated", f"{self.unified}/{group.strip('/')}/cgroup.events"))
            if populated or self.version == 2:
                return populated
        return any(
            any(line.isdigit() for line in lines(below / "cgroup.procs"))
            for folder in self.folders(group)
            for below in _with_those_below(folder)
        )


def text(path: Path | str) -> str:
    """Return what a file of the kernel says, empty when it cannot be read. Python's own files cost three times this."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(descriptor, _READ_BYTES):
            parts.append(part)
            if len(part) < _SURELY_ALL:
                break
        return b"".join(parts).decode(errors="replace")
    except OSError:  # a process ended meanwhile, or what the file tells of is switched off
        return ""
    finally:
        os.close(descriptor)


def write(path: Path, text: str) -> None:
    """Write to a file of the kernel in one call. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def lines(path: Path | str) -> list[str]:
    """Return a file's lines; none when it cannot be read."""
    return text(path).splitlines()


def number(path: Path | str) -> int | None:
    """Return the one number in a file; None when there is none."""
    found = lines(path)
    try:
        return int(found[0]) if found else None
    except ValueError:
        return None


def number_called(name: str, path: Path | str) -> int | None:
    """Return what a file of lines `name number` says of one name; None when it says nothing."""
    _, found, rest = f"\n{text(path)}".partition(f"\n{name} ")
    value = rest.partition("\n")[0]
    return int(value) if found and value.isdigit() else None


def fields(path: Path | str) -> dict[str, int]:
    """Return a file of lines `name number`."""
    found = {}
    for line in lines(path):
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found


def _with_those_below(folder: Path) -> Iterator[Path]:
    for count, (name, _, _) in enumerate(os.walk(folder)):
        if count >= _MOST_GROUPS:
            return
        yield Path(name)
