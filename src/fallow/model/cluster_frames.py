"""What a member cluster and its host say to each other; `wire` has all frames of a session."""

from typing import Annotated

import msgspec

from fallow.model.frames import Frame
from fallow.model.remotes import RemoteService
from fallow.model.rooms import RoomAnswer, RoomQuestion, RoomSummary
from fallow.model.shares import ReplicaId, ShareOrder, ShareReport

# member cluster -> host


class SharesReported(Frame, frozen=True, kw_only=True, tag="shares"):
    """Shares that changed. Repeated until acknowledged. `full`: there are no others, whatever was told before."""

    batch: int
    full: bool = False
    more: bool = False  # of a full one: the rest follows
    reports: Annotated[tuple[ShareReport, ...], msgspec.Meta(max_length=1000)] = ()


class RoomReported(Frame, frozen=True, kw_only=True, tag="room"):
    """All answers to the questions that stand, and which orders were taken in when they were counted."""

    answers: Annotated[tuple[RoomAnswer, ...], msgspec.Meta(max_length=20_000)] = ()
    orders: Annotated[dict[ReplicaId, int], msgspec.Meta(max_length=20_000)] = {}
    summary: RoomSummary = RoomSummary()


class RemotesApplied(Frame, frozen=True, kw_only=True, tag="remotes-applied"):
    """Every gateway of this cluster does what SetRemotes of this revision, and all before it, asked."""

    revision: Annotated[int, msgspec.Meta(ge=0)]


# host -> member cluster


class SetShares(Frame, frozen=True, kw_only=True, tag="set-shares"):
    """What a cluster should run. `full`: nothing else that it runs for us; otherwise what changes.

    A deployment of which a cluster should run nothing has an order for 0 replicas until it says that nothing is left;
    `removed` are those that it may forget.
    """

    full: bool
    orders: Annotated[tuple[ShareOrder, ...], msgspec.Meta(max_length=1000)] = ()
    more: bool = False  # of a full one: the rest follows in further frames
    removed: tuple[ReplicaId, ...] = ()


class SharesStored(Frame, frozen=True, kw_only=True, tag="shares-ack"):
    """The reports of `batch` are stored."""

    batch: int


class AskRoom(Frame, frozen=True, kw_only=True, tag="ask-room"):
    """All questions that stand from now on; they are answered at once, and again when answers change."""

    questions: Annotated[tuple[RoomQuestion, ...], msgspec.Meta(max_length=20_000)] = ()


class SetRemotes(Frame, frozen=True, kw_only=True, tag="set-remotes"):
    """Services of other clusters that gateways here should serve as well. `full`: all there are."""

    full: bool
    revision: int
    services: Annotated[tuple[RemoteService, ...], msgspec.Meta(max_length=1000)] = ()
    removed: tuple[ReplicaId, ...] = ()
    more: bool = False  # the rest follows in further frames


class Withdrawn(Frame, frozen=True, kw_only=True, tag="withdrawn"):
    """No gateway outside the cluster sends requests to these leaving replicas any more: they may stop."""

    replica_ids: tuple[ReplicaId, ...]


class LogRead(Frame, frozen=True, kw_only=True, tag="log-read"):
    """So many chunks of a stream have been read in all. A cluster keeps few unread ones on their way, and waits."""

    stream_id: str
    chunks: Annotated[int, msgspec.Meta(ge=0)]
