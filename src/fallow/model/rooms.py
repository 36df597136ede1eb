"""Rooms: how many more replicas of a given shape fit into a cluster now, in the cluster's own words."""

from typing import Annotated

import msgspec

from fallow.model.containers import PortSpec, Resources
from fallow.model.deployments import PlacementPolicy
from fallow.model.meta import Record

ShapeKey = Annotated[str, msgspec.Meta(max_length=64)]
MOST = 100_000  # more than this nobody counts


class RoomQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """How many more of these would you have room for? Stands until it is withdrawn: answers follow what changes.

    `key` names the shape. `deployment_id` where it matters what is there already (at most so many a node, spread).
    """

    key: ShapeKey
    resources: Resources
    ports: tuple[PortSpec, ...] = ()
    placement: PlacementPolicy = PlacementPolicy()
    deployment_id: Annotated[str, msgspec.Meta(max_length=128)] = ""


class RoomAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How many more would fit, beside all that the cluster has taken in; `why` not more, if it is few."""

    key: ShapeKey
    more: Annotated[int, msgspec.Meta(ge=0, le=MOST)]
    why: Annotated[str, msgspec.Meta(max_length=512)] = ""


class RoomSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a cluster has in all: for people, and for weighing clusters against each other.

    The `lent` part of it is on servers that lend: `standard` never goes there.
    """

    nodes: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    cpus: Annotated[float, msgspec.Meta(ge=0, le=2**30)] = 0.0
    free_cpus: Annotated[float, msgspec.Meta(ge=0, le=2**30)] = 0.0
    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    free_memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0
    lent_nodes: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    lent_free_cpus: Annotated[float, msgspec.Meta(ge=0, le=2**30)] = 0.0
    lent_free_memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**60)] = 0


class Room(Record, frozen=True, kw_only=True):
    """The newest answers of one cluster; its id is the cluster's.

    `orders` says which orders it had taken in when it counted: deployment id -> revision of its order. What was told
    since is not yet taken off.
    """

    answers: dict[str, RoomAnswer] = {}  # by key
    orders: dict[str, int] = {}
    summary: RoomSummary = RoomSummary()
