"""How one generation of a deployment takes the place of another, and how far it has come."""

import enum
from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400 * 7)]


class UpdateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How replicas are renewed: in portions, each begun when the one before has proved itself."""

    parallelism: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None = None  # None: a quarter, at least 1; 0: all
    delay_seconds: Seconds = 0.0  # between a portion that has proved itself and the next
    monitor_seconds: Seconds = 5.0  # a new replica proves itself by being healthy for so long
    max_failure_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # this share of the replicas may fail
    failure_action: Literal["rollback", "pause", "continue"] = "rollback"
    order: Literal["start-first", "stop-first"] = "start-first"
    progress_seconds: Annotated[float, msgspec.Meta(ge=1, le=86400 * 7)] = 600.0  # not yet healthy then has failed


class UpdateState(enum.StrEnum):
    """How far an update has come."""

    UPDATING = "updating"
    MONITORING = "monitoring"  # all is renewed; the last portion has yet to prove itself
    ROLLING_BACK = "rolling-back"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled-back"


class UpdateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The newest update of a deployment; `from_generation` is what it goes back to when it fails, 0: nothing."""

    state: UpdateState = UpdateState.UPDATING
    generation: int
    from_generation: int = 0
    rollback: bool = False  # it goes back to what was good before
    started_at: float
    changed_at: float  # of the state
    reason: str = ""  # why it is rolled back
    paused_because: str = ""
    forgiven: int = 0  # replicas that had failed when it was resumed

    @property
    def under_way(self) -> bool:
        """Say whether it has not ended; one that is paused has not."""
        return self.state not in (UpdateState.COMPLETED, UpdateState.ROLLED_BACK)


class PulledAhead(msgspec.Struct, frozen=True, kw_only=True):
    """Images that were pulled on an update's nodes before its replicas were replaced; times in seconds.

    `saved_seconds` is what pulling portion by portion would have taken longer, had each pull taken as long as it did.
    """

    nodes: int = 0  # that fetched something
    pending: int = 0
    failed: int = 0
    seconds: float = 0.0  # from its beginning to the last node's end
    longest_seconds: float = 0.0  # so long a replica would have waited for its own pull
    saved_seconds: float = 0.0
    fetched_bytes: int = 0
