"""A resctrl file system in memory, which takes, refuses and tells what the kernel's would.

As in the kernel's rdtgroup.c and ctrlmondata.c: a write to `schemata` ends with a newline and counts as a whole or not
at all, masks are contiguous, names and numbers read back padded, a new class may use all that no other has for itself,
a thread is in one class, and what went wrong last is in `info/last_cmd_status`.
"""

import errno
import os
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class MadeUpResctrl:
    """Two domains, and classes in them. `alive`: threads of the machine; those of no class are in the root's."""

    alive: set[int]
    ways: int | None = 20
    least_ways: int = 2
    full: int | None = 100  # of memory bandwidth
    least: int = 10
    step: int = 10
    cdp: bool = False
    mounted: bool = True
    there: bool = True
    most: int = 4
    lies: str = ""  # what every class's `schemata` says instead
    loses: bool = False  # threads that are put into a class are not in it afterwards
    exclusive: int = 0  # ways that another class has for itself
    writes: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str, dict[str, dict[int, int]]] = field(default_factory=dict)
    _of: dict[int, str] = field(default_factory=dict)
    _last: str = "ok"

    def exists(self) -> bool:
        return self.there

    def read(self, name: str) -> str:
        folder, _, file = name.rpartition("/")
        if not (self.there and self.mounted):
            return ""
        if folder.startswith("info"):
            return self._info(folder.removeprefix("info").strip("/"), file)
        if file == "schemata" and (not folder or folder in self.classes):
            return self.lies if folder and self.lies else self._shown(self.classes.get(folder, self._whole()))
        if file == "tasks" and (not folder or folder in self.classes):
            return "".join(f"{each}\n" for each in sorted(self.alive) if self._of.get(each, "") == folder)
        return ""

    def write(self, name: str, text: str) -> None:
        folder, _, file = name.rpartition("/")
        if not self.mounted or (folder and folder not in self.classes):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self.writes.append((name, text))
        self._last = "ok"
        if file == "tasks":
            thread = int(text.strip())
            if thread not in self.alive:
                raise self._refusal(errno.ESRCH, f"No task {thread}")
            if not self.loses:
                self._of[thread] = folder
            return
        assert file == "schemata"
        if not text.endswith("\n"):
            raise self._refusal(errno.EINVAL, "")
        staged = {resource: dict(values) for resource, values in self.classes[folder].items()}
        for line in text[:-1].split("\n"):
            self._parse(line, staged)
        self.classes[folder] = staged

    def make(self, name: str) -> None:
        self._last = "ok"
        if not self.mounted:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        if name in self.classes:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if len(self.classes) + 1 >= self.most:
            raise self._refusal(errno.ENOSPC, "Out of CLOSIDs")
        self.classes[name] = {
            resource: {domain: value & ~self.exclusive if resource != "MB" else value for domain, value in now.items()}
            for resource, now in self._whole().items()
        }

    def remove(self, name: str) -> None:
        if name not in self.classes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        del self.classes[name]
        self._of = {thread: folder for thread, folder in self._of.items() if folder != name}

    def inside(self, name: str) -> set[int]:
        """Return the threads of a class."""
        return {int(line) for line in self.read(f"{name}/tasks").split()}

    def _caches(self) -> tuple[str, ...]:
        if self.ways is None:
            return ()
        return ("L3DATA", "L3CODE") if self.cdp else ("L3",)

    def _whole(self) -> dict[str, dict[int, int]]:
        found = {name: dict.fromkeys((0, 1), (1 << (self.ways or 0)) - 1) for name in self._caches()}
        return found | ({"MB": dict.fromkeys((0, 1), self.full)} if self.full is not None else {})

    def _info(self, resource: str, file: str) -> str:
        known: dict[str, object] = {}
        if not resource:
            known = {"last_cmd_status": self._last}
        elif resource in self._caches():
            known = {"cbm_mask": f"{(1 << (self.ways or 0)) - 1:x}", "min_cbm_bits": self.least_ways}
        elif resource == "MB" and self.full is not None:
            known = {"min_bandwidth": self.least, "bandwidth_gran": self.step}
        return f"{known[file]}\n" if file in known else ""

    def _shown(self, values: dict[str, dict[int, int]]) -> str:
        width = max((len(name) for name in values), default=0)
        digits = ((self.ways or 0) + 3) // 4
        return "".join(
            f"{name:>{width}}:"
            + ";".join(f"{at}={found:4d}" if name == "MB" else f"{at}={found:0{digits}x}" for at, found in now.items())
            + "\n"
            for name, now in values.items()
        )

    def _parse(self, line: str, staged: dict[str, dict[int, int]]) -> None:
        name, colon, rest = line.partition(":")
        if not colon or name.strip() not in staged:
            raise self._refusal(errno.EINVAL, f"Unknown or unsupported resource name '{name}'")
        for pair in rest.split(";"):
            domain, _, value = pair.partition("=")
            if int(domain) not in staged[name]:
                raise self._refusal(errno.EINVAL, "")
            staged[name][int(domain)] = self._percent(value) if name == "MB" else self._mask(value)

    def _percent(self, text: str) -> int:
        value = int(text)
        if not self.least <= value <= (self.full or 0):
            raise self._refusal(errno.EINVAL, f"MB value {value} out of range [{self.least},{self.full}]")
        return -(-value // self.step) * self.step

    def _mask(self, text: str) -> int:
        value = int(text, 16)
        if (self.least_ways and not value) or value >= 1 << (self.ways or 0):
            raise self._refusal(errno.EINVAL, "Mask out of range")
        if "01" in f"{value:b}".rstrip("0"):
            raise self._refusal(errno.EINVAL, f"The mask {value:x} has non-consecutive 1-bits")
        if value.bit_count() < self.least_ways:
            raise self._refusal(errno.EINVAL, f"Need at least {self.least_ways} bits in the mask")
        if value & self.exclusive:
            raise self._refusal(errno.EINVAL, "Overlaps with exclusive group")
        return value

    def _refusal(self, number: int, words: str) -> OSError:
        self._last = words or "ok"
        return OSError(number, os.strerror(number))
