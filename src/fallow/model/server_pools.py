"""Server pools: which servers lend what they do not use, how much of it, and when."""

from typing import Annotated, Literal

import msgspec

from fallow.model.labels import Selector, SelectorText
from fallow.model.meta import Name, Record

DEFAULT_POOL = "default"  # of servers that no other pool picks; it need not be stored

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]  # of a server's capacity
Cpus = Annotated[float, msgspec.Meta(ge=0, le=65536)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**60)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)]
Isolation = Literal["vm", "cgroup"]
# `20:00-07:00`, also over midnight; with days before it: `mon-fri 20:00-07:00`, `sat,sun 00:00-24:00`.
HOURS_PATTERN = (
    r"^((mon|tue|wed|thu|fri|sat|sun)([-,](mon|tue|wed|thu|fri|sat|sun))* )?"
    r"([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$(?!\n)"
)
HoursText = Annotated[str, msgspec.Meta(pattern=HOURS_PATTERN)]


class VmPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The virtual machines that are made on each server by themselves. 0: as much as the server is expected to lend."""

    count: Annotated[int, msgspec.Meta(ge=0, le=64)] = 1
    cpus: Cpus = 0
    memory_bytes: Bytes = 0
    disk_bytes: Bytes = 20 * 2**30
    image: Annotated[str, msgspec.Meta(max_length=256)] = "default"  # a name that the server knows, or a path on it


class LendingPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a server lends. Shares are of its whole capacity; the primary application always comes first.

    A container is admitted only while its server stays below the thresholds; what is lent is held below the ceilings
    every second, and what cannot be held there moves away. A threshold is always below its ceiling.
    """

    lends: bool = True
    cpu_threshold: Share = 0.65
    cpu_ceiling: Share = 0.80
    memory_threshold: Share = 0.80
    memory_ceiling: Share = 0.90
    reserve_cpus: Cpus = 0.0  # on top of what the primary is expected to need
    reserve_memory_bytes: Bytes = 0
    cache_share: Share = 1.0  # that what is lent may fill of the processors' last cache; 1: nothing is held
    memory_bandwidth_share: Share = 1.0
    hours: Annotated[tuple[HoursText, ...], msgspec.Meta(max_length=32)] = ()  # empty: always
    timezone: Annotated[str, msgspec.Meta(max_length=64)] = "UTC"  # as the IANA database names it
    predictor: Annotated[str, msgspec.Meta(max_length=64)] = "auto"  # auto: what would have been best on its history
    isolation: Isolation = "vm"
    vms: VmPlan = VmPlan()
    evict_after_seconds: Seconds = 60.0  # of getting too little processor
    move_seconds: Seconds = 30.0  # so long a replica may wait for its replacement when its server wants it gone
    backoff_seconds: Seconds = 600.0  # so long a server that sent replicas away gets none

    def problem(self) -> str:
        """Return which settings contradict each other; empty: none do."""
        if self.cpu_threshold >= self.cpu_ceiling:
            return f"the processor threshold {self.cpu_threshold:.0%} is not below the ceiling {self.cpu_ceiling:.0%}"
        if self.memory_threshold >= self.memory_ceiling:
            return (
                f"the memory threshold {self.memory_threshold:.0%} is not below the ceiling {self.memory_ceiling:.0%}"
            )
        return ""


class ServerPool(Record, frozen=True, kw_only=True):
    """Servers with one policy: those whose assigned labels `selector` picks. Its id is its name.

    A server that several pools pick belongs to the first of them by name; one that none picks to the pool `default`.
    """

    selector: Selector = Selector()
    policy: LendingPolicy = LendingPolicy()
    created_by: str = ""


class VmPlanChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a plan for virtual machines changes; None leaves it as it is."""

    count: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    cpus: Cpus | None = None
    memory_bytes: Bytes | None = None
    disk_bytes: Bytes | None = None
    image: Annotated[str, msgspec.Meta(max_length=256)] | None = None


class LendingChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of a policy changes; None leaves it as it is."""

    lends: bool | None = None
    cpu_threshold: Share | None = None
    cpu_ceiling: Share | None = None
    memory_threshold: Share | None = None
    memory_ceiling: Share | None = None
    reserve_cpus: Cpus | None = None
    reserve_memory_bytes: Bytes | None = None
    cache_share: Share | None = None
    memory_bandwidth_share: Share | None = None
    hours: Annotated[tuple[HoursText, ...], msgspec.Meta(max_length=32)] | None = None
    timezone: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    predictor: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    isolation: Isolation | None = None
    vms: VmPlanChange | None = None
    evict_after_seconds: Seconds | None = None
    move_seconds: Seconds | None = None
    backoff_seconds: Seconds | None = None


class ServerPoolRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new server pool; what its policy does not name is as in `LendingPolicy`."""

    name: Name
    selector: SelectorText
    policy: LendingChange = LendingChange()


class ServerPoolChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH on a server pool may change."""

    selector: SelectorText | None = None
    policy: LendingChange = LendingChange()


class ServerPoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A server pool as the API shows it, with the servers in it."""

    name: str
    selector: str
    policy: LendingPolicy
    revision: int = 0
    created_at: float = 0.0
    created_by: str = ""
    servers: tuple[str, ...] = ()  # names
    cpus: float = 0.0  # of all of them
    memory_bytes: int = 0
    offered_cpus: float = 0.0  # now
    offered_memory_bytes: int = 0
