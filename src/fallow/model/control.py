"""What a control plane tells of itself."""

from typing import Literal

import msgspec

Level = Literal["debug", "info", "warning", "error"]


class StoreMember(msgspec.Struct, frozen=True, kw_only=True):
    """One of the machines that keep the store together; `answers`: it, and most of them with it, did so just now."""

    address: str
    region: str = ""
    zone: str = ""
    answers: bool


class ControlStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one control plane is, for `fallow doctor`; times are UTC seconds by its own clock."""

    version: str
    schema: int
    now: float
    log_level: Level
    not_ready: str = ""  # why; empty: it is ready
    leads: bool = True
    leader: str = ""  # host and URL of the process that leads; empty: none is known
    peers: int = 1  # processes that share the store
    store_revision: int
    store_seconds: float  # time of one read
    store_members: tuple[StoreMember, ...] = ()  # none: it is a file
    cache_behind: int = 0  # revisions that the store has and the cache has not seen yet
    records: dict[str, int] = {}  # kind -> how many are stored
    loops: dict[str, float] = {}  # loop -> seconds since it last ran through
    silent: dict[
        str, float
    ] = {}  # member that is not ready -> seconds since it was last heard; -1: not by this process
    sessions: int = 0


class LogLevel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a control plane logs, until it is set again or the process ends."""

    level: Level
