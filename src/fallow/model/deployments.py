"""Deployments and their replicas."""

import enum
from typing import Annotated, Literal

import msgspec

from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import ContainerSpec
from fallow.model.images import ResolvedImage
from fallow.model.labels import Selector
from fallow.model.meta import Name, Reason, Record
from fallow.model.updates import PulledAhead, UpdateConfig, UpdateStatus

ReplicaCount = Annotated[int, msgspec.Meta(ge=0, le=100_000)]


class Preference(msgspec.Struct, frozen=True, kw_only=True):
    """A wish among nodes that will do: those that `selector` picks, or those with the `most` or `least` of `key`."""

    order: Literal["match", "most", "least"] = "match"
    selector: Selector = Selector()
    key: str = ""
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


ServiceClass = Literal["", "standard", "harvest", "spot"]


class PlacementPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Where replicas may go and how they are laid out.

    `service_class` says what a replica bears: `standard` never goes to lent capacity; `harvest` does, and moves away
    once its replacement is ready, where time allows; `spot` does, goes first, and may be stopped before it is replaced.
    Empty: it goes anywhere, and counts as `harvest` where it is on lent capacity.

    `selector` sees assigned labels only, since security may hang on it; `resources` and `prefer` also see what nodes
    say and measure.
    """

    selector: Selector = Selector()
    resources: Selector = Selector()
    prefer: Annotated[tuple[Preference, ...], msgspec.Meta(max_length=16)] = ()
    strategy: Literal["spread", "pack"] = "spread"
    spread_by: tuple[str, ...] = ()  # assigned labels whose values should hold equally many replicas
    max_per_node: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: no limit; 1: anti-affinity with itself
    architectures: tuple[str, ...] = ()  # empty: any
    service_class: ServiceClass = ""


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A wish for requests to reach a deployment: `host` and `path` for http, `listen` for tcp."""

    kind: Literal["http", "tcp"] = "http"
    host: str = ""
    path: str = "/"
    listen: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]  # the container port


class DeploymentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a user asks for under one name; `update` and `rollback` say how one generation takes another's place."""

    replicas: ReplicaCount = 1
    container: ContainerSpec
    placement: PlacementPolicy = PlacementPolicy()
    routes: Annotated[tuple[RouteSpec, ...], msgspec.Meta(max_length=64)] = ()
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig(failure_action="pause")
    clusters: ClusterPolicy = msgspec.field(default_factory=ClusterPolicy)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The host's order that a member's deployment follows; it is changed at the host, not here."""

    revision: int  # of the order
    generation: int  # the host's
    taken_as: int = 0  # the generation this cluster made of that one
    fenced: bool = False  # nothing was heard of the host for so long that it may run elsewhere by now


class Deployment(Record, frozen=True, kw_only=True):
    """A named set of identical replicas in a project; `generation` counts changes of what a container is made of.

    `share`: how many of `spec.replicas` this cluster runs; None: all of them. Of more than that so many stay as are
    ready, up to `keep`.
    """

    project: Name
    name: Name
    spec: DeploymentSpec
    generation: int = 1
    alike: tuple[int, ...] = ()  # older generations made of the very same: their replicas need no renewal
    good_generation: int = 0  # the newest one that has proved itself; 0: none yet
    update: UpdateStatus | None = None  # of the newest generation, None until there is a second one
    deleting: bool = False
    share: int | None = None
    keep: int = 0
    origin: Origin | None = None  # None: it was deployed here

    @property
    def replicas_here(self) -> int:
        """Return how many replicas this cluster should run."""
        return self.spec.replicas if self.share is None else self.share

    @property
    def path(self) -> str:
        """Return `project/name`, as people refer to it."""
        return f"{self.project}/{self.name}"

    def wants(self, generation: int) -> bool:
        """Say whether replicas of a generation are as wanted now."""
        return generation >= self.generation or generation in self.alike


class Template(Record, frozen=True, kw_only=True):
    """What the replicas of one generation of a deployment are made of; never changed once stored, but for `image`."""

    deployment_id: str
    generation: int
    container: ContainerSpec
    placement: PlacementPolicy = PlacementPolicy()
    actor: str = ""  # who asked for it
    cause: Literal["deploy", "rollback", "restart"] = "deploy"
    alike: tuple[int, ...] = ()  # older generations made of the very same
    earlier_routes: tuple[RouteSpec, ...] | None = None  # of the generation before, when this one took its place
    # What its reference stands for in all replicas: asked by the first node, or at a deploy.
    image: ResolvedImage | None = None


class ReplicaState(enum.StrEnum):
    """A replica's life; it only advances, along `lifecycle.REPLICA_TRANSITIONS`."""

    PENDING = "pending"  # wanted, not yet given to a node
    PLACED = "placed"  # given to a node, which has not yet started it
    RUNNING = "running"  # started at least once; the node keeps it running
    LEAVING = "leaving"  # being withdrawn from every gateway
    STOPPING = "stopping"  # withdrawn; the node is stopping it
    STOPPED = "stopped"
    FAILED = "failed"  # ended for good: its restart policy allows no more
    LOST = "lost"  # its node died or was removed


class Health(enum.StrEnum):
    """What probes say of a running replica."""

    UNKNOWN = "unknown"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Activity(enum.StrEnum):
    """What the agent is doing for a replica just now; unlike the state it may go back and forth."""

    WAITING = "waiting"
    PULLING = "pulling"
    CREATING = "creating"
    RUNNING = "running"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of one replica; `serial` grows with each, so that a late one cannot undo a newer one."""

    replica_id: str
    serial: int
    activity: Activity
    health: Health = Health.UNKNOWN
    container_id: str = ""
    started: bool = False  # has been started at least once
    restarts: int = 0
    exit_code: int | None = None
    message: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    at: Annotated[float, msgspec.Meta(ge=0, le=2**53)] = 0.0  # bounded: JSON has neither NaN nor infinity


class Replica(Record, frozen=True, kw_only=True):
    """One container wanted somewhere. `slot` is its number in the deployment; a replacement shares the slot."""

    deployment_id: str
    project: str
    deployment: str
    slot: int
    generation: int
    template_id: str
    replaces: str = ""  # the replica this one takes over from, once healthy
    # decided
    node_id: str = ""
    address: str = ""
    host_ports: dict[str, int] = {}  # "8080/tcp" -> 20001
    # life
    state: ReplicaState = ReplicaState.PENDING
    state_since: float = 0.0
    reason: Reason | None = None  # why it is pending, leaving, failed or lost
    move: Reason | None = None  # why it should be replaced elsewhere: its server needs what it lent
    move_by: float = 0.0  # when it goes whether its replacement is ready or not; 0: never
    # observed
    observed: Observation | None = None
    healthy_since: float = 0.0  # 0: not healthy now
    unwell_since: float = 0.0  # when it first was, without having been healthy for long since; 0: never

    @property
    def ended(self) -> bool:
        """Say whether nothing can happen to it any more."""
        return self.state in (ReplicaState.STOPPED, ReplicaState.FAILED, ReplicaState.LOST)

    @property
    def healthy(self) -> bool:
        """Say whether it runs and its probes succeed."""
        return self.state is ReplicaState.RUNNING and self.healthy_since > 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's replicas by how they are."""

    wanted: int = 0
    healthy: int = 0
    running: int = 0
    placed: int = 0
    pending: int = 0
    leaving: int = 0
    failed: int = 0


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as the API shows it."""

    id: str
    project: str
    name: str
    revision: int
    generation: int
    created_at: float
    updated_at: float
    spec: DeploymentSpec
    counts: Counts
    state: str  # serving, updating, rolling-back, paused, waiting, degraded, deleting, stopped
    reason: str = ""
    update: UpdateStatus | None = None
    updated: int = 0  # replicas of the wanted generation that are healthy
    pulled_ahead: PulledAhead | None = None  # for the newest generation
    share: int | None = None  # of `spec.replicas`, that this cluster runs; None: all of them
    host: str = ""  # whose it is; empty: it was deployed here


class DeploymentChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What PATCH on a deployment may change."""

    replicas: ReplicaCount | None = None


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which generation to go back to; None: the last good one."""

    to: Annotated[int, msgspec.Meta(ge=1)] | None = None


class GenerationView(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a deployment as the API shows it. `changed` names fields and never tells their values."""

    generation: int
    created_at: float
    actor: str = ""
    cause: str = "deploy"
    image: str
    changed: tuple[str, ...] = ()  # against the generation before it, where that is still known
    alike: tuple[int, ...] = ()
    replicas: int = 0  # that have not ended
    current: bool = False
    good: bool = False  # the one that an update which fails goes back to


class DeployRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A Compose file and what its author's machine adds to it."""

    compose: Annotated[str, msgspec.Meta(max_length=1_048_576)]
    project: Annotated[str, msgspec.Meta(max_length=64)] = ""  # empty: the file's `name`, else "default"
    variables: Annotated[dict[str, str], msgspec.Meta(max_length=4096)] = {}
    env_files: Annotated[dict[str, str], msgspec.Meta(max_length=64)] = {}  # path as written -> content
    dry_run: bool = False
    prune: bool = False  # delete deployments of the project that the file no longer names


class DeployedItem(msgspec.Struct, frozen=True, kw_only=True):
    """What a deploy did, or would do, to one deployment."""

    path: str
    action: Literal["create", "update", "scale", "unchanged", "delete"]
    replicas: int
    generation: int = 0  # the one this leads to
    placements: dict[str, int] = {}  # node name -> replicas, foretold by a dry run
    clusters: dict[str, int] = {}  # cluster name -> replicas, in place of nodes where there are member clusters
    unplaced: int = 0
    reasons: tuple[str, ...] = ()


class DeployResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a deploy."""

    project: str
    items: tuple[DeployedItem, ...]
    warnings: tuple[str, ...] = ()
    dry_run: bool = False


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why something is as it is: lines for a person, most important first."""

    subject: str
    state: str
    lines: tuple[str, ...]


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as the API shows it."""

    id: str
    project: str
    deployment: str
    slot: int
    generation: int
    image: str
    node: str = ""  # its name
    address: str = ""
    host_ports: dict[str, int] = {}
    state: ReplicaState
    state_since: float
    reason: str = ""
    activity: str = ""
    health: str = ""
    restarts: int = 0
    message: str = ""
    created_at: float = 0.0
