"""The loop of a host: it divides deployments over clusters, and moves replicas from one to another."""

from collections.abc import Callable

from fallow.control.runner import Controller
from fallow.decide.federation.reconcile import Divide, reconcile


def federation_controller(new_id: Callable[[], str], divide: Divide) -> Controller:
    """Return the loop; `divide` says how many replicas each cluster should have of every deployment."""
    return Controller(
        name="federation",
        kinds=frozenset({"members", "deployments", "divisions", "shares", "rooms", "label-sets"}),
        every_seconds=10.0,
        decide=lambda snapshot, now: reconcile(snapshot, now, new_id, divide),
    )
