"""Why a replica, a deployment or a member is as it is: short lines for a person, the most important first."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fallow.decide.federation.explain import cluster_explained, shares_explained
from fallow.decide.federation.views import whole_view
from fallow.decide.harvest.explain import server_explained
from fallow.decide.harvest.heard import HeardServer, HeardServers
from fallow.decide.placement import Placement, judge, place
from fallow.decide.placement.phrases import processors
from fallow.decide.placement.standing import Lenders, capacity_of, report_of
from fallow.decide.placement.table import free_room
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.deployments import Activity, Deployment, Explanation, Health, Replica, ReplicaState
from fallow.model.members import Member, MemberState, Role, Scheduling
from fallow.model.units import format_bytes, format_duration
from fallow.model.vms import Vm

DEFAULT_PROJECT = "default"
_MOST = 20  # lines about replicas of one kind
_LONGEST = 400  # characters of a line

_GOING = (ReplicaState.LEAVING, ReplicaState.STOPPING)
_GONE = (ReplicaState.FAILED, ReplicaState.LOST)


class _Heard(NamedTuple):
    """What nodes, and servers that lend, said last."""

    nodes: Heard | None
    servers: HeardServers


def explain(
    snapshot: Snapshot, subject: str, now: float, heard: Heard | None = None, servers: HeardServers | None = None
) -> Explanation | None:
    """Explain a replica id, `project/deployment`, a deployment of the default project, or a member's name or id.

    The first of these that exists is meant; None when nothing is called so. `heard` is what nodes said last that they
    use, `servers` what servers that lend said last.
    """
    said = _Heard(heard, servers or {})
    replica = snapshot.replicas.get(subject)
    if replica is not None:
        return _replica(snapshot, replica, now, said)
    project, slash, name = subject.partition("/")
    deployment = snapshot.deployment_named(*((project, name) if slash else (DEFAULT_PROJECT, subject)))
    if deployment is not None:
        return _deployment(snapshot, deployment, now, said)
    member = snapshot.members.get(subject) or next(
        (found for found in snapshot.members.values() if found.name == subject), None
    )
    if member is not None and member.role is Role.SERVER:
        return _server(snapshot, member, now, said.servers.get(member.id))
    return _member(snapshot, member, now, said) if member is not None else None


# Replicas


def _replica(snapshot: Snapshot, replica: Replica, now: float, heard: _Heard) -> Explanation:
    lines: list[str] = []
    if replica.state is ReplicaState.PENDING:
        lines.append(_why_pending(place(snapshot, now, *heard), replica, snapshot))
    elif replica.reason is not None:
        lines.append(f"{replica.state} because {replica.reason.text}")
    if replica.node_id:
        lines.append(_where(snapshot, replica))
    lines.extend(_observed(replica, now))
    if replica.node_id and not replica.ended:
        lines.extend(_why_there(snapshot, replica, now, heard))
    if replica.move is not None and not replica.ended:
        lines.append(_moving(replica, now))
    if replica.replaces and not replica.ended:
        lines.append(f"takes over from {replica.replaces} once it is healthy")
    lines.append(f"{replica.state} for {format_duration(now - replica.state_since)}, generation {replica.generation}")
    return Explanation(subject=replica.id, state=replica.state, lines=tuple(map(_one_line, lines)))


def _moving(replica: Replica, now: float) -> str:
    """Say why a replica is to move, and for how long it is waited for its replacement."""
    why = replica.move.text if replica.move is not None else ""
    if not replica.move_by:
        return f"moves once its replacement is ready: {why}"
    return f"moves within {format_duration(replica.move_by - now)}, earlier if its replacement is ready: {why}"


def _where(snapshot: Snapshot, replica: Replica) -> str:
    ports = ", ".join(f"{key} on host port {number}" for key, number in sorted(replica.host_ports.items()))
    parts = [f"{'was' if replica.ended else 'is'} on {_node_name(snapshot, replica)}"]
    parts += [f" at {replica.address}"] if replica.address else []
    return "".join([*parts, f", {ports}" if ports else ""])


def _why_there(snapshot: Snapshot, replica: Replica, now: float, heard: _Heard) -> list[str]:
    """Say which nodes could hold the replica: its own is one of them as long as nothing has changed."""
    template = snapshot.templates.get(replica.template_id)
    if template is None:
        return []
    found = judge(snapshot, replica, template, *heard, now)
    policy = template.placement
    spread = " over ".join(["spread", ", ".join(policy.spread_by)]) if policy.spread_by else policy.strategy
    lines = [f"placed by {spread}; {found.eligible} of {_count(found.nodes, 'node')} could hold it now"]
    return [*lines, f"the others: {found.text()}"] if found.misses else lines


def _why_pending(placement: Placement, replica: Replica, snapshot: Snapshot) -> str:
    for binding in placement.bindings:
        if binding.replica_id == replica.id:
            return f"waits to be given to {snapshot.members[binding.node_id].name}, which has room"
    for rejection in placement.rejections:
        if rejection.template_id == replica.template_id:
            return f"pending: {rejection.reason.text}"
    return "pending"


def _observed(replica: Replica, now: float) -> list[str]:
    """Say what the agent last told of it."""
    seen = replica.observed
    if seen is None:
        return ["its node has not said anything about it yet"] if replica.node_id and not replica.ended else []
    parts = [f"its node says: {seen.activity}"]
    if seen.activity is Activity.RUNNING:
        parts.append(f"health {seen.health}")
    if seen.restarts:
        parts.append(_count(seen.restarts, "restart"))
    if seen.exit_code is not None:
        parts.append(f"last exit code {seen.exit_code}")
    text = ", ".join(parts) + (f" - {seen.message}" if seen.message else "")
    return [f"{text} ({format_duration(now - seen.at)} ago)"]


# Deployments


def _deployment(snapshot: Snapshot, deployment: Deployment, now: float, heard: _Heard) -> Explanation:
    view = whole_view(snapshot, deployment)
    replicas = sorted(snapshot.replicas_by_deployment.get(deployment.id, ()), key=lambda found: (found.slot, found.id))
    counts = view.counts
    lines = [view.reason] if view.reason else []
    lines.append(f"{counts.wanted} wanted: {counts.healthy} healthy, {counts.running} running, {counts.placed} placed, "
                 f"{counts.pending} pending, {counts.leaving} leaving, {counts.failed} failed")  # fmt: skip
    lines.extend(shares_explained(snapshot, deployment, now))
    lines.extend(_pending_lines(snapshot, replicas, now, heard))
    lines.extend(_grouped((found for found in replicas if found.state in _GONE), _end))
    lines.extend(_grouped((found for found in replicas if _unwell(found)), lambda found: _trouble(snapshot, found)))
    lines.extend(_grouped((found for found in replicas if found.state in _GOING), _leaving))
    held = Counter(_node_name(snapshot, found) for found in replicas if found.node_id and not found.ended)
    if held:
        lines.append(f"on {_listed([f'{name} ({count})' for name, count in sorted(held.items())])}")
    lines.append(f"generation {deployment.generation} of {deployment.spec.container.image}")
    return Explanation(subject=deployment.path, state=view.state, lines=tuple(map(_one_line, lines)))


def _pending_lines(snapshot: Snapshot, replicas: Sequence[Replica], now: float, heard: _Heard) -> list[str]:
    """Ask placement about what is pending: a reason a template, and what only waits for its turn."""
    pending = {found.id: found for found in replicas if found.state is ReplicaState.PENDING}
    if not pending:
        return []
    placement = place(snapshot, now, *heard)
    templates = {found.template_id for found in pending.values()}
    lines = [
        f"{_count(rejection.count, 'replica')} pending: {rejection.reason.text}"
        for rejection in placement.rejections
        if rejection.template_id in templates
    ]
    soon = sum(binding.replica_id in pending for binding in placement.bindings)
    if soon:
        lines.append(f"{_count(soon, 'replica')} pending: there is room, placed at the next turn")
    return lines


def _end(replica: Replica) -> str:
    seen = replica.observed
    why = replica.reason.text if replica.reason is not None else "no reason was given"
    code = f" (exit code {seen.exit_code})" if seen is not None and seen.exit_code is not None else ""
    told = f" - {seen.message}" if seen is not None and seen.message and seen.message not in why else ""
    return f"{replica.state}: {why}{code}{told}"


def _leaving(replica: Replica) -> str:
    return f"{replica.state}: {replica.reason.text if replica.reason is not None else 'no reason was given'}"


def _unwell(replica: Replica) -> bool:
    """Say whether a living replica restarts, fails its probes, or has not got so far."""
    seen = replica.observed
    if replica.state not in (ReplicaState.PLACED, ReplicaState.RUNNING):
        return False
    return not replica.healthy or (seen is not None and seen.restarts > 0)


def _trouble(snapshot: Snapshot, replica: Replica) -> str:
    seen = replica.observed
    where = _node_name(snapshot, replica)
    if seen is None:
        return f"not started yet on {where}"
    health = "health not known" if seen.health is Health.UNKNOWN else seen.health
    parts = [f"{seen.activity}, {health}" if seen.activity is Activity.RUNNING else str(seen.activity)]
    if seen.restarts:
        parts.append(_count(seen.restarts, "restart"))
    if seen.exit_code is not None:
        parts.append(f"last exit code {seen.exit_code}")
    return f"{', '.join(parts)} on {where}" + (f" - {seen.message}" if seen.message else "")


# Members


def _member(snapshot: Snapshot, member: Member, now: float, heard: _Heard) -> Explanation:
    held = snapshot.replicas_by_node.get(member.id, [])
    since = format_duration(now - member.state_since)
    lines = [f"{member.state} for {since}" + (f": {member.state_reason}" if member.state_reason else "")]
    if member.role is Role.NODE:
        lines.extend(_scheduling(snapshot, member, held, now, heard))
        vm = snapshot.vms_by_node.get(member.id)
        report = report_of(heard.servers, vm)
        cpus, memory = free_room(member, held, snapshot.templates, vm, report)
        whole = capacity_of(member, vm, report)
        lines.append(f"free: {processors(cpus)} of {processors(whole.cpus)} CPUs, "
                     f"{format_bytes(memory)} of {format_bytes(whole.memory)} memory")  # fmt: skip
        if vm is not None:
            lines.append(_lent(snapshot, vm, now, heard.servers))
        by_deployment = Counter(f"{found.project}/{found.deployment}" for found in held)
        counted = [f"{path} ({count})" for path, count in sorted(by_deployment.items())]
        lines.append(f"holds {_count(len(held), 'replica')}" + (f": {_listed(counted)}" if counted else ""))
    if member.role is Role.CLUSTER:
        lines.extend(cluster_explained(snapshot, member))
    labels = ",".join(f"{key}={value}" for key, value in sorted(member.labels.items()))
    lines.append(
        f"{member.role} at {member.lease.address or 'no address yet'}" + (f", labels {labels}" if labels else "")
    )
    return Explanation(subject=member.name, state=member.state, lines=tuple(map(_one_line, lines)))


def _lent(snapshot: Snapshot, vm: Vm, now: float, servers: HeardServers) -> str:
    """Say which server's capacity a node is on, and how much of that is left."""
    found = Lenders(snapshot, servers, now).standing(vm.server_id)
    where = f"on lent capacity: virtual machine {vm.name} on server {found.name}"
    if found.kind:
        return f"{where}, which takes nothing more: {found.text}"
    return (
        f"{where}, which takes {processors(max(found.cpus.free, 0))} CPUs and "
        f"{format_bytes(max(found.memory.free, 0))} of memory more, on all its virtual machines together"
    )


def _server(snapshot: Snapshot, server: Member, now: float, heard: HeardServer | None) -> Explanation:
    since = format_duration(now - server.state_since)
    lines = [f"{server.state} for {since}" + (f": {server.state_reason}" if server.state_reason else "")]
    lines.extend(server_explained(snapshot, server, heard, now))
    return Explanation(subject=server.name, state=server.state, lines=tuple(map(_one_line, lines)))


def _scheduling(snapshot: Snapshot, member: Member, held: Sequence[Replica], now: float, heard: _Heard) -> list[str]:
    """Say whether it gets new replicas, and, when it is being drained, what is still in the way."""
    if member.scheduling is Scheduling.CORDONED:
        return ["cordoned by an operator: it keeps what it has and gets nothing new"]
    if member.scheduling is Scheduling.ACTIVE:
        if member.state is MemberState.READY:
            return ["it may get new replicas"]
        return [f"it gets no new replicas while it is {member.state}"]
    if not held:
        return ["drained: nothing is left on it"]
    replacements = {found.replaces: found for found in snapshot.replicas.values() if found.replaces and not found.ended}
    placement = (
        place(snapshot, now, *heard) if any(not found.node_id for found in replacements.values()) else Placement()
    )
    first = sorted(held, key=lambda found: found.id)[:_MOST]
    more = [f"and {len(held) - _MOST} more"] if len(held) > _MOST else []
    return [
        f"draining: {_count(len(held), 'replica')} still here",
        *(f"{found.id}: {_blocker(snapshot, placement, found, replacements.get(found.id), now)}" for found in first),
        *more,
    ]


def _blocker(
    snapshot: Snapshot, placement: Placement, replica: Replica, replacement: Replica | None, now: float
) -> str:
    """Say what keeps a replica on a node that is being drained."""
    if replica.state in _GOING:
        return f"{replica.state} for {format_duration(now - replica.state_since)}"
    if replacement is None:
        return "has no replacement yet"
    if replacement.state is ReplicaState.PENDING:
        return f"its replacement {replacement.id} {_why_pending(placement, replacement, snapshot)}"
    if replacement.healthy:
        return f"{replacement.id} on {_node_name(snapshot, replacement)} takes over now"
    return f"its replacement {replacement.id} is {_trouble(snapshot, replacement)}"


# Words


def _grouped(replicas: Iterable[Replica], say: Callable[[Replica], str]) -> list[str]:
    """Say the same of many replicas once, the most frequent first."""
    by_text: dict[str, list[str]] = {}
    for replica in replicas:
        by_text.setdefault(say(replica), []).append(replica.id)
    ordered = sorted(by_text.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = [f"{ids[0] if len(ids) == 1 else _count(len(ids), 'replica')} {text}" for text, ids in ordered[:_MOST]]
    rest = sum(len(ids) for _, ids in ordered[_MOST:])
    return [*lines, f"and {_count(rest, 'replica')} more"] if rest else lines


def _node_name(snapshot: Snapshot, replica: Replica) -> str:
    node = snapshot.members.get(replica.node_id)
    return node.name if node is not None else f"{replica.node_id} (removed)"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:_MOST]) + (f" and {len(parts) - _MOST} more" if len(parts) > _MOST else "")


def _one_line(text: str) -> str:
    """Keep what agents and engines tell to one line of bearable length."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
