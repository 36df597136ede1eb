"""How much of the requests a node on lent capacity gets, by how much it is throttled just now.

In a few coarse steps, so that gateways are not told every second. A node sinks at once and rises a step at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fallow.decide.harvest.heard import HeardServers
from fallow.decide.snapshot import Snapshot
from fallow.model.servers import ServerReport

FULL = 100
# (weight, throttled for more than this share of the time it sinks there, below that it may rise again)
STEPS = ((10, 0.65, 0.45), (25, 0.35, 0.20), (50, 0.15, 0.05))
RISE_SECONDS = 10.0  # that a node stays in a step before it rises to the next


@dataclass(frozen=True, slots=True)
class Weight:
    """A share of full weight, in hundredths, and since when (UTC seconds) it is that."""

    of_full: int
    since: float


Weights = Mapping[str, Weight]  # by node id; one that is absent has all
LOOK_SECONDS = 2.0  # between two looks at how throttled nodes are
_ALL = Weight(FULL, 0.0)


def weights(snapshot: Snapshot, servers: HeardServers, now: float, before: Weights) -> Weights:
    """Return the weights of nodes on lent capacity that have less than all; what is not heard of stays as it was.

    The very same object as `before` is returned when nothing has changed.
    """
    found: dict[str, Weight] = {}
    for server_id, vms in snapshot.vms_by_server.items():
        heard = servers.get(server_id)
        shares = _shares(heard.report) if heard is not None and heard.fresh else None
        if shares == {} and not before:
            continue
        for vm in vms:
            new = old = before.get(vm.node_id, _ALL)
            if shares is not None:
                new = _next(old, shares.get(vm.id, shares.get("", 0.0)), now)
            if vm.node_id and new.of_full < FULL:
                found[vm.node_id] = new
    return before if found == before else found


def weight_on(weights: Weights, node_id: str) -> int:
    """Return the weight of what is on a node, in hundredths of a full one."""
    return weights.get(node_id, _ALL).of_full


def reweighed(snapshot: Snapshot, weights: Weights, then: Weights) -> frozenset[str]:
    """Return the ids of deployments with replicas on nodes whose weight is another one than `then`."""
    other = [id_ for id_ in weights.keys() | then.keys() if weight_on(weights, id_) != weight_on(then, id_)]
    return frozenset(replica.deployment_id for id_ in other for replica in snapshot.replicas_by_node.get(id_, ()))


def _shares(report: ServerReport) -> dict[str, float]:
    """Return the share of the time that each virtual machine had to wait, where it did; of all together as ``."""
    found = {use.vm_id: max(use.throttled, report.throttled) for use in report.vms if use.throttled > 0}
    return found | {"": report.throttled} if report.throttled > 0 else found


def _next(old: Weight, share: float, now: float) -> Weight:
    sunk = next((weight for weight, above, _ in STEPS if share > above), FULL)
    if sunk < old.of_full:
        return Weight(sunk, now)
    rest = next((below for weight, _, below in STEPS if weight == old.of_full), 0.0)
    if old.of_full < FULL and share < rest and not 0 <= now - old.since < RISE_SECONDS:
        return Weight(next((weight for weight, _, _ in STEPS if weight > old.of_full), FULL), now)
    return old
