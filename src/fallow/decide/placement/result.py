"""What placement answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fallow.model.meta import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """A replica and the node it is given to; `host_ports` maps `8080/tcp` to the host port it is published on."""

    replica_id: str
    node_id: str
    address: str
    host_ports: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """`count` pending replicas of one template found no node."""

    template_id: str
    count: int
    reason: Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A decision about every pending replica: each is in one binding or counted in one rejection."""

    bindings: Sequence[Binding] = ()
    rejections: Sequence[Rejection] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Foretold:
    """Where the replicas of one deployment would be, by node name, and why `unplaced` of them would be nowhere."""

    placements: Mapping[str, int] = field(default_factory=dict)
    unplaced: int = 0
    reasons: tuple[str, ...] = ()
