"""The loop that gives pending replicas a node."""

from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec

from fallow.control.runner import Controller
from fallow.decide.events import event
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement import Binding, Placement, fits, place
from fallow.decide.plan import Plan, Step
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Replica, ReplicaState
from fallow.model.meta import Reason, Record

REASON_SECONDS = 10.0
RESOURCES_SECONDS = 2.0  # heartbeats wake nobody; what waits for what is only heard looks again so often


def placement_controller(
    new_id: Callable[[], str], heard: Callable[[], Heard] = dict, servers: Callable[[], HeardServers] = dict
) -> Controller:
    """Return the loop; `heard` gives what nodes said last that they use, `servers` what servers that lend said last."""
    return Controller(
        name="placement",
        kinds=frozenset({"replicas", "members", "label-sets", "vms", "lendings", "server-pools"}),
        every_seconds=10.0,
        decide=lambda snapshot, now: plan_of(snapshot, place(snapshot, now, heard(), servers()), now, new_id),
    )


def plan_of(snapshot: Snapshot, placement: Placement, now: float, new_id: Callable[[], str]) -> Plan:
    """Return the writes a placement needs: its bindings, changed reasons of what stays pending, and what to tell."""
    placed = [(snapshot.replicas[binding.replica_id], binding) for binding in placement.bindings]
    steps = [Step(puts=(_bound(replica, binding, now),)) for replica, binding in placed]
    told: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for replica, binding in placed:
        node = snapshot.members[binding.node_id].name
        told[replica.deployment_id, replica.project, replica.deployment][node] += 1
    for (deployment_id, project, name), nodes in told.items():
        where = ", ".join(f"{count} on {node}" for node, count in sorted(nodes.items())[:10])
        more = f" and {len(nodes) - 10} more nodes" if len(nodes) > 10 else ""
        text = f"{nodes.total()} replicas of {project}/{name} placed: {where}{more}"
        steps.append(
            Step(puts=(event(new_id(), now, "loop:placement", "deployment", deployment_id, f"{project}/{name}",
                             "ReplicasPlaced", text),))
        )  # fmt: skip
    steps.extend(_pending_reasons(snapshot, placement, now))
    return Plan(steps=steps, wake_after_seconds=RESOURCES_SECONDS if _may_come(snapshot, placement) else None)


def _may_come(snapshot: Snapshot, placement: Placement) -> bool:
    """Say whether what is pending may fit without any record changing: it waits for what nodes or servers measure."""
    lent = bool(snapshot.vms)
    templates = (snapshot.templates.get(rejection.template_id) for rejection in placement.rejections)
    return any(
        found is not None
        and (found.placement.resources.requirements or (lent and found.placement.service_class != "standard"))
        for found in templates
    )


def _bound(replica: Replica, binding: Binding, now: float) -> Replica:
    return msgspec.structs.replace(
        replica,
        node_id=binding.node_id,
        address=binding.address,
        host_ports=binding.host_ports,
        state=ReplicaState.PLACED,
        state_since=now,
        updated_at=now,
        reason=None,
    )


def _pending_reasons(snapshot: Snapshot, placement: Placement, now: float) -> list[Step]:
    """Store why replicas are pending: at once when the reason is another, at times when only its numbers changed."""
    reasons = {rejection.template_id: rejection.reason for rejection in placement.rejections}
    bound = {binding.replica_id for binding in placement.bindings}
    steps = []
    for replica in snapshot.replicas.values():
        if replica.state is ReplicaState.PENDING and replica.id not in bound:
            reason = reasons.get(replica.template_id)
            if reason is None or reason == replica.reason:
                continue
            another = replica.reason is None or reason.code != replica.reason.code
            if another or now - replica.updated_at > REASON_SECONDS:
                steps.append(Step(puts=(msgspec.structs.replace(replica, reason=reason, updated_at=now),)))
    return steps


def binds(step: Step) -> bool:
    """Say whether `still_fits` has anything to look at in a step."""
    return any(_binds(record) for record in step.puts)


def still_fits(
    snapshot: Snapshot,
    step: Step,
    heard: Callable[[], Heard] = dict,
    servers: Callable[[], HeardServers] = dict,
    clock: Callable[[], float] = float,
) -> Reason | None:
    """Re-check a step's bindings against the newest snapshot; the applier drops what no longer fits.

    `clock` gives UTC seconds, which count where a binding is to lent capacity.
    """
    for record in step.puts:
        if isinstance(record, Replica) and _binds(record):
            before = snapshot.replicas.get(record.id)
            if before is not None and before.state is ReplicaState.PENDING:
                return fits(
                    snapshot,
                    Binding(
                        replica_id=record.id,
                        node_id=record.node_id,
                        address=record.address,
                        host_ports=record.host_ports,
                    ),
                    heard(),
                    servers(),
                    clock(),
                )
    return None


def _binds(record: Record) -> bool:
    return isinstance(record, Replica) and record.state is ReplicaState.PLACED and record.observed is None
