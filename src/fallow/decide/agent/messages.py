"""What the node agent is told (events) and what it asks for (instructions).

Every instruction but SetTimer, Report, SaveJournal and Warn is answered by exactly one event, named beside it. Times
are UTC seconds since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fallow.model.containers import HealthCheck
from fallow.model.deployments import Observation
from fallow.model.wire import Assignment

TimerKey = tuple[Literal["retry", "probe", "image", "list"], str]  # what for, and of which replica or image


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerFact:
    """One of our containers as the engine sees it."""

    id: str
    replica_id: str
    spec_hash: str
    status: Literal["created", "running", "paused", "exited"]
    address: str = ""
    host_ports: Mapping[str, int] = field(default_factory=dict)
    started_at: float = 0.0
    exit_code: int | None = None
    out_of_memory: bool = False


# events: wishes


@dataclass(frozen=True, kw_only=True, slots=True)
class Assigned:
    """The control plane's wishes changed; `full` replaces everything known.

    `serials` are the newest that it has stored of replicas: what is said with a lower one goes unheard.
    """

    full: bool
    assignments: tuple[Assignment, ...] = ()
    removed: tuple[str, ...] = ()
    serials: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalLoaded:
    """What was wished before the agent restarted; `failed` are replicas that ended for good, with the reason."""

    assignments: tuple[Assignment, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    serial: int = 0


# events: the engine


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineBack:
    """The engine answers, and its events are heard from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLost:
    """The engine does not answer."""

    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineListed:
    """Answer to ListContainers: all of our containers on this node."""

    mark: int
    containers: tuple[ContainerFact, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ListFailed:
    """Answer to ListContainers that could not be carried out."""

    mark: int
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerChanged:
    """A hint that a container started, ended or vanished; what it is now is asked for before anything is done."""

    replica_id: str
    container_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerSeen:
    """Answer to InspectContainer; `container` is None when it is gone."""

    replica_id: str
    container_id: str
    mark: int
    container: ContainerFact | None


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectFailed:
    """Answer to InspectContainer that could not be carried out."""

    replica_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageReady:
    """Answer to FindImage or PullImage: the engine has the image; `image_id` where it is known which it has to be."""

    reference: str
    pin: str = ""
    image_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMissing:
    """Answer to FindImage: the engine does not have the image."""

    reference: str
    pin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFailed:
    """Answer to FindImage or PullImage that could not be carried out; `text` is the engine's own."""

    reference: str
    kind: str
    text: str
    pin: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerStarted:
    """Answer to StartContainer; the container may have ended again already."""

    replica_id: str
    container: ContainerFact


@dataclass(frozen=True, kw_only=True, slots=True)
class StartFailed:
    """Answer to StartContainer that could not be carried out; `container` when it was made but did not start."""

    replica_id: str
    kind: str
    text: str
    container: ContainerFact | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerStopped:
    """Answer to StopContainer."""

    replica_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainerRemoved:
    """Answer to RemoveContainer."""

    replica_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StopFailed:
    """Answer to StopContainer or RemoveContainer that could not be carried out."""

    replica_id: str
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """Answer to Probe; `unknown` when the probe itself could not be made."""

    replica_id: str
    serial: int
    outcome: Literal["ok", "failed", "unknown"]
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimerFired:
    """The time of a SetTimer has come."""

    key: TimerKey
    serial: int


Event = (
    Assigned
    | JournalLoaded
    | EngineBack
    | EngineLost
    | EngineListed
    | ListFailed
    | ContainerChanged
    | ContainerSeen
    | InspectFailed
    | ImageReady
    | ImageMissing
    | ImageFailed
    | ContainerStarted
    | StartFailed
    | ContainerStopped
    | ContainerRemoved
    | StopFailed
    | ProbeResult
    | TimerFired
)


# instructions


@dataclass(frozen=True, kw_only=True, slots=True)
class ListContainers:
    """List all of our containers -> EngineListed or ListFailed."""

    mark: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectContainer:
    """Look at one container -> ContainerSeen or InspectFailed."""

    replica_id: str
    container_id: str
    mark: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FindImage:
    """Look whether the engine has an image -> ImageReady, ImageMissing or ImageFailed.

    `pin` says for which generation of which deployment: each may mean another image by the same name. `replica_id` is
    one of those that wait.
    """

    reference: str
    pin: str
    replica_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PullImage:
    """Fetch an image -> ImageReady or ImageFailed. The fields are FindImage's."""

    reference: str
    pin: str
    replica_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StartContainer:
    """Make the container unless it is there, and start it -> ContainerStarted or StartFailed."""

    assignment: Assignment
    spec_hash: str
    image_id: str = ""  # which image exactly; empty: what its name stands for here


@dataclass(frozen=True, kw_only=True, slots=True)
class StopContainer:
    """Ask a container to end, and kill it after the grace -> ContainerStopped or StopFailed."""

    replica_id: str
    container_id: str
    grace_seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoveContainer:
    """Remove an ended container -> ContainerRemoved or StopFailed."""

    replica_id: str
    container_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """Probe a container's health -> ProbeResult. `port` is the container's; None when there is none to probe."""

    replica_id: str
    serial: int
    check: HealthCheck
    container: ContainerFact
    port: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SetTimer:
    """Feed TimerFired at the time `at`; a timer set before under the same key is forgotten."""

    key: TimerKey
    serial: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Tell the control plane what changed."""

    observations: tuple[Observation, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveJournal:
    """Keep the wishes for the next start of the agent; to be saved before any later instruction has an effect."""

    assignments: tuple[Assignment, ...]
    failed: Mapping[str, str]
    serial: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Warn:
    """Something that should not happen, for the log."""

    text: str


Instruction = (
    ListContainers
    | InspectContainer
    | FindImage
    | PullImage
    | StartContainer
    | StopContainer
    | RemoveContainer
    | Probe
    | SetTimer
    | Report
    | SaveJournal
    | Warn
)
