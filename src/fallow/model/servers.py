"""Servers: machines that run a primary application and lend what it leaves idle."""

from typing import Annotated, Literal

import msgspec

from fallow.model.labels import Labels
from fallow.model.members import MemberState, Scheduling
from fallow.model.meta import Record
from fallow.model.server_pools import Bytes, Cpus, Seconds
from fallow.model.vms import LENT_GROUP, VmUse

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=2**60)]
Text = Annotated[str, msgspec.Meta(max_length=1024)]
STALE_SECONDS = 5.0  # a server that was silent for longer is taken for full


class Primary(msgspec.Struct, frozen=True, kw_only=True):
    """A primary application, by the control group, systemd unit or process name that it runs as."""

    kind: Literal["cgroup", "systemd", "process"]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

    @property
    def text(self) -> str:
        """Return it as people write it: `systemd:postgresql.service`."""
        return f"{self.kind}:{self.name}"


def parse_primaries(text: str) -> tuple[Primary, ...]:
    """Read `systemd:postgresql.service,cgroup:/shop,process:java`. Raises ValueError, which says what is wrong."""
    found = []
    for part in (part.strip() for part in text.split(",")):
        kind, _, name = part.partition(":")
        if kind not in ("cgroup", "systemd", "process") or not name:
            raise ValueError(f"{part!r} is not systemd:UNIT, cgroup:/PATH or process:NAME")
        if kind == "cgroup":
            name = _group_name(name)
        elif "/" in name or any(mark.isspace() for mark in name):
            raise ValueError(f"{name!r} cannot be the name of a {'unit' if kind == 'systemd' else 'process'}")
        elif kind == "systemd" and "." not in name:
            name += ".service"
        found.append(msgspec.convert({"kind": kind, "name": name}, Primary))
    return tuple(dict.fromkeys(found))


def _group_name(text: str) -> str:
    parts = text.strip("/").split("/")
    if not text.startswith("/") or not parts[0] or {".", "..", ""} & set(parts):
        raise ValueError(f"{text!r} is not a control group such as /shop; the one of everything cannot be a primary")
    if parts[0] == LENT_GROUP:
        raise ValueError(f"{text!r} is what this machine lends, which cannot be a primary")
    return "/" + "/".join(parts)


class PrimaryUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one primary application uses now. `waiting`: share of the time in which something of it waited."""

    name: Annotated[str, msgspec.Meta(max_length=300)]  # Primary.text
    found: bool
    cpus: Cpus = 0.0
    memory_bytes: Bytes = 0
    io_bytes_per_second: Rate = 0.0  # read from and written to disks
    cpu_waiting: Fraction = 0.0
    memory_waiting: Fraction = 0.0
    io_waiting: Fraction = 0.0
    problem: Text = ""


# Of its last minutes a report tells the means of so many seconds each, the newest last.
RECENT_SECONDS, RECENT_MEANS = 10, 60
RecentShares = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=100)], ...], msgspec.Meta(max_length=RECENT_MEANS)
]  # percent of all processors


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a server uses, lends and expects, as its agent sees it now; told about once a second and never stored.

    The server's `system` use is what is neither primary nor lent. Times are durations, so that no two clocks meet.
    """

    cpus: Cpus = 0.0  # all it has
    memory_bytes: Bytes = 0
    primary_cpus: Cpus = 0.0
    primary_memory_bytes: Bytes = 0
    system_cpus: Cpus = 0.0
    system_memory_bytes: Bytes = 0
    lent_cpus: Cpus = 0.0  # that is used
    lent_memory_bytes: Bytes = 0
    limit_cpus: Cpus = 0.0  # that what is lent may use now, all together
    limit_memory_bytes: Bytes = 0
    predicted_cpus: Cpus = 0.0  # the peak of the primary in the time ahead
    predicted_memory_bytes: Bytes = 0
    predictor: Annotated[str, msgspec.Meta(max_length=64)] = ""
    predictor_why: Text = ""
    offer_cpus: Cpus = 0.0  # that all containers here may ask for, smoothed
    offer_memory_bytes: Bytes = 0
    cpu_waiting: Fraction = 0.0  # of the primaries, the worst of them
    memory_waiting: Fraction = 0.0
    io_waiting: Fraction = 0.0
    io_bytes_per_second: Rate = 0.0  # of all disks
    lent_waiting: Fraction = 0.0  # share of the time that what is lent had to wait for processors
    throttled: Fraction = 0.0  # share of the time that it had to wait for its limit
    classes: Text = ""  # what of caches and memory bandwidth it is held to; empty: nothing
    window_seconds: Seconds = 1.0  # that the figures of use are means of
    # what should go for all to be right again; 0: nothing
    relief_cpus: Cpus = 0.0
    relief_memory_bytes: Bytes = 0
    relief_seconds: Seconds = 0.0  # since when it has been so
    urgent: bool = False  # there is no time to wait for replacements
    lends: bool = False
    why_not: Text = ""  # it does not lend: outside its hours, a primary is not found, nothing could be measured
    problems: Annotated[tuple[Text, ...], msgspec.Meta(max_length=32)] = ()  # for people
    primaries: Annotated[tuple[PrimaryUse, ...], msgspec.Meta(max_length=64)] = ()
    vms: Annotated[tuple[VmUse, ...], msgspec.Meta(max_length=64)] = ()
    recent_own: RecentShares = ()  # the primary and the system
    recent_lent: RecentShares = ()
    # sums since the agent started as `run`
    run: Annotated[str, msgspec.Meta(max_length=64)] = ""
    lent_core_seconds: Annotated[float, msgspec.Meta(ge=0, le=2**53)] = 0.0  # that could have been used
    used_core_seconds: Annotated[float, msgspec.Meta(ge=0, le=2**53)] = 0.0
    over_seconds: Annotated[float, msgspec.Meta(ge=0, le=2**53)] = 0.0  # above a ceiling, with something lent

    @property
    def used_cpus(self) -> float:
        """Return what all of it uses."""
        return self.primary_cpus + self.system_cpus + self.lent_cpus

    @property
    def used_memory_bytes(self) -> int:
        """Return what all of it uses."""
        return self.primary_memory_bytes + self.system_memory_bytes + self.lent_memory_bytes


class Lending(Record, frozen=True, kw_only=True):
    """What was decided about a server that lends. Its id is the server's."""

    backoff_until: float = 0.0  # it sent replicas away, and gets none before
    evictions: int = 0  # ever
    evicted_at: float = 0.0  # last
    reason: str = ""  # of the last one
    closed: str = ""  # why nothing is lent now: drained, shutting down, its policy; its hours the agent tells itself
    leaving: str = ""  # why the server said that it shuts down
    left_by: str = ""  # the start of its agent that said so; another one means that it is back


class LentMark(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where the sums of a server have been counted: those of its agent's start `run`, at the time `at`."""

    run: str
    at: float
    lent_core_seconds: float = 0.0
    used_core_seconds: float = 0.0
    over_seconds: float = 0.0
    evictions: int = 0


class LentHour(Record, frozen=True, kw_only=True):
    """What one server lent in one hour, as far as it was heard. Its id is `server id.hour`, counted from the epoch."""

    server_id: str
    server: str  # its name then
    hour: int
    lent_core_seconds: float = 0.0
    used_core_seconds: float = 0.0
    over_seconds: float = 0.0
    evictions: int = 0
    primary_core_seconds: float = 0.0
    capacity_core_seconds: float = 0.0
    replica_seconds: float = 0.0  # of replicas that were there
    mark: LentMark | None = None  # what it has counted last


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """A server as the API shows it. `age_seconds`: how old the report is; None: there is none."""

    id: str
    name: str
    revision: int = 0
    state: MemberState
    scheduling: Scheduling
    labels: Labels = {}
    address: str = ""
    pool: str
    cpu_threshold: float = 0.0
    cpu_ceiling: float = 0.0
    memory_threshold: float = 0.0
    memory_ceiling: float = 0.0
    report: ServerReport | None = None
    age_seconds: float | None = None
    vms: tuple[str, ...] = ()  # names
    replicas: int = 0
    requested_cpus: float = 0.0  # by those replicas
    requested_memory_bytes: int = 0
    offered_cpus: float = 0.0  # 0 without a fresh report
    offered_memory_bytes: int = 0
    why_not: str = ""  # why it gets nothing new now; empty: it may
    backoff_until: float = 0.0
    closed: str = ""
    evictions: int = 0
    evicted_at: float = 0.0
    evicted_why: str = ""  # the last time


class HarvestRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a server, or all of them, lent over a time."""

    server: str  # empty: all of them
    hours: float = 0.0  # that were heard
    capacity_core_hours: float = 0.0
    primary_core_hours: float = 0.0
    lent_core_hours: float = 0.0
    used_core_hours: float = 0.0
    over_seconds: float = 0.0
    evictions: int = 0
    replica_days: float = 0.0  # of replicas that were there


class HarvestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was lent since a moment; `saved` is what the used core-hours would have cost elsewhere, at a price given."""

    since: float
    until: float
    total: HarvestRow
    servers: tuple[HarvestRow, ...] = ()
    price_per_core_hour: float = 0.0
    saved: float = 0.0
