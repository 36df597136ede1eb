"""Shapes: what one replica asks of a cluster, so that the same question is asked once for all that are alike.

The host and its members both use this: a key means the same on either side.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from fallow.decide.placement.request import Request, ports_of, reservation
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Deployment, PlacementPolicy
from fallow.model.labels import Selector
from fallow.model.rooms import MOST, RoomQuestion

Ratios = NDArray[np.float64]

_KEPT = 8192  # shapes whose key is remembered
_TABLES_KEPT = 4  # of all shapes that are deployed, which seldom change
_KEY_LENGTH = 24

_encoder = msgspec.json.Encoder(order="deterministic")


def question_of(deployment: Deployment) -> RoomQuestion:
    """Return the question of room for one more replica of a deployment."""
    return asked_by(deployment.spec.container, deployment.spec.placement, deployment.id)


def asked_by(container: ContainerSpec, placement: PlacementPolicy, deployment_id: str) -> RoomQuestion:
    """Return the question of room for one more replica that is made of this.

    Its key says all that bears on the answer and nothing else: reservations, host ports, which nodes may be used. Where
    at most so many may stand on a node, it matters what the deployment has there, and the question names it.
    """
    crowded = deployment_id if placement.max_per_node else ""
    return _question(container.resources, ports_of(container), placement, crowded)


def largest(asked: Sequence[RoomQuestion]) -> RoomQuestion:
    """Return a shape that takes as much room as any of these, and may go where the first may."""
    resources = Resources(
        cpus=max(each.resources.cpus for each in asked), memory_bytes=max(each.resources.memory_bytes for each in asked)
    )
    fixed = dict.fromkeys((port.protocol, port.host) for each in asked for port in each.ports if port.host)
    free = max(([port for port in each.ports if not port.host] for each in asked), key=len)
    ports = (*(PortSpec(container=1, protocol=protocol, host=host) for protocol, host in fixed), *free)
    return _question(resources, ports, asked[0].placement, asked[0].deployment_id)


def questions(snapshot: Snapshot) -> tuple[RoomQuestion, ...]:
    """Return what every member should be asked, each shape once, by key; nothing without members."""
    if not snapshot.clusters:
        return ()
    found = {asked.key: asked for asked in map(question_of, divided(snapshot))}
    return tuple(asked for _, asked in sorted(found.items()))


def divided(snapshot: Snapshot) -> Iterable[Deployment]:
    """Yield the deployments whose replicas are divided here: not those that a host of this cluster divides."""
    return (found for found in snapshot.deployments.values() if found.origin is None and not found.deleting)


@lru_cache(maxsize=_TABLES_KEPT)
def slots_taken(shapes: tuple[RoomQuestion, ...]) -> Ratios:
    """Return, for shapes t and s at [t, s], how many places for s one replica of t takes, but for rounding.

    On a node with room F floor(F / s) of s fit. When replicas that reserve x in all have come, floor((F - x) / s) fit:
    fewer by less than x / s + 1, whatever F is, and by x / s when they are all of s. So a cluster loses less than the
    sum of these and of one place for each node that somebody of another shape came to.
    """
    table = np.zeros((len(shapes), len(shapes)))
    for amounts in _amounts(shapes):
        asked = amounts[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(asked > 0, amounts[:, None] / asked, 0.0)
        np.maximum(table, np.minimum(ratio, MOST), out=table)
    for row, column in _same_ports(shapes):
        table[row, column] = max(table[row, column], 1.0)
    np.fill_diagonal(table, 1.0)
    table.flags.writeable = False  # it is kept
    return table


def _amounts(shapes: Sequence[RoomQuestion]) -> Iterable[Ratios]:
    """Yield what every shape asks for of each thing that a node has a limited amount of."""
    requests = [Request(*reservation(asked.resources), asked.ports, asked.placement) for asked in shapes]
    yield np.array([request.cpus for request in requests], dtype=np.float64)
    yield np.array([request.memory_bytes for request in requests], dtype=np.float64)
    yield np.array([len(request.free_ports) for request in requests], dtype=np.float64)


def _same_ports(shapes: Sequence[RoomQuestion]) -> Iterable[tuple[int, int]]:
    """Yield the pairs of shapes that want a fixed host port both."""
    wanted: dict[tuple[str, int], list[int]] = {}
    for row, asked in enumerate(shapes):
        for port in {(spec.protocol, spec.host) for spec in asked.ports if spec.host}:
            wanted.setdefault(port, []).append(row)
    for rows in wanted.values():
        yield from ((one, other) for one in rows for other in rows)


@lru_cache(maxsize=_KEPT)
def _question(
    resources: Resources, ports: tuple[PortSpec, ...], placement: PlacementPolicy, deployment_id: str
) -> RoomQuestion:
    asked = RoomQuestion(
        key="",
        resources=Resources(cpus=resources.cpus, memory_bytes=resources.memory_bytes),
        ports=_alike(ports),
        placement=PlacementPolicy(
            selector=_sorted(placement.selector),
            resources=_sorted(placement.resources),
            max_per_node=placement.max_per_node,
            architectures=tuple(sorted(set(placement.architectures))),
            # The other classes may all go anywhere.
            service_class="standard" if placement.service_class == "standard" else "",
        ),
        deployment_id=deployment_id,
    )
    key = hashlib.sha256(_encoder.encode(asked)).hexdigest()[:_KEY_LENGTH]
    return msgspec.structs.replace(asked, key=key)


def _alike(ports: Sequence[PortSpec]) -> tuple[PortSpec, ...]:
    """Return ports that take the same host ports, with numbers of their own in the container: those bear on nothing."""
    ordered = sorted(ports, key=lambda spec: (spec.host or math.inf, spec.protocol))
    return tuple(
        PortSpec(container=number, protocol=spec.protocol, host=spec.host) for number, spec in enumerate(ordered, 1)
    )


def _sorted(selector: Selector) -> Selector:
    found = sorted(set(selector.requirements), key=lambda each: (each.key, each.operator, each.values))
    return Selector(requirements=tuple(found))
