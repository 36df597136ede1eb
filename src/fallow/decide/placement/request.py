"""What a container asks of a node, in whole numbers, so that sums are exact."""

from collections.abc import Iterable
from functools import cached_property

import msgspec

from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import PlacementPolicy, Replica, ReplicaState, Template

NANO = 1_000_000_000  # processor shares are counted in billionths, as container engines do
MOST = 2**62  # no sum of reservations is taken for more, so that 64 bits hold it

_GOING = (ReplicaState.LEAVING, ReplicaState.STOPPING)
_COMING = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
_PROTOCOL_BITS = {"tcp": 1, "udp": 2}


class Request(msgspec.Struct, frozen=True, dict=True):
    """A template's needs; equal requests are interchangeable. `cpus` is in billionths of a processor."""

    cpus: int
    memory_bytes: int
    ports: tuple[PortSpec, ...]
    policy: PlacementPolicy

    @cached_property
    def fixed_ports(self) -> tuple[tuple[str, int, int], ...]:
        """Return (key, number, protocol bit) of every port that asks for one fixed host port."""
        return tuple((spec.key, spec.host, _PROTOCOL_BITS[spec.protocol]) for spec in self.ports if spec.host)

    @cached_property
    def free_ports(self) -> tuple[tuple[str, int], ...]:
        """Return (key, protocol bit) of every port that is content with any host port of the node's lease."""
        return tuple((spec.key, _PROTOCOL_BITS[spec.protocol]) for spec in self.ports if not spec.host)

    @cached_property
    def reserves(self) -> bool:
        """Say whether it asks for processor or memory at all."""
        return self.cpus > 0 or self.memory_bytes > 0


def request_of(template: Template) -> Request:
    """Return what one replica of `template` asks for."""
    container = template.container
    cpus, memory_bytes = reservation(container.resources)
    return Request(cpus, memory_bytes, ports_of(container), template.placement)


def reservation(resources: Resources) -> tuple[int, int]:
    """Return (billionths of a processor, bytes)."""
    return round(resources.cpus * NANO), resources.memory_bytes


def ports_of(container: ContainerSpec) -> tuple[PortSpec, ...]:
    """Return the container's ports, each once: the same port named again adds nothing but a fixed host port."""
    if len(container.ports) < 2:
        return container.ports
    found: dict[str, PortSpec] = {}
    for spec in container.ports:
        if spec.key not in found or found[spec.key].host is None:
            found[spec.key] = spec
    return tuple(found.values())


def protocol_bit(key: str) -> int:
    """Return the bit of the protocol in `8080/tcp`: 1 for tcp, 2 for udp."""
    return _PROTOCOL_BITS[key.rpartition("/")[2]]


def going(replica: Replica) -> bool:
    """Say whether the replica is on its way out: it still holds resources and ports, but no longer counts as one."""
    return replica.state in _GOING


def replaced_by(replicas: Iterable[Replica]) -> set[str]:
    """Return the ids that a pending or living replica takes over from.

    They go as soon as their replacement is healthy, so they count neither for spreading nor against `max_per_node`:
    with one replica a node on every node, nothing could be replaced otherwise.
    """
    return {replica.replaces for replica in replicas if replica.replaces and replica.state in _COMING}
