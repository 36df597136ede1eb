"""What must hold of a federation at rest, when no fault is left and nobody asks for anything."""

from collections.abc import Iterable, Mapping

from fallow.decide.matching import matches
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment
from fallow.model.members import Member, MemberState, Role, Scheduling
from simulation.federation.sites import Site
from simulation.federation.watch import SLACK_SECONDS, FederationWatch


def unrest(watch: FederationWatch) -> list[str]:
    """Return what is not yet as it is wanted, when no fault is left."""
    found = [*_members(watch), *_left_over(watch)]
    is_host = any(member.role is Role.CLUSTER for member in watch.members().values())
    for deployment in watch.deployments().values():
        problems = _deployment(watch, deployment) if is_host else _undivided(watch, deployment)
        found += [f"{deployment.path}: {problem}" for problem in problems]
    return found


def _members(watch: FederationWatch) -> Iterable[str]:
    for member in watch.members().values():
        if member.state is not MemberState.READY and member.role is Role.CLUSTER:
            yield f"{member.name} is {member.state}"
    for site in watch.sites.values():
        if site.powered and site.id not in watch.removed and watch.silence(site.id) > SLACK_SECONDS:
            yield f"{site.name} has yet to be heard"


def _left_over(watch: FederationWatch) -> Iterable[str]:
    for site in watch.sites.values():
        if site.id in watch.removed:
            continue
        for container in site.containers.values():
            if container.deployment_id not in watch.deployments():
                yield f"{container.id} of no deployment is left"
            elif container.state != "ready":
                yield f"{container.id} is {container.state}"
    for share in watch.shares().values():
        if share.deployment_id not in watch.deployments():
            yield f"share {share.id} has no deployment"
        elif share.cluster_id not in watch.members():
            yield f"share {share.id} has no cluster"


def _undivided(watch: FederationWatch, deployment: Deployment) -> Iterable[str]:
    """All clusters were lost and removed: what is wanted runs here whole, for which these runs have no nodes."""
    if deployment.deleting:
        yield "is still being deleted"
    elif deployment.id in watch.divisions() or deployment.share is not None:
        yield "is still divided"


def _deployment(watch: FederationWatch, deployment: Deployment) -> Iterable[str]:
    if deployment.deleting:
        yield "is still being deleted"
        return
    division = watch.divisions().get(deployment.id)
    if division is None:
        yield "is not divided"
        return
    ready, told, kept = watch.ready(deployment.id), watch.told(deployment.id), watch.kept(deployment.id)
    total = deployment.spec.replicas
    roomy = [site.name for site in _roomy(watch, deployment)]
    running = {id_: count for id_, count in ready.items() if id_ not in watch.removed}
    for id_ in sorted(running.keys() | told.keys() | division.shares.keys()):
        wanted, there = division.shares.get(id_, 0), running.get(id_, 0)
        ordered = max(told.get(id_, 0), min(there, kept.get(id_, 0)))
        stays = wanted < ordered == there and sum(running.values()) <= total and not roomy  # nothing takes its place
        if not wanted == ordered == there and not stays:
            yield f"{there} ready in {watch._name(id_)}, told {ordered}, wanted {wanted}"
    if division.off_since:
        yield "is to be rebalanced"
    if deployment.spec.clusters.divide == "duplicate":
        yield from _duplicates(watch, deployment, running)
        return
    if sum(running.values()) > total:
        yield f"{sum(running.values())} ready of {total}"
    if sum(running.values()) < total and roomy:
        yield f"{sum(running.values())} ready of {total} though {', '.join(roomy)} could take more"
    for id_, count in running.items():
        member = watch.members().get(id_)
        if count and member is not None and member.id != HERE_ID and not may_keep(deployment, member) and roomy:
            yield f"{count} are left in {member.name} though {', '.join(roomy)} could take more"
    if roomy:  # else what is too many stays where it is
        yield from _limits(watch, deployment, running)


def _limits(watch: FederationWatch, deployment: Deployment, running: Mapping[str, int]) -> Iterable[str]:
    policy = deployment.spec.clusters
    named = {member.name: member.id for member in watch.members().values()}
    for name, most in policy.max.items():
        if (count := running.get(named.get(name, ""), 0)) > most:
            yield f"{count} in {name}, which may have {most}"
    takers = {site.name for site in _roomy(watch, deployment)}
    if policy.spread is None and sum(policy.min.values()) <= deployment.spec.replicas:
        for name, least in policy.min.items():
            if (count := running.get(named.get(name, ""), 0)) < least and name in takers:
                yield f"{count} in {name}, which should have {least}"
    if policy.fallback and policy.rebalance is not None and policy.spread is None and not policy.min:
        yield from _groups(watch, deployment, running)


def _groups(watch: FederationWatch, deployment: Deployment, running: Mapping[str, int]) -> Iterable[str]:
    """Yield what runs in a later group, though an earlier one has room, and the policy asks to move there."""
    earliest = min((group_of(deployment, watch.members()[site.id]) for site in _roomy(watch, deployment)), default=0)
    for id_, count in running.items():
        member = watch.members().get(id_)
        if count and member is not None and id_ != HERE_ID and group_of(deployment, member) > earliest:
            yield f"{count} in {member.name} though group {earliest + 1} could take more"


def _duplicates(watch: FederationWatch, deployment: Deployment, running: Mapping[str, int]) -> Iterable[str]:
    """Yield where there are not as many as in every other cluster that may be used."""
    total, policy = deployment.spec.replicas, deployment.spec.clusters
    for site in _roomy(watch, deployment):
        count, most = running.get(site.id, 0), min(total, policy.max.get(site.name, total))
        if count < most:
            yield f"{count} of {most} in {site.name}, which could take more"
    for id_, count in running.items():
        if count > total:
            yield f"{count} in {watch._name(id_)}, {total} would do"


def _first_group(watch: FederationWatch, deployment: Deployment) -> int:
    """Return the number of the first fallback group with a cluster that may be used: all duplicates stand in it."""
    usable = [one for one in watch.members().values() if one.role is Role.CLUSTER and may_keep(deployment, one)]
    return min((group_of(deployment, one) for one in usable), default=0)


def _roomy(watch: FederationWatch, deployment: Deployment) -> Iterable[Site]:
    """Return the clusters that could take one replica more, by what they really have."""
    cpus, first = deployment.spec.container.resources.cpus, _first_group(watch, deployment)
    for site in watch.sites.values():
        member = watch.members().get(site.id)
        if member is None or not site.powered or site.free + 1e-6 < cpus or not may_take(watch, deployment, member):
            continue
        if deployment.spec.clusters.divide == "duplicate" and group_of(deployment, member) > first:
            continue
        most = deployment.spec.clusters.max.get(member.name)
        if most is None or site.live(deployment.id) < most:
            yield site


def may_keep(deployment: Deployment, member: Member) -> bool:
    """Say whether replicas of a deployment may stay in a cluster."""
    policy = deployment.spec.clusters
    moves = any(taint.effect == "move" for taint in member.taints)
    if member.scheduling is Scheduling.DRAINING or (moves and not _borne(deployment, member)):
        return False
    in_group = not policy.fallback or group_of(deployment, member) < len(policy.fallback)
    return in_group and matches(policy.where, member.labels)


def group_of(deployment: Deployment, member: Member) -> int:
    """Return the number of the first fallback group that a cluster is in; that of none behind the last."""
    groups = deployment.spec.clusters.fallback
    return next((number for number, group in enumerate(groups) if matches(group, member.labels)), len(groups))


def _borne(deployment: Deployment, member: Member) -> bool:
    """Say whether a deployment tolerates all taints of a cluster: those here have no values."""
    return {taint.key for taint in member.taints} <= {found.key for found in deployment.spec.clusters.tolerate}


def may_take(watch: FederationWatch, deployment: Deployment, member: Member) -> bool:
    """Say whether a cluster may get more replicas of a deployment."""
    active = member.scheduling is Scheduling.ACTIVE and member.state is MemberState.READY
    return active and _borne(deployment, member) and may_keep(deployment, member)
