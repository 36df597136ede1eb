"""Which replicas move away from servers that need back what they lent."""

from collections.abc import Callable

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot


def evict(snapshot: Snapshot, servers: HeardServers, now: float, new_id: Callable[[], str]) -> Plan:
    """Return what moves replicas away."""
    return Plan()
