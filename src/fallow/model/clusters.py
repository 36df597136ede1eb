"""Clusters: members of a host, and how a deployment wants its replicas divided over them."""

from typing import Annotated, Literal

import msgspec

from fallow.model.labels import LabelKey, Selector
from fallow.model.members import MemberView, Thresholds
from fallow.model.meta import Name
from fallow.model.taints import Tolerations

# The member a host makes of its own nodes as soon as another cluster joins; no session is opened for it.
HERE_ID = "here"

ClusterCount = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
PerCluster = Annotated[dict[Name, ClusterCount], msgspec.Meta(max_length=256)]


class ClusterSpread(msgspec.Struct, frozen=True, kw_only=True):
    """Clusters with the same value of `label` are a group; at least `min_groups` of them get replicas."""

    label: LabelKey
    min_groups: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1


class Rebalance(msgspec.Struct, frozen=True, kw_only=True):
    """Move towards what the policy wants once it has wanted the same for so long, so many replicas at a time.

    Only joined, grown and recovered clusters ask for it; what must move, moves without it. `percent` is of the total.
    """

    after_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 300.0
    at_once: ClusterCount = 0  # 0: as `percent` says
    percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10


class ClusterPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a total is divided. `where` and the groups of `fallback` see labels assigned to clusters, and their names.

    `weighted`: by `weights`, 1 for who is not named there (0 for all of them when anybody is named and `where` is
    empty). `capacity`: by how many more each could take. `aggregate`: over as few clusters as will hold them.
    `duplicate`: the total in each of them.
    """

    divide: Literal["weighted", "capacity", "aggregate", "duplicate"] = "capacity"
    where: Selector = Selector()
    weights: PerCluster = {}
    min: PerCluster = {}
    max: PerCluster = {}
    spread: ClusterSpread | None = None
    fallback: Annotated[tuple[Selector, ...], msgspec.Meta(max_length=16)] = ()  # the first group that fits, then on
    tolerate: Tolerations = ()
    rebalance: Rebalance | None = None  # None: what runs, stays where it is
    fence_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 0.0  # 0: a cut-off cluster keeps running it
    floor: ClusterCount | None = None  # moves never leave fewer ready than this; None: the total


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster as its host shows it; `left` counts replicas that are still to leave a draining one.

    `thresholds`: those that count for it, its own or those of all clusters; None for `here`, which is always heard.
    """

    member: MemberView
    here: bool = False
    thresholds: Thresholds | None = None
    nodes: int = 0
    cpus: float = 0.0
    free_cpus: float = 0.0  # by its own account, as the rest of what it has
    memory_bytes: int = 0
    free_memory_bytes: int = 0
    wanted: int = 0
    running: int = 0
    ready: int = 0
    moving_in: int = 0
    moving_out: int = 0
    left: int = 0
    stuck: tuple[str, ...] = ()  # deployments that cannot leave it, and why
    full_for: tuple[str, ...] = ()  # deployments that wait for a place, may use it, and find no room there
    unreached: str = ""  # which gateways here do not reach its nodes, and what comes of it
