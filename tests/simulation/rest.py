"""What must hold at rest, when no fault is left and nobody asks for anything."""

from collections.abc import Iterable, Set

from fallow.model.deployments import Deployment, Replica, ReplicaState, Template
from fallow.model.members import MemberState
from fallow.model.updates import UpdateState
from simulation.invariants import Watch


def unrest(watch: Watch) -> list[str]:
    """Return what is not yet as it is wanted, when no fault is left."""
    found = [*_members_at_rest(watch), *_deployments_at_rest(watch), *_containers_at_rest(watch)]
    return found or _gateways_at_rest(watch)


def _members_at_rest(watch: Watch) -> Iterable[str]:
    for member in watch.members().values():
        if member.state is not MemberState.READY:
            yield f"member {member.name} is {member.state}"


def _deployments_at_rest(watch: Watch) -> Iterable[str]:
    unplaced = watch.unplaced()
    by_deployment = watch.snapshot().replicas_by_deployment
    for deployment in watch.deployments().values():
        if deployment.deleting:
            yield f"{deployment.path} is still being deleted"
            continue
        if not watch.roomy and f"{deployment.id}.{deployment.generation}" in unplaced:
            yield from _taking_over(deployment, by_deployment.get(deployment.id, ()))
            continue  # its newest version waits for room, and what it replaces goes on
        yield from _deployment_at_rest(watch, deployment, by_deployment.get(deployment.id, ()), unplaced)
    for replica in watch.replicas().values():
        if replica.deployment_id not in watch.deployments():
            yield f"replica {replica.id} has no deployment"
    for template in watch.records["templates"].values():
        if isinstance(template, Template) and template.deployment_id not in watch.deployments():
            yield f"template {template.id} has no deployment"


def _taking_over(deployment: Deployment, replicas: Iterable[Replica]) -> Iterable[str]:
    """Return what is about to go, which may be the room that the others wait for."""
    if deployment.update is not None and deployment.update.state is UpdateState.PAUSED:
        return
    live = {replica.id for replica in replicas if not replica.ended}
    for replica in replicas:
        if replica.healthy and replica.replaces in live:
            yield f"{replica.id} is about to take over from {replica.replaces}"


def _deployment_at_rest(
    watch: Watch, deployment: Deployment, replicas: Iterable[Replica], unplaced: Set[str]
) -> Iterable[str]:
    if deployment.update is not None and deployment.update.state is UpdateState.PAUSED:
        yield from _paused_at_rest(deployment, replicas)
        return
    settled = 0
    for replica in replicas:
        unplaceable = replica.state is ReplicaState.PENDING and replica.template_id in unplaced
        failed = replica.state is ReplicaState.FAILED and replica.generation == deployment.generation
        if unplaceable or failed or (deployment.wants(replica.generation) and replica.healthy):
            settled += 1
        elif not replica.ended:
            yield f"{replica.id} of generation {replica.generation} is {replica.state}"
    if settled != deployment.spec.replicas:
        yield f"{deployment.path} has {settled} of {deployment.spec.replicas}"
    if not unplaced and deployment.update is not None and deployment.update.under_way:
        yield f"the update of {deployment.path} is {deployment.update.state}"


def stuck(watch: Watch) -> set[str]:
    """Return replicas that need not work: those of a paused update, which may be made of what never does."""
    paused = {
        found.id
        for found in watch.deployments().values()
        if found.update is not None and found.update.state is UpdateState.PAUSED
    }
    return {found.id for found in watch.replicas().values() if found.deployment_id in paused and not found.healthy}


def _paused_at_rest(deployment: Deployment, replicas: Iterable[Replica]) -> Iterable[str]:
    """A paused update leaves what it has reached: replicas of two generations, of which the new ones may be ill."""
    for replica in replicas:
        if replica.state in (ReplicaState.LEAVING, ReplicaState.STOPPING):
            yield f"{replica.id} of paused {deployment.path} is {replica.state}"


def _containers_at_rest(watch: Watch) -> Iterable[str]:
    excused = stuck(watch)
    running = [found for found in watch.replicas().values() if found.state is ReplicaState.RUNNING]
    wanted = {found.id: found.node_id for found in running if found.id not in excused}
    for machine in watch.machines.values():
        if machine.node_id in watch.removed:
            continue
        for replica_id, status in machine.containers().items():
            if replica_id in excused:
                continue
            if wanted.get(replica_id) != machine.node_id:
                yield f"a container of {replica_id} is left on {machine.node_id} ({status})"
            elif status == "running":
                del wanted[replica_id]
    for replica_id, node_id in wanted.items():
        yield f"{replica_id} has no running container on {node_id}"


def _gateways_at_rest(watch: Watch) -> list[str]:
    routed = {found.id for found in watch.deployments().values() if found.spec.routes}
    wanted = {found.id for found in watch.replicas().values() if found.healthy and found.deployment_id in routed}
    wrong = []
    for gateway_id, host in watch.gateways.items():
        if gateway_id in watch.removed:
            continue
        if host.sends_to() != wanted:
            more, less = sorted(host.sends_to() - wanted), sorted(wanted - host.sends_to())
            wrong.append(f"gateway {gateway_id} sends to {more} too much and not to {less}")
    return wrong
