"""The loop that keeps the wanted number of replicas."""

from collections.abc import Callable

from fallow.control.runner import Controller
from fallow.decide.deployments import reconcile
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.variables import Heard


def deployments_controller(
    new_id: Callable[[], str], heard: Callable[[], Heard] = dict, servers: Callable[[], HeardServers] = dict
) -> Controller:
    """Return the loop; `heard` gives what nodes said last that they use, `servers` what servers that lend said last."""
    return Controller(
        name="deployments",
        kinds=frozenset({"deployments", "replicas", "members"}),
        every_seconds=10.0,
        decide=lambda snapshot, now: reconcile(snapshot, now, new_id, heard(), servers()),
    )
