"""The loop that keeps the wanted number of replicas."""

from collections.abc import Callable

from fallow.control.runner import Controller
from fallow.decide.deployments import reconcile


def deployments_controller(new_id: Callable[[], str]) -> Controller:
    """Return the loop."""
    return Controller(
        name="deployments",
        kinds=frozenset({"deployments", "replicas", "members"}),
        every_seconds=10.0,
        decide=lambda snapshot, now: reconcile(snapshot, now, new_id),
    )
