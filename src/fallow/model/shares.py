"""Shares: how many of a deployment's replicas one cluster runs; what it is told, and what it says of them."""

from typing import Annotated, Literal

import msgspec

from fallow.model.deployments import DeploymentSpec, ReplicaCount
from fallow.model.images import BlobDigest, RegistryLogin
from fallow.model.meta import Name, Record

ReplicaId = Annotated[str, msgspec.Meta(max_length=128)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
SHARED_REGISTRY = "host-registry."  # how the ids of sealed SharedRegistry records begin


class RemoteEndpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ready replica of another cluster, as gateways reach it. `ports`: "8080/tcp" -> the port at `address`.

    What is as usual is not written: there may be thousands of them in one record.
    """

    id: ReplicaId
    address: Annotated[str, msgspec.Meta(max_length=64)]
    ports: Annotated[dict[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]], msgspec.Meta(max_length=64)] = {}
    suspect: bool = False  # its node is silent for a moment: the last to be asked
    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100  # in hundredths of a full one: its node may be throttled


class SharedRegistry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the host speaks to the registry of what it orders. The cluster keeps it sealed, for these orders alone."""

    host: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    login: RegistryLogin | None = None
    insecure: bool = False
    ca_pem: Annotated[str, msgspec.Meta(max_length=65536)] = ""

    @property
    def secret_id(self) -> str:
        """Return the id of the record that keeps it."""
        return f"{SHARED_REGISTRY}{self.host}"


class ShareOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster should run of one deployment. `spec.replicas` is the total, `replicas` the cluster's share.

    Of more than `replicas` it lets go those that are not ready, and of those that are, as many as are more than
    `keep`: the host cannot know what becomes ready while it decides.

    `generation` is the host's; a cluster counts its own. `revision` grows with each order for the deployment; who
    reports says which one it has taken in. `digest` is what the generation's image stands for in all clusters, as far
    as the host knows; `registry` how to get it, where the host knows more than its name.
    """

    deployment_id: ReplicaId
    project: Name
    name: Name
    spec: DeploymentSpec
    generation: int
    replicas: ReplicaCount
    revision: int
    keep: ReplicaCount = 0
    digest: BlobDigest | None = None
    registry: SharedRegistry | None = None

    @property
    def most(self) -> int:
        """Return how many replicas may stay."""
        return max(self.replicas, self.keep)


class ShareReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster says of its share. `ready` counts endpoints; `placed` those that have a node, ready or not."""

    deployment_id: ReplicaId
    revision: Annotated[int, msgspec.Meta(ge=0)] = 0  # of the newest order that is taken in
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0  # of that order
    replicas: Count = 0  # it runs at the most by that order: its share, or as many as it may keep of what there is
    placed: Count = 0
    running: Count = 0
    ready: Count = 0
    updated: Count = 0  # ready, and of the generation of that order
    leaving: Annotated[tuple[ReplicaId, ...], msgspec.Meta(max_length=10_000)] = ()  # stop once no gateway asks them
    remaining: Count = 0  # containers that have not ended, leaving ones too
    state: Annotated[str, msgspec.Meta(max_length=64)] = ""  # as a deployment's
    reason: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    endpoints: Annotated[tuple[RemoteEndpoint, ...], msgspec.Meta(max_length=10_000)] = ()


class Share(Record, frozen=True, kw_only=True):
    """One cluster's part of one deployment; its id is made by `share_id`. The host alone has these.

    A share of 0 goes when its cluster says that nothing of it is left.
    """

    deployment_id: str
    cluster_id: str
    replicas: int  # the cluster is told to run
    since: float = 0.0  # it is told that
    order: int = 0  # grows whenever `replicas` changes: one more than the revision that was decided from
    keep: int = 0  # so many it does not let go that are ready, though they be more
    least: int = 0  # the fewest that are ready it might keep since the order that its newest report speaks of
    fewest: int | None = None  # the fewest it might have, ready or not; None: `least` says it
    highest: int = 0  # and the most it might have
    # observed
    reported: ShareReport | None = None
    reported_at: float = 0.0
    short_since: float = 0.0  # fewer are placed than it was told; 0: not now
    held_until: float = 0.0  # it gets no more than it has placed, whatever it says it has room for

    @property
    def most(self) -> int:
        """Return how many replicas may be there, by what it is told."""
        return max(self.replicas, self.keep)


def share_id(deployment_id: str, cluster_id: str) -> str:
    """Return the id of a share."""
    return f"{deployment_id}.{cluster_id}"


def parse_share_id(id_: str) -> tuple[str, str]:
    """Return the ids of the deployment and of the cluster that a share's id names."""
    deployment_id, _, cluster_id = id_.rpartition(".")
    return deployment_id, cluster_id


class ShareView(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment's share in one cluster as the API shows it."""

    cluster: str
    here: bool = False
    cluster_state: str
    target: int  # by the newest division
    replicas: int  # it is told to run
    placed: int = 0
    ready: int = 0
    updated: int = 0
    state: str = ""
    reason: str = ""  # in the cluster's words
    rule: str = ""  # of the division
    reported_at: float = 0.0


class ShareChange(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment's share in one cluster, before and after."""

    deployment: str  # project/name
    cluster: str
    before: int
    after: int
    why: str = ""


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What would move, if? `cluster-loss` and `drain` name a cluster; `add` a cluster that is not there yet."""

    what: Literal["cluster-loss", "drain", "add"]
    cluster: Annotated[str, msgspec.Meta(max_length=64)] = ""
    nodes: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    cpus: Annotated[float, msgspec.Meta(ge=0, le=65536)] = 0.0  # of each node
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0  # of each node
    labels: Annotated[dict[str, str], msgspec.Meta(max_length=64)] = {}


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan foretells; nothing is done. `unplaced`: replicas that would have no place, and why."""

    changes: tuple[ShareChange, ...] = ()
    moved: int = 0
    unplaced: dict[str, int] = {}  # project/name -> replicas
    reasons: tuple[str, ...] = ()
