"""What is asked for with images, and what is shown of it."""

from typing import Annotated

import msgspec

from fallow.model.image_jobs import CleanRules, ImageAction, ImageTarget, JobState, LogText, TaskState, Verdict
from fallow.model.images import Bytes, ImageErrorKind, NodeImage
from fallow.model.meta import Name

# A number of nodes or a share of them (10%); of failures none at all may be allowed.
Parallel = Annotated[str, msgspec.Meta(pattern=r"^([1-9][0-9]{0,5}|[1-9][0-9]?%|100%)$(?!\n)")]
Failures = Annotated[str, msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,5}|[1-9][0-9]?%|100%)$(?!\n)")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
PER_DAY = 86400.0


class ImageJobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Ask for an image job.

    With `dry_run` a pull or an update only tells whom it would reach; a delete or a clean asks every node what it
    would do, and does nothing.
    """

    action: ImageAction
    reference: Annotated[str, msgspec.Meta(max_length=512)] = ""  # as people write them; empty: clean
    target: ImageTarget
    project: Name = "default"
    rules: CleanRules | None = None
    instruction: Annotated[str, msgspec.Meta(max_length=2048)] = ""  # as it was typed
    parallel: Parallel = "20"
    canary: bool = False
    max_failures: Failures = "10%"
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 3
    attempt_seconds: Seconds = 600.0
    stall_seconds: Seconds = 60.0
    deadline_seconds: Annotated[float, msgspec.Meta(ge=0, le=30 * PER_DAY)] = PER_DAY  # 0: none
    wait_for_nodes: bool = False  # also when nobody is selected now
    roll: bool = False  # once every node has it, renew the deployments that use the reference; of an update only
    dry_run: bool = False


class JobCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a job by what became of them."""

    nodes: int = 0
    queued: int = 0  # have not had their turn
    working: int = 0
    waiting: int = 0  # failed, and are tried again
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    away: int = 0  # of those that are queued or waiting: not connected


class ImageJobView(msgspec.Struct, frozen=True, kw_only=True):
    """An image job as the API shows it."""

    id: str
    action: ImageAction
    reference: str
    digest: str  # what the reference stood for when the job was made; empty: not known
    target: ImageTarget
    rules: CleanRules | None
    instruction: str
    project: str
    parallel: str
    canary: bool
    max_failures: str
    attempts: int
    attempt_seconds: float
    stall_seconds: float
    deadline_at: float
    wait_for_nodes: bool
    state: JobState
    reason: str
    created_at: float
    created_by: str
    ended_at: float
    deployment: str
    schedule: str
    counts: JobCounts
    fetched_bytes: int
    freed_bytes: int
    nodes: tuple[str, ...] = ()  # whom a dry run would reach
    roll: bool = False
    renewed: tuple[str, ...] = ()  # deployments


class ImageTaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A job on one node as the API shows it: what it is to do, how far it is, and what it did."""

    id: str
    job_id: str
    node: str
    node_id: str
    action: ImageAction
    reference: str
    instruction: str
    state: TaskState
    attempt: int
    created_at: float
    started_at: float
    ended_at: float
    seconds: float  # of the last attempt
    not_before: float
    kind: ImageErrorKind
    text: str
    current_bytes: int
    total_bytes: int
    fetched_bytes: int
    freed_bytes: int
    image_id: str
    unchanged: bool
    verdicts: tuple[Verdict, ...]
    log: tuple[LogText, ...]


class NodeImagesView(msgspec.Struct, frozen=True, kw_only=True):
    """The images of one node."""

    node: str
    node_id: str
    images: tuple[NodeImage, ...]
    omitted: int
    image_bytes: Bytes  # of all images, shared layers counted for each
    disk_bytes: Bytes
    disk_free_bytes: Bytes
    seen_at: float


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """One image, by its id, with everybody who has it."""

    id: str
    references: tuple[str, ...]
    digests: tuple[str, ...]
    architecture: str
    size_bytes: Bytes
    layers: int = 0
    shared_layers: int = 0  # that another image has as well; one on the same node needs no room for them
    nodes: tuple[str, ...]
    in_use_on: tuple[str, ...]


class DriftView(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has something else than it should have."""

    node: str
    reference: str
    kind: str  # missing, other-image
    wanted: str  # image id
    found: str
    because: str  # job or deployment that says what it should have
