"""Upgrades of agents: one instruction over many members, done in waves."""

import enum
from typing import Annotated

import msgspec

from fallow.model.meta import Record

# A share of the members (10%) or a number of them.
Share = Annotated[str, msgspec.Meta(pattern=r"^([1-9][0-9]{0,5}|[1-9][0-9]?%|100%)$(?!\n)")]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9][0-9A-Za-z.+!_-]{0,63}$(?!\n)")]


class UpgradeState(enum.StrEnum):
    """How far an upgrade has come."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"  # too many members failed, or an operator stopped it


class Upgrade(Record, frozen=True, kw_only=True):
    """Agents of `members` become `version`, at most `max_unavailable` at once; how far each is its record says."""

    version: str
    sha256: str
    members: tuple[str, ...]  # ids
    max_unavailable: int
    state: UpgradeState = UpgradeState.RUNNING
    reason: str = ""
    created_by: str = ""


class UpgradeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for an upgrade of the members that are named, or that a selector chooses by their labels."""

    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()
    selector: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    version: Version | None = None  # None: the control plane's own
    max_unavailable: Share = "10%"
    dry_run: bool = False


class UpgradeView(msgspec.Struct, frozen=True, kw_only=True):
    """An upgrade as the API shows it: its members by name, sorted by what became of them."""

    id: str
    version: str
    state: UpgradeState
    reason: str
    created_at: float
    created_by: str
    max_unavailable: int
    waiting: tuple[str, ...] = ()
    upgrading: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    failed: dict[str, str] = {}  # name -> why
