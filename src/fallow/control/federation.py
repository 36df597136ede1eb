"""The loop of a host: it divides deployments over clusters, and moves replicas from one to another."""

from collections.abc import Callable

from fallow.control.runner import Controller
from fallow.decide.federation.reconcile import reconcile


def federation_controller(new_id: Callable[[], str]) -> Controller:
    """Return the loop."""
    return Controller(
        name="federation",
        kinds=frozenset({"members", "deployments", "divisions", "shares", "rooms", "label-sets"}),
        every_seconds=10.0,
        decide=lambda snapshot, now: reconcile(snapshot, now, new_id),
    )
