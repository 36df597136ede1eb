"""What a server measures of itself, as the decisions about lending see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from fallow.model.servers import PrimaryUse


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One sample: processors in cores, memory in bytes, waiting as shares of the time, all means over `seconds`.

    What is neither of a primary nor lent is the system's. `at`: when it ended, in seconds of a clock that never jumps.
    """

    at: float
    seconds: float
    cpus: float  # all there are
    memory_bytes: int
    used_cpus: float
    used_memory_bytes: int
    lent_cpus: float = 0.0
    lent_memory_bytes: int = 0
    lent_waiting: float = 0.0  # for processors, whatever kept what is lent from them: its limit, or others
    throttled: float = 0.0  # share of the periods in which what is lent had used up its limit
    io_bytes_per_second: float = 0.0
    primaries: tuple[PrimaryUse, ...] = ()

    @property
    def own_cpus(self) -> float:
        """Return what is not lent: the primaries' use and the system's."""
        return max(0.0, self.used_cpus - self.lent_cpus)

    @property
    def own_memory_bytes(self) -> int:
        """Return what is not lent: the primaries' memory and the system's."""
        return max(0, self.used_memory_bytes - self.lent_memory_bytes)

    @property
    def primary_cpus(self) -> float:
        """Return the primaries' use; without named primaries all that is not lent counts as theirs."""
        if not self.primaries:
            return self.own_cpus
        return min(self.own_cpus, sum(primary.cpus for primary in self.primaries))

    @property
    def primary_memory_bytes(self) -> int:
        """Return the primaries' memory; without named primaries all that is not lent counts as theirs."""
        if not self.primaries:
            return self.own_memory_bytes
        return min(self.own_memory_bytes, sum(primary.memory_bytes for primary in self.primaries))

    @property
    def cpu_waiting(self) -> float:
        """Return how much the primary that waits most waits for a processor."""
        return max((primary.cpu_waiting for primary in self.primaries), default=0.0)

    @property
    def memory_waiting(self) -> float:
        """Return how much the primary that waits most waits for memory."""
        return max((primary.memory_waiting for primary in self.primaries), default=0.0)

    @property
    def io_waiting(self) -> float:
        """Return how much the primary that waits most waits for a disk."""
        return max((primary.io_waiting for primary in self.primaries), default=0.0)

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the primaries that are not found."""
        return tuple(primary.name for primary in self.primaries if not primary.found)


def merged(samples: Sequence[Measured]) -> Measured:
    """Return the means over samples that follow each other, oldest first; memory and what is found as in the newest.

    Raises ValueError when there are none.
    """
    if not samples:
        raise ValueError("there are no samples")
    newest, seconds = samples[-1], sum(sample.seconds for sample in samples)

    def mean(of: Callable[[Measured], float]) -> float:
        return sum(of(sample) * sample.seconds for sample in samples) / seconds

    rows = {row.name: [_row(sample, row.name) for sample in samples] for row in newest.primaries}
    weights = [sample.seconds / seconds for sample in samples]

    def share(name: str, of: Callable[[PrimaryUse], float]) -> float:
        return sum(weight * of(row) for weight, row in zip(weights, rows[name], strict=True) if row is not None)

    return replace(
        newest,
        seconds=seconds,
        used_cpus=mean(lambda sample: sample.used_cpus),
        lent_cpus=mean(lambda sample: sample.lent_cpus),
        lent_waiting=mean(lambda sample: sample.lent_waiting),
        throttled=mean(lambda sample: sample.throttled),
        io_bytes_per_second=mean(lambda sample: sample.io_bytes_per_second),
        primaries=tuple(
            structs.replace(
                row,
                cpus=share(row.name, lambda use: use.cpus),
                io_bytes_per_second=share(row.name, lambda use: use.io_bytes_per_second),
                cpu_waiting=min(1.0, share(row.name, lambda use: use.cpu_waiting)),
                memory_waiting=min(1.0, share(row.name, lambda use: use.memory_waiting)),
                io_waiting=min(1.0, share(row.name, lambda use: use.io_waiting)),
            )
            for row in newest.primaries
        ),
    )


def _row(sample: Measured, name: str) -> PrimaryUse | None:
    return next((row for row in sample.primaries if row.name == name), None)
