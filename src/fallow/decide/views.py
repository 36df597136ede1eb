"""Records as people see them: with names instead of ids, and with what follows from other records."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from fallow.decide.prepull import pulled_ahead
from fallow.decide.snapshot import Snapshot
from fallow.decide.updates import portion
from fallow.decide.variables import measured_variables
from fallow.model.containers import ContainerSpec
from fallow.model.deployments import (
    Activity,
    Counts,
    Deployment,
    DeploymentView,
    Health,
    Replica,
    ReplicaState,
    ReplicaView,
    RouteSpec,
)
from fallow.model.hosts import HOST_ID
from fallow.model.members import HTTP_PORT_VARIABLE, Member, MemberView, Role
from fallow.model.routes import BackendStats, ProxyReport, ProxyState, RouteView
from fallow.model.updates import UpdateState
from fallow.model.wire import Usage

HIDDEN = "(hidden)"
_LIVE = (ReplicaState.PENDING, ReplicaState.PLACED, ReplicaState.RUNNING)
_MAX_COUNT = 2**53  # every reader of JSON has integers up to here
_GOING = (ReplicaState.LEAVING, ReplicaState.STOPPING)


def deployment_view(snapshot: Snapshot, deployment: Deployment) -> DeploymentView:
    """Return a deployment with its replicas counted and one word for how it is."""
    replicas = snapshot.replicas_by_deployment.get(deployment.id, [])
    state, reason = _state_of(deployment, replicas)
    return DeploymentView(
        id=deployment.id,
        project=deployment.project,
        name=deployment.name,
        revision=deployment.revision,
        generation=deployment.generation,
        created_at=deployment.created_at,
        updated_at=deployment.updated_at,
        spec=deployment.spec,
        counts=_counts(deployment, replicas),
        state=state,
        reason=reason,
        update=deployment.update,
        updated=sum(replica.healthy and deployment.wants(replica.generation) for replica in replicas),
        pulled_ahead=pulled_ahead(snapshot, deployment, portion(deployment)),
        share=deployment.share,
        host=host_of(snapshot, deployment),
    )


def host_of(snapshot: Snapshot, deployment: Deployment) -> str:
    """Return the host that a deployment is run for, as people reach it; empty when it was deployed here."""
    if deployment.origin is None:
        return ""
    host = snapshot.hosts.get(HOST_ID)
    return host.url if host is not None else "a host"


def without_values(container: ContainerSpec) -> ContainerSpec:
    """Return a container's description for those who may look but not act: its environment may hold secrets."""
    return msgspec.structs.replace(container, environment=dict.fromkeys(container.environment, HIDDEN))


def member_view(
    snapshot: Snapshot, member: Member, connected: bool, last_seen_at: float, usage: Usage | None
) -> MemberView:
    """Return a member with what it holds and does; `last_seen_at` in UTC seconds, 0: never."""
    held = snapshot.replicas_by_node.get(member.id, [])
    templates = [
        snapshot.templates[replica.template_id] for replica in held if replica.template_id in snapshot.templates
    ]
    used = usage or Usage()
    return MemberView(
        id=member.id,
        name=member.name,
        role=member.role,
        revision=member.revision,
        created_at=member.created_at,
        labels=member.labels,
        scheduling=member.scheduling,
        address=member.lease.address,
        lease=member.lease,
        requested_at=member.requested_at,
        observed_address=member.observed_address,
        temporary_address=member.temporary_address,
        temporary_port=member.temporary_port,
        reported_at=member.reported_at,
        state=member.state,
        state_since=member.state_since,
        state_reason=member.state_reason,
        function=member.function,
        facts=member.facts,
        variables=member.variables,
        measured=measured_variables(member, usage),
        connected=connected,
        last_seen_at=last_seen_at,
        network_problem=member.network_problem,
        replicas=len(held),
        reserved_cpus=sum(template.container.resources.cpus for template in templates),
        reserved_memory_bytes=sum(template.container.resources.memory_bytes for template in templates),
        used_cpus=used.cpus,
        used_memory_bytes=used.memory_bytes,
        agent_version=member.agent_version,
        agent_wish=member.agent,
        fence=member.fence,
        purge_at=member.purge_at,
        taints=member.taints,
        thresholds=member.thresholds,
    )


def replica_view(snapshot: Snapshot, replica: Replica) -> ReplicaView:
    """Return a replica with its node's name and what its agent last said."""
    template = snapshot.templates.get(replica.template_id)
    node = snapshot.members.get(replica.node_id)
    seen = replica.observed
    return ReplicaView(
        id=replica.id,
        project=replica.project,
        deployment=replica.deployment,
        slot=replica.slot,
        generation=replica.generation,
        image=template.container.image if template is not None else "",
        node=node.name if node is not None else replica.node_id,
        address=replica.address,
        host_ports=replica.host_ports,
        state=replica.state,
        state_since=replica.state_since,
        reason=_reason(replica),
        activity=seen.activity if seen is not None else "",
        health=seen.health if seen is not None else "",
        restarts=seen.restarts if seen is not None else 0,
        message=seen.message if seen is not None else "",
        created_at=replica.created_at,
    )


def _reason(replica: Replica) -> str:
    """Return why a replica is as it is, or that it has to move."""
    if replica.reason is not None:
        return replica.reason.text
    return f"has to move: {replica.move.text}" if replica.move is not None and not replica.ended else ""


def route_views(
    snapshot: Snapshot,
    reports: Mapping[str, ProxyReport],
    state: ProxyState,
    conflicts: Mapping[tuple[str, RouteSpec], str],
    elsewhere: Mapping[str, Mapping[str, int]],
) -> tuple[RouteView, ...]:
    """Return every wished route; `reports` by gateway id, `conflicts` by deployment path and route say why not served.

    `elsewhere` are errors that gateways of member clusters have answered, by the cluster's name and by backend.
    Counters are a backend's, so routes to the same port of a deployment show the same numbers.
    """
    endpoints = {backend.key: len(backend.endpoints) for backend in state.backends}
    stats: dict[str, list[tuple[str, BackendStats]]] = {}
    for gateway_id, report in reports.items():
        gateway = snapshot.members.get(gateway_id)
        for backend in report.backends if gateway is not None else ():
            stats.setdefault(backend.key, []).append((gateway.name if gateway is not None else "", backend))
    views = []
    port = _http_port(snapshot)
    for deployment in sorted(snapshot.deployments.values(), key=lambda found: found.path):
        for route in () if deployment.deleting else deployment.spec.routes:
            key = f"{deployment.path}:{route.port}"
            told = stats.get(key, [])
            views.append(
                RouteView(
                    kind=route.kind,
                    address=_address(route, port),
                    project=deployment.project,
                    deployment=deployment.name,
                    port=route.port,
                    endpoints=endpoints.get(key, 0),
                    requests=_total(backend.requests for _, backend in told),
                    errors_5xx=_total(
                        (
                            *(found.errors_5xx for _, found in told),
                            *(errors.get(key, 0) for errors in elsewhere.values()),
                        )
                    ),
                    clusters=tuple(sorted(elsewhere)),
                    gateways=tuple(sorted(name for name, _ in told)),
                    conflict=conflicts.get((deployment.path, route), ""),
                )
            )
    return tuple(views)


def _total(counters: Iterable[int]) -> int:
    """Return a sum that JSON can hold, whatever gateways say."""
    return max(0, min(_MAX_COUNT, sum(counters)))


def _http_port(snapshot: Snapshot) -> str:
    """Return what a URL needs so that it leads to the gateways: `:8080` when all of them say so, else nothing."""
    gateways = [member for member in snapshot.members.values() if member.role is Role.GATEWAY]
    told = {found.value for member in gateways for found in member.variables if found.name == HTTP_PORT_VARIABLE}
    port = told.pop() if len(told) == 1 else ""
    return f":{port}" if port.isascii() and port.isdigit() and port != "80" and len(port) <= 5 else ""


def _address(route: RouteSpec, http_port: str) -> str:
    if route.kind == "http":
        return f"http://{route.host or '*'}{http_port}{route.path}"
    return f"tcp port {route.listen or route.port}"


def _counts(deployment: Deployment, replicas: Iterable[Replica]) -> Counts:
    by_state = Counter(replica.state for replica in replicas)
    return Counts(
        wanted=0 if deployment.deleting else deployment.replicas_here,
        healthy=sum(replica.healthy for replica in replicas),
        running=by_state[ReplicaState.RUNNING],
        placed=by_state[ReplicaState.PLACED],
        pending=by_state[ReplicaState.PENDING],
        leaving=sum(by_state[state] for state in _GOING),
        failed=sum(_failed_now(deployment, replica) for replica in replicas),
    )


def _state_of(deployment: Deployment, replicas: Iterable[Replica]) -> tuple[str, str]:
    """Return one word for how the deployment is, and why it is not serving."""
    wanted = deployment.replicas_here
    live = [replica for replica in replicas if replica.state in _LIVE]
    if deployment.deleting:
        left = sum(not replica.ended for replica in replicas)
        return "deleting", f"{left} replicas have not stopped yet"
    if wanted == 0:
        return "stopped", "no replicas are wanted"
    return _serving_state(deployment, replicas, live)


def _serving_state(deployment: Deployment, replicas: Iterable[Replica], live: Sequence[Replica]) -> tuple[str, str]:
    wanted = deployment.replicas_here
    newest = [replica for replica in live if deployment.wants(replica.generation)]
    healthy = sum(replica.healthy for replica in newest)
    under_way = _update_under_way(deployment, healthy)
    if under_way is not None:
        return under_way
    if healthy >= wanted and len(newest) == len(live):
        return "serving", ""
    failed = [replica for replica in replicas if _failed_now(deployment, replica)]
    unwell = failed + [replica for replica in newest if _unwell(replica)]
    if unwell:
        return "degraded", f"{len(unwell)} of {wanted} replicas are not well: {_why(unwell)}"
    if len(newest) < len(live):
        return "updating", f"{healthy} of {wanted} replicas are of generation {deployment.generation}"
    waiting = [replica for replica in newest if not replica.healthy]
    return "waiting", f"{healthy} of {wanted} replicas are healthy" + (f": {_why(waiting)}" if waiting else "")


def _update_under_way(deployment: Deployment, healthy: int) -> tuple[str, str] | None:
    """Return the state and reason of a deployment whose update has not ended; `healthy` replicas are as wanted."""
    status = deployment.update
    if status is None or not status.under_way:
        return None
    renewed = f"{healthy} of {deployment.replicas_here} replicas are of generation {deployment.generation}"
    match status.state:
        case UpdateState.PAUSED:
            return "paused", f"{renewed}; {status.paused_because}"
        case UpdateState.ROLLING_BACK:
            return "rolling-back", f"to generation {status.from_generation}: {status.reason}"
        case UpdateState.MONITORING:
            return "updating", f"{renewed}, the last of them have yet to prove themselves"
        case _:
            return "updating", renewed


def _failed_now(deployment: Deployment, replica: Replica) -> bool:
    """Say whether it failed for good and still counts: it is of the generation that is wanted."""
    return replica.state is ReplicaState.FAILED and replica.generation == deployment.generation


def _unwell(replica: Replica) -> bool:
    seen = replica.observed
    return seen is not None and (seen.health is Health.UNHEALTHY or seen.activity is Activity.BACKING_OFF)


def _why(replicas: Iterable[Replica]) -> str:
    """Return the most common reason among replicas."""
    reasons: Counter[str] = Counter()
    for replica in replicas:
        seen = replica.observed
        if replica.state is ReplicaState.PENDING:
            reasons[replica.reason.text if replica.reason is not None else "not yet placed"] += 1
        elif replica.reason is not None and replica.state is ReplicaState.FAILED:
            reasons[replica.reason.text] += 1
        elif seen is not None:
            health = f", {seen.health}" if seen.health is not Health.UNKNOWN else ""
            reasons[f"{seen.activity}{health}" + (f": {seen.message}" if seen.message else "")] += 1
        else:
            reasons["its node has not started it yet"] += 1
    return reasons.most_common(1)[0][0]
