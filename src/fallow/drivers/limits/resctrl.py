"""The class of what is lent in the kernel's resctrl file system: Intel RDT, AMD QoS, Arm MPAM."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from fallow.decide.harvest.classes import (
    BANDWIDTH,
    CACHES,
    WHOLE,
    Bandwidth,
    Cache,
    Schemata,
    described,
    schema,
    schemata,
    wanted,
)
from fallow.drivers.cgroups import text, write
from fallow.drivers.limits.contract import Classes

ROOT = Path("/sys/fs/resctrl")
ROUNDS = 3  # threads that start while theirs are moved are looked for again so often
_NOT_ASKED = "`fallow server-pool policy set NAME --cache 100% --memory-bandwidth 100%` asks for none"


class Files(Protocol):
    """The file system, by names below its root. Raises OSError as the kernel does."""

    def exists(self) -> bool:
        """Say whether its root is there; it may not be mounted there."""

    def read(self, name: str) -> str:
        """Return what a file says, empty when it cannot be read."""

    def write(self, name: str, text: str) -> None:
        """Write to a file in one call."""

    def make(self, name: str) -> None:
        """Make a folder."""

    def remove(self, name: str) -> None:
        """Remove a folder."""


class KernelFiles:
    """The kernel's own."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def exists(self) -> bool:
        """Say whether the kernel has it."""
        return self._root.is_dir()

    def read(self, name: str) -> str:
        """Return what a file says."""
        return text(self._root / name)

    def write(self, name: str, text: str) -> None:
        """Write in one call."""
        write(self._root / name, text)

    def make(self, name: str) -> None:
        """Make a group."""
        (self._root / name).mkdir()

    def remove(self, name: str) -> None:
        """Remove a group; its threads are in that of all others then."""
        (self._root / name).rmdir()


class Resctrl:
    """The class `name`, with the threads that `lent` returns in it."""

    def __init__(self, name: str, lent: Callable[[], set[int]], files: Files | None = None) -> None:
        self._name = name
        self._lent = lent
        self._files = files or KernelFiles()
        self._asked: tuple[float, float] | None = None
        self._lock = threading.Lock()  # an agent that ends removes the class while a call of before may go on

    def hold(self, cache: float, bandwidth: float) -> Classes:
        """Let what is lent use these shares; two whole ones remove the class."""
        with self._lock:
            if min(cache, bandwidth) >= WHOLE:
                return Classes(problems=self._remove())
            return self._hold(cache, bandwidth)

    def _hold(self, cache: float, bandwidth: float) -> Classes:
        if reason := self._missing():
            return Classes(problems=(f"{reason}; lending goes on without ({_NOT_ASKED})",))
        caches = dict(self._caches())
        found = wanted(cache, bandwidth, caches, self._bandwidth(), schemata(self._files.read("schemata")))
        lacks = tuple(f"{lack} ({_NOT_ASKED})" for lack in found.lacks)
        if not found.schemata:
            return Classes(problems=(*lacks, *self._remove()))
        if self._asked != (cache, bandwidth) and max(cache, bandwidth) >= WHOLE:
            self._remove()  # what is not asked for any more is the kernel's default in a new one
        try:
            self._files.make(self._name)
        except FileExistsError:
            pass
        except OSError as error:
            return Classes(problems=(*lacks, f"the class {self._name} cannot be made: {self._why(error)}"))
        self._asked = cache, bandwidth
        problems = (*self._set(found.schemata), *self._gather())
        return Classes(told=described(self._held(), found.schemata, caches), problems=(*lacks, *problems))

    def _missing(self) -> str:
        if self._files.read("schemata"):
            return ""
        if self._files.exists():
            return (
                "caches and memory bandwidth are not divided: resctrl is not mounted, or this processor only counts; "
                f"`mount -t resctrl resctrl {ROOT}` mounts it"
            )
        return (
            "caches and memory bandwidth cannot be divided here: the kernel has no resctrl, for which it needs a "
            "processor with Intel RDT, AMD QoS or Arm MPAM, which virtual machines rarely see"
        )

    def _caches(self) -> Iterator[tuple[str, Cache]]:
        for name in CACHES:
            mask, least = (self._files.read(f"info/{name}/{file}").strip() for file in ("cbm_mask", "min_cbm_bits"))
            if mask and least:
                yield name, Cache(mask=int(mask, 16), least_ways=int(least))

    def _bandwidth(self) -> Bandwidth | None:
        names = ("min_bandwidth", "bandwidth_gran")
        least, step = (self._files.read(f"info/{BANDWIDTH}/{name}").strip() for name in names)
        return Bandwidth(least=int(least), step=max(1, int(step))) if least and step else None

    def _held(self) -> Schemata:
        return schemata(self._files.read(f"{self._name}/schemata"))

    def _set(self, values: Schemata) -> Iterator[str]:
        """Write what is not held yet, each resource alone, as the kernel takes all of a call or nothing."""
        for name, masks in values.items():
            if self._held().get(name) == masks:
                continue
            line = schema(name, masks)
            try:
                self._files.write(f"{self._name}/schemata", line)
            except OSError as error:
                yield f"{line.strip()} of the class {self._name} was refused: {self._why(error)}"
                continue
            read = self._held().get(name, {})
            if read != masks:
                yield f"the class {self._name} has {schema(name, read).strip()} instead of {line.strip()}"

    def _gather(self) -> tuple[str, ...]:
        """Put all threads of what is lent into the class, and others out of it."""
        written: set[int] = set()
        for _ in range(ROUNDS):
            held = self._threads()  # before those that are lent: what starts meanwhile inherits the class
            lent = self._lent()
            for thread in held - lent:
                self._put(thread, "tasks")
            missing = lent - held
            if lost := missing & written:
                return (f"{len(lost)} of {len(lent)} threads of what is lent are not in the class {self._name}",)
            refused = {problem for thread in missing if (problem := self._put(thread, f"{self._name}/tasks"))}
            if refused or not missing:
                return tuple(sorted(refused))
            written |= missing
        return ()

    def _put(self, thread: int, file: str) -> str:
        """Put a thread into a class; return why that is refused, unless it has ended."""
        try:
            self._files.write(file, f"{thread}\n")
        except ProcessLookupError:
            return ""
        except OSError as error:
            return f"threads of what is lent cannot be put into the class {self._name}: {self._why(error)}"
        return ""

    def _threads(self) -> set[int]:
        return {int(line) for line in self._files.read(f"{self._name}/tasks").split()}

    def _remove(self) -> tuple[str, ...]:
        self._asked = None
        try:
            self._files.remove(self._name)
        except FileNotFoundError:
            return ()
        except OSError as error:
            return (f"the class {self._name} cannot be removed: {self._why(error)}",)
        return ()

    def _why(self, error: OSError) -> str:
        """Return what went wrong, in the kernel's own words where it has some."""
        last = self._files.read("info/last_cmd_status").strip()
        return f"{error.strerror}: {last}" if last not in ("", "ok") else error.strerror or str(error)
