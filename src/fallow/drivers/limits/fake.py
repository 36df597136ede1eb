"""A group of what is lent that exists in memory only, with faults to order."""

from fallow.drivers.limits.contract import Classes, LentUse, LimitsError


class FakeLimits:
    """Holds what it is told. `refuses`: problems that each setting has; `lies`: what reads back instead of a limit."""

    def __init__(self, group: str = "/fallow-lent") -> None:
        self._group = group
        self.prepared = False
        self.impossible = ""
        self.refuses = ""
        self.lies: float | None = None
        self.used = LentUse(cpu_seconds=0.0, memory_bytes=0)
        self.writes: list[float] = []
        self.memory: tuple[int, int] | None = None
        self.classes: tuple[float, float] | None = None
        self._cpus: float | None = None

    @property
    def group(self) -> str:
        """Return the group's name."""
        return self._group

    def prepare(self) -> tuple[str, ...]:
        """Make the group."""
        if self.impossible:
            raise LimitsError(self.impossible)
        self.prepared = True
        return ()

    def hold_cpus(self, cpus: float) -> tuple[str, ...]:
        """Note the limit, or what it reads back as."""
        if self.refuses:
            return (self.refuses,)
        if self._cpus == cpus:
            return ()
        self._cpus = cpus if self.lies is None else self.lies
        self.writes.append(cpus)
        if self._cpus != cpus:
            return (f"the processor limit of {self._group} is {self._cpus:.2f} instead of {cpus:.2f}",)
        return ()

    def hold_memory(self, high_bytes: int, max_bytes: int) -> tuple[str, ...]:
        """Note the limits."""
        if self.refuses:
            return (self.refuses,)
        self.memory = (high_bytes, max(high_bytes, max_bytes, self.used.memory_bytes or 0))
        return ()

    def hold_classes(self, cache: float, bandwidth: float) -> Classes:
        """Note the shares."""
        self.classes = (cache, bandwidth) if min(cache, bandwidth) < 1 else None
        if self.classes is None:
            return Classes()
        return Classes(problems=(self.refuses,)) if self.refuses else Classes(told=f"{cache:.0%}, {bandwidth:.0%}")

    def cpus(self) -> float | None:
        """Return the limit."""
        return self._cpus

    def use(self) -> LentUse:
        """Return what a test says is used."""
        return self.used
