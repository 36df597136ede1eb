"""Image jobs: one instruction over many nodes; image tasks: that job on one node."""

import enum
from typing import Annotated, Literal

import msgspec

from fallow.model.images import Bytes, EngineText, ImageErrorKind, PlatformImage, ReferenceText, ResolvedImage
from fallow.model.meta import Record

LogText = Annotated[str, msgspec.Meta(max_length=512)]


class ImageAction(enum.StrEnum):
    """What a job does to images."""

    PULL = "pull"
    UPDATE = "update"  # pull where the tag stands for something else by now
    DELETE = "delete"
    CLEAN = "clean"
    LOAD = "load"  # from a file that was given to the control plane


class JobState(enum.StrEnum):
    """How far a job has come."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"  # every node it was for has ended; some may have failed
    STOPPED = "stopped"  # too many nodes failed, or its deadline passed
    CANCELLED = "cancelled"


class TaskState(enum.StrEnum):
    """How far one node has come. A node that no task was made for yet is waiting for its turn."""

    WORKING = "working"  # its node has the order; counts against the parallel limit
    WAITING = "waiting"  # failed, and is tried again at `not_before`
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ImageTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes by name or by a selector (which may name label sets), and of those a share."""

    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()
    selector: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100


class CleanRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which images of a node may go. In-use images, protected ones and those a deployment needs never do."""

    references: tuple[ReferenceText, ...] = ()  # delete just these; empty: whatever the rest of the rules lets go
    keep: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()  # patterns of references, with * and ?
    needed: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] = ()  # references and ids deployments need
    unused_for_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    until_free_bytes: Bytes = 0  # stop once so much is free; 0: delete all that may go
    keep_versions: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0  # the newest N tags of each repository stay
    dangling: bool = True  # also images without a name
    dry_run: bool = False


class ImageOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is to do for a task. The same task and attempt twice is one piece of work."""

    task_id: str
    attempt: int
    action: ImageAction
    reference: str = ""  # in full; empty: clean
    image: PlatformImage | None = None  # for this node's architecture
    digest: str = ""  # of the index
    rules: CleanRules | None = None
    attempt_seconds: float = 600.0
    stall_seconds: float = 60.0  # without a byte more


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one image in a delete or a clean, or would become of it in a dry run."""

    reference: Annotated[str, msgspec.Meta(max_length=512)]  # or the id of an image without a name
    image_id: Annotated[str, msgspec.Meta(max_length=80)] = ""
    outcome: Literal["delete", "deleted", "in-use", "protected", "needed", "kept", "recent", "absent", "failed"]
    size_bytes: Bytes = 0
    text: EngineText = ""


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of a task that ended, repeated until it is stored. Times are durations by its own clock."""

    task_id: str
    attempt: int
    state: Literal["done", "failed", "cancelled"]
    kind: ImageErrorKind = ""
    text: EngineText = ""
    retry_after_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0  # the registry asked for it
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    fetched_bytes: Bytes = 0  # that came over the network
    total_bytes: Bytes = 0
    freed_bytes: Bytes = 0  # measured
    image_id: Annotated[str, msgspec.Meta(max_length=80)] = ""  # what the engine has now
    unchanged: bool = False  # it was there already
    verdicts: Annotated[tuple[Verdict, ...], msgspec.Meta(max_length=2000)] = ()
    log: Annotated[tuple[LogText, ...], msgspec.Meta(max_length=200)] = ()


class TaskProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task is now; kept in memory only."""

    task_id: str
    current_bytes: Bytes = 0
    total_bytes: Bytes = 0  # 0: not known
    text: Annotated[str, msgspec.Meta(max_length=256)] = ""


class ImageJob(Record, frozen=True, kw_only=True):
    """One instruction: who, when, for whom, what exactly, and how."""

    action: ImageAction
    reference: str = ""
    image: ResolvedImage | None = None  # resolved once, for all nodes
    target: ImageTarget
    rules: CleanRules | None = None
    instruction: str = ""  # as it was given, for people
    parallel: str = "20"  # nodes at once: a number or a share of them (10%)
    canary: bool = False  # one node first, then a tenth, then the rest
    max_failures: str = "10%"  # more failed nodes than this stop it
    attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    attempt_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 600.0
    stall_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 60.0
    deadline_at: float = 0.0  # 0: none
    state: JobState = JobState.RUNNING
    reason: str = ""
    ended_at: float = 0.0
    created_by: str = ""
    project: str = "default"  # whose policy and logins count
    wait_for_nodes: bool = False  # stays open until one node at least has taken part
    retried_at_revision: int = 0  # what had failed or was cancelled by then gets another turn
    roll: bool = False  # then renew the deployments that use the reference
    renewed: tuple[str, ...] = ()  # their paths
    deployment_id: str = ""  # pulled ahead for this deployment's update
    schedule_id: str = ""


class ImageTask(Record, frozen=True, kw_only=True):
    """A job on one node. Its id is `JOB.MEMBER`, so there is never a second one."""

    job_id: str
    member_id: str
    member_name: str
    state: TaskState
    attempt: int = 1
    last_attempt: int = 0  # the last one it may make; 0: as its job says
    not_before: float = 0.0
    lease_until: float = 0.0  # of the attempt under way: silence beyond it counts as a failure
    started_at: float = 0.0
    ended_at: float = 0.0
    kind: ImageErrorKind = ""
    text: EngineText = ""
    fetched_bytes: int = 0
    total_bytes: int = 0
    freed_bytes: int = 0
    image_id: str = ""
    unchanged: bool = False
    verdicts: tuple[Verdict, ...] = ()
    log: tuple[LogText, ...] = ()  # of every attempt, oldest first, bounded

    @property
    def ended(self) -> bool:
        """Say whether nothing more is to come of it."""
        return self.state not in (TaskState.WORKING, TaskState.WAITING)
