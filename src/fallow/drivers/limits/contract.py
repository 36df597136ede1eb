"""What is asked of a back-end that holds what a server lends within its limits."""

from dataclasses import dataclass
from typing import Protocol


class LimitsError(Exception):
    """What is lent cannot be held at all; the text says why, for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LentUse:
    """What is lent, as the kernel counts it: sums since the group was made, and memory now. None: not told."""

    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    periods: int = 0
    throttled_periods: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """What of caches and memory bandwidth what is lent is held to, as it reads back; both texts are for people."""

    told: str = ""  # empty: nothing holds it
    problems: tuple[str, ...] = ()


class Limits(Protocol):
    """The group of what is lent. All calls block, those for memory possibly for seconds; problems are for people.

    Every limit is read back: a value that the kernel took as another one is a problem, as is one that it refused.
    """

    @property
    def group(self) -> str:
        """Return the group's name, absolute."""

    def prepare(self) -> tuple[str, ...]:
        """Make the group, if it is missing, with the lowest weight on each resource that can have one.

        Limits that it has stay. Returns problems. Raises LimitsError when there can be no such group here.
        """

    def hold_cpus(self, cpus: float) -> tuple[str, ...]:
        """Let what is lent use so many processors, all together. Returns problems. The same again writes nothing.

        It has the lowest weight, so that it gets them only while nobody else wants them; but with a limit that is very
        small it gets that for sure, or it could not even say that it stops.
        """

    def hold_memory(self, high_bytes: int, max_bytes: int) -> tuple[str, ...]:
        """Make the kernel take memory back above `high_bytes`, and never give more than `max_bytes`. Returns problems.

        The maximum is never set below what is used: the kernel would end processes of its own choice.
        """

    def hold_classes(self, cache: float, bandwidth: float) -> Classes:
        """Let what is lent fill this share of the caches and use this share of memory bandwidth, in (0, 1].

        Has to be called again and again: what has come into the group since is held from then on. Two shares of 1
        take away whatever held it before. Where nothing can be divided that is a problem and nothing else.
        """

    def cpus(self) -> float | None:
        """Return the limit that the kernel holds now; None: it holds none."""

    def use(self) -> LentUse:
        """Return what is used."""
