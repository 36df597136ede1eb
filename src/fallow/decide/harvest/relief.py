"""Relief: what has to go from a server for all to be right again; and the emergency in which nobody helps.

Processors: what is lent is suppressed when its limit is far below what its containers asked for, for
`evict_after_seconds` and still now, and it uses all of that limit, or waits for processors because others keep it even
from that, or there is nothing left to take from it. Memory: the server is above its ceiling although what is lent was
told to give memory back. Just enough is freed, not all.
"""

from dataclasses import dataclass, replace

from fallow.decide.harvest.suppress import FLOOR_CPUS

SATISFIED_LOW = 0.60  # limit / asked: below it what is lent gets too little
SATISFIED_GOOD = 0.80  # so much it should get of what is left
AT_LIMIT = 0.90
THROTTLED = 0.5
WAITS = 0.5  # of the time: others keep it from even so little
MEMORY_SECONDS = 5.0  # a balloon gets so long
MEMORY_BELOW = 0.02  # of the server's memory, that is freed below the ceiling
EMERGENCY_SECONDS = 10.0
EMERGENCY_REST_SECONDS = 30.0  # what was stopped has to show in the figures first


@dataclass(frozen=True, kw_only=True, slots=True)
class Strain:
    """For how many seconds it has been so; `rest_seconds`: how long no other machine is stopped."""

    cpu_seconds: float = 0.0
    memory_seconds: float = 0.0
    far_seconds: float = 0.0
    rest_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Relief:
    """What should go. `stop_one`: the machine of the lowest rank has to stop now."""

    cpus: float = 0.0
    memory_bytes: int = 0
    seconds: float = 0.0
    urgent: bool = False
    stop_one: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Burden:
    """What is lent now, and how it fares. `asked`: by the containers there."""

    capacity_memory_bytes: int
    ceiling: float  # of memory
    asked_cpus: float
    limit_cpus: float
    lent_cpus: float
    throttled: float
    waiting: float
    used_memory_bytes: int
    lent_memory_bytes: int


def strained(strain: Strain, burden: Burden, seconds: float) -> Strain:
    """Return the strain after `seconds` of this burden."""
    seconds = max(0.0, seconds)
    far = _far(burden)
    return replace(
        strain,
        cpu_seconds=strain.cpu_seconds + seconds if _suppressed(burden) else 0.0,
        memory_seconds=strain.memory_seconds + seconds if _over(burden) > 0 else 0.0,
        far_seconds=strain.far_seconds + seconds if far else 0.0,
        rest_seconds=max(0.0, strain.rest_seconds - seconds),
    )


def relief(strain: Strain, burden: Burden, evict_after_seconds: float) -> Relief:
    """Return what should go now."""
    cpus, memory, since = 0.0, 0, 0.0
    if _suppressed(burden) and strain.cpu_seconds >= evict_after_seconds:
        cpus = burden.asked_cpus - burden.limit_cpus / SATISFIED_GOOD
        since = strain.cpu_seconds
    far = _far(burden)
    if _over(burden) > 0 and (strain.memory_seconds >= MEMORY_SECONDS or far):
        below = int(MEMORY_BELOW * burden.capacity_memory_bytes)
        memory = min(burden.lent_memory_bytes, _over(burden) + below)
        since = max(since, strain.memory_seconds)
    stop = far and strain.far_seconds >= EMERGENCY_SECONDS and strain.rest_seconds <= 0
    return Relief(cpus=max(0.0, cpus), memory_bytes=memory, seconds=since, urgent=far, stop_one=stop)


def stopped(strain: Strain) -> Strain:
    """Return the strain once a machine was stopped in an emergency."""
    return replace(strain, rest_seconds=EMERGENCY_REST_SECONDS)


def _suppressed(burden: Burden) -> bool:
    if burden.asked_cpus <= 0 or burden.limit_cpus >= SATISFIED_LOW * burden.asked_cpus:
        return False
    return (
        burden.limit_cpus <= FLOOR_CPUS
        or burden.lent_cpus >= AT_LIMIT * burden.limit_cpus
        or burden.throttled >= THROTTLED
        or burden.waiting >= WAITS
    )


def _over(burden: Burden) -> int:
    """Return the bytes above the ceiling, 0 when nothing is lent that could be taken back."""
    over = burden.used_memory_bytes - int(burden.ceiling * burden.capacity_memory_bytes)
    return max(0, over) if burden.lent_memory_bytes > 0 else 0


def _far(burden: Burden) -> bool:
    """Say whether memory is more than half way from its ceiling to the end."""
    return _over(burden) > 0 and burden.used_memory_bytes > (1 + burden.ceiling) / 2 * burden.capacity_memory_bytes
