"""What a node and its control plane say to each other of images; `wire` has all frames of a session."""

from typing import Annotated

import msgspec

from fallow.model.frames import Frame
from fallow.model.image_jobs import ImageOrder, TaskProgress, TaskReport
from fallow.model.images import BlobDigest, NodeImage, PullGrant, ReferenceText

# node -> control plane


class ImageTasksReported(Frame, frozen=True, kw_only=True, tag="image-tasks"):
    """Image tasks that ended. Repeated until acknowledged."""

    batch: int
    reports: Annotated[tuple[TaskReport, ...], msgspec.Meta(max_length=1000)]


class ImageProgressed(Frame, frozen=True, kw_only=True, tag="image-progress"):
    """How far image tasks are; at most once a second, never repeated."""

    tasks: Annotated[tuple[TaskProgress, ...], msgspec.Meta(max_length=100)]


class ImagesReported(Frame, frozen=True, kw_only=True, tag="images"):
    """All images of a node, sent after a session has opened and when something has changed."""

    images: Annotated[tuple[NodeImage, ...], msgspec.Meta(max_length=2000)]
    omitted: Annotated[int, msgspec.Meta(ge=0)] = 0
    disk_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    disk_free_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    warning: Annotated[str, msgspec.Meta(max_length=1024)] = ""  # what the agent had to do by itself: an event


class PullAsked(Frame, frozen=True, kw_only=True, tag="pull"):
    """Before every pull: what exactly, from whom, with which login? Answered by PullGranted.

    It is for a replica of this node or for a task of it; a node is told no login for anything else.
    """

    pull_id: Annotated[str, msgspec.Meta(max_length=64)]
    reference: ReferenceText
    replica_id: Annotated[str, msgspec.Meta(max_length=128)] = ""
    task_id: Annotated[str, msgspec.Meta(max_length=128)] = ""


class BlobsChanged(Frame, frozen=True, kw_only=True, tag="blobs"):
    """What a node can serve to others now: blobs it has whole, those it is fetching, those it has no more.

    With `full` it is all it has; what was told before counts no more.
    """

    full: bool = False
    whole: Annotated[tuple[BlobDigest, ...], msgspec.Meta(max_length=10_000)] = ()
    fetching: Annotated[tuple[BlobDigest, ...], msgspec.Meta(max_length=10_000)] = ()
    gone: Annotated[tuple[BlobDigest, ...], msgspec.Meta(max_length=10_000)] = ()
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0  # where it serves them


# control plane -> node


class SetImageTasks(Frame, frozen=True, kw_only=True, tag="set-image-tasks"):
    """Image tasks a node is to do. `full`: all there are, others it knows are cancelled; otherwise what changes."""

    full: bool
    orders: tuple[ImageOrder, ...] = ()
    cancelled: tuple[str, ...] = ()  # ids of tasks


class ImageTasksStored(Frame, frozen=True, kw_only=True, tag="image-tasks-ack"):
    """The reports of `batch` are stored."""

    batch: int


class PullGranted(Frame, frozen=True, kw_only=True, tag="pull-granted"):
    """The answer to PullAsked."""

    pull_id: str
    grant: PullGrant
