"""What a server uses, second by second: all of it, its primary applications, and what it has lent."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fallow.agent.primaries import GroupSource, Paced, Source
from fallow.agent.whole import Whole, WholeMachine
from fallow.decide.harvest.measured import Measured
from fallow.drivers.cgroups import lines
from fallow.drivers.limits.contract import Limits

RING_SECONDS = 86400
COLUMNS = ("own_cpus", "own_memory", "lent_cpus", "lent_memory", "cpu_waiting", "io_bytes")
_SECTOR = 512
_LAYERED = ("loop", "ram", "zram", "dm-", "md")


class Ring:
    """The newest `length` rows of COLUMNS, one a second, in single precision."""

    def __init__(self, length: int = RING_SECONDS) -> None:
        self._rows: NDArray[np.float32] = np.zeros((length, len(COLUMNS)), dtype=np.float32)
        self.count = 0  # of all rows ever

    def __len__(self) -> int:
        return min(self.count, len(self._rows))

    def add(self, measured: Measured) -> None:
        """Keep one second."""
        self._rows[self.count % len(self._rows)] = (
            measured.own_cpus,
            measured.own_memory_bytes,
            measured.lent_cpus,
            measured.lent_memory_bytes,
            measured.cpu_waiting,
            measured.io_bytes_per_second,
        )
        self.count += 1

    def newest(self, rows: int) -> NDArray[np.float32]:
        """Return the newest rows, oldest first: (at most `rows`, columns)."""
        rows = min(rows, len(self))
        return self._rows[np.arange(self.count - rows, self.count) % len(self._rows)]

    def shares(self, column: str, whole: float, seconds: int, most: int) -> tuple[int, ...]:
        """Return means of a column over `seconds` each, as percents of `whole`, oldest first, at most `most`."""
        ended = self.count - self.count % seconds  # so that a mean once told does not change
        kept = min((len(self) - self.count % seconds) // seconds, most) * seconds
        rows = self._rows[np.arange(ended - kept, ended) % len(self._rows), COLUMNS.index(column)]
        if not kept or whole <= 0:
            return ()
        found = np.clip(np.rint(rows.reshape(-1, seconds).mean(axis=1) / whole * 100), 0, 100)
        return tuple(int(share) for share in found)


class Measuring:
    """Measures this machine, or what `whole` is of it. `clock` never jumps; `root` is where `proc` and `sys` are.

    `lent` is the group of what is lent, asked only for how long that waits. Calls block for a moment, and come from
    one thread at a time.
    """

    def __init__(
        self,
        limits: Limits,
        primaries: Sequence[Source],
        *,
        lent: GroupSource | None = None,
        whole: Whole | None = None,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._primaries = primaries
        self._lent = lent
        self._proc = root / "proc"
        self._sys = root / "sys"
        self._disks: dict[str, bool] = {}
        self._clock = clock
        self._whole = whole or WholeMachine(self._proc)
        self._paced = Paced()
        self._periods = (0, 0)
        self._at: float | None = None

    def measure(self) -> Measured | None:
        """Return the means since the last call; None at the first one. Raises MeasureError."""
        now = self._clock()
        whole = self._whole.use()
        primaries = tuple(primary.use(now) for primary in self._primaries)
        lent = self._limits.use()
        lent_waiting = self._lent.waiting(now) if self._lent is not None else 0.0
        periods, throttled = lent.periods - self._periods[0], lent.throttled_periods - self._periods[1]
        self._periods = (lent.periods, lent.throttled_periods)
        used = self._paced.rate("all", whole.busy_seconds, now)
        lent_cpus = self._paced.rate("lent", lent.cpu_seconds, now)
        io = self._paced.rate("io", self._disk_bytes(), now)
        before, self._at = self._at, now
        if before is None or now <= before:
            return None
        return Measured(
            at=now,
            seconds=now - before,
            cpus=whole.cpus,
            memory_bytes=whole.memory_bytes,
            used_cpus=min(whole.cpus, max(used, lent_cpus)),
            used_memory_bytes=whole.used_memory_bytes,
            lent_cpus=min(whole.cpus, lent_cpus),
            lent_memory_bytes=lent.memory_bytes or 0,
            lent_waiting=lent_waiting,
            throttled=min(1.0, max(0.0, throttled / periods)) if periods > 0 else 0.0,
            io_bytes_per_second=io,
            primaries=primaries,
        )

    def _disk_bytes(self) -> float:
        """Return what all disks read and wrote since boot; parts of disks are not counted once more."""
        moved = 0
        for line in lines(self._proc / "diskstats"):
            words = line.split(None, 10)
            if len(words) > 9 and self._is_disk(words[2]):
                moved += (int(words[5]) + int(words[9])) * _SECTOR
        return float(moved)

    def _is_disk(self, name: str) -> bool:
        """Say whether a block device is a whole disk, and no other device beneath it counts the same bytes."""
        known = self._disks.get(name)
        if known is None:
            known = not name.startswith(_LAYERED) and (self._sys / "block" / name).is_dir()
            self._disks[name] = known
        return known
