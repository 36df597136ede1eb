"""Clusters, and deployments over all clusters, as people see them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from fallow.decide.federation.candidates import Use, candidates
from fallow.decide.federation.causes import listed
from fallow.decide.federation.migrate import held
from fallow.decide.federation.reach import only_unreached, unreached_text
from fallow.decide.federation.shapes import question_of
from fallow.decide.snapshot import Snapshot
from fallow.decide.views import deployment_view
from fallow.model.clusters import HERE_ID, ClusterView
from fallow.model.deployments import Counts, Deployment, DeploymentView
from fallow.model.divisions import Division, DivisionView
from fallow.model.members import Member, MemberState, MemberView, Scheduling, Thresholds
from fallow.model.shares import Share, ShareReport, ShareView

MOST_STUCK = 20  # deployments that are named
_NOTHING = ShareReport(deployment_id="")  # what a cluster says that has said nothing yet
_SILENT = ShareReport(deployment_id="", reason="nothing is heard of the cluster")
# A deployment is as its worst share is; the first of these is the worst.
_WORST_FIRST = ("degraded", "refused", "fenced", "paused", "rolling-back", "updating", "waiting")
_BAD = ("degraded", "refused", "fenced")
_WELL = ("", "serving", "stopped", "deleting")


def whole_view(snapshot: Snapshot, deployment: Deployment) -> DeploymentView:
    """Return a deployment as it is in all clusters together; one that is not divided, as it is here."""
    shares = snapshot.shares_by_deployment.get(deployment.id, ())
    if not shares and (deployment.share is None or deployment.origin is not None):
        return deployment_view(snapshot, deployment)
    local = deployment_view(snapshot, deployment)
    counts = _counts(snapshot, deployment, shares, local)
    state, reason = _state(snapshot, deployment, shares, counts)
    updated = sum(told.updated for _, told in _heard(snapshot, shares) if deployment.wants(told.generation))
    return msgspec.structs.replace(local, counts=counts, state=state, reason=reason, updated=updated)


def _said(cluster: Member | None, share: Share | None) -> ShareReport | None:
    """Return what a cluster says of its share; None: it is not alive, and what it said last counts for nothing."""
    if cluster is None or cluster.state not in (MemberState.READY, MemberState.SUSPECT):
        return None
    return share.reported if share is not None and share.reported is not None else _NOTHING


def _heard(snapshot: Snapshot, shares: Iterable[Share]) -> Iterator[tuple[Share, ShareReport]]:
    """Yield the shares of clusters that are alive, and what those say of them."""
    for share in shares:
        if (told := _said(snapshot.clusters.get(share.cluster_id), share)) is not None:
            yield share, told


def _counts(snapshot: Snapshot, deployment: Deployment, shares: Iterable[Share], local: DeploymentView) -> Counts:
    told = [report for _, report in _heard(snapshot, shares)]
    wanted = 0 if deployment.deleting else _wanted(snapshot, deployment)
    placed = sum(each.placed for each in told)
    running = sum(each.running for each in told)
    return Counts(
        wanted=wanted,
        healthy=sum(each.ready for each in told),
        running=running,
        placed=max(0, placed - running),
        pending=max(0, wanted - placed),
        leaving=sum(max(len(each.leaving), each.remaining - each.placed) for each in told),
        failed=local.counts.failed,
    )


def _wanted(snapshot: Snapshot, deployment: Deployment) -> int:
    """Return how many replicas there should be: the total, or that in each of several clusters."""
    division = snapshot.divisions.get(deployment.id)
    total = deployment.spec.replicas
    if deployment.spec.clusters.divide != "duplicate" or division is None:
        return total
    return max(total, sum(division.shares.values()) + division.unplaced)


def _state(snapshot: Snapshot, deployment: Deployment, shares: Sequence[Share], counts: Counts) -> tuple[str, str]:
    """Return one word for how a deployment is in all clusters, and why it is not serving."""
    if deployment.deleting:
        left = sum(told.remaining for _, told in _heard(snapshot, shares))
        return "deleting", f"{left} replicas have not stopped yet"
    if deployment.spec.replicas == 0:
        return "stopped", "no replicas are wanted"
    enough = counts.healthy >= counts.wanted
    trouble = _trouble(snapshot, deployment, shares, enough)
    if trouble is not None or enough:
        return trouble or ("serving", "")
    text = f"{counts.healthy} of {counts.wanted} replicas are healthy"
    division = snapshot.divisions.get(deployment.id)
    if division is not None and division.unplaced:
        text += f"; {division.unplaced} have no place: {division.unplaced_reason}"
    return "waiting", text


def _trouble(
    snapshot: Snapshot, deployment: Deployment, shares: Iterable[Share], enough: bool
) -> tuple[str, str] | None:
    """Return the worst that a cluster says of its share; that some are yet to come is nothing while enough serve."""
    found: dict[str, str] = {}
    behind = []
    for share, told in _heard(snapshot, shares):
        if told is _NOTHING or not share.replicas:
            continue
        name = snapshot.clusters[share.cluster_id].name
        if not deployment.wants(told.generation):
            behind.append(name)
        elif told.state not in _WELL:
            found.setdefault(told.state, f"{name}: {told.reason or told.state}")
    if behind:
        text = f"not begun with generation {deployment.generation}: {', '.join(sorted(behind))}"
        found.setdefault("updating", text)
    for state in _WORST_FIRST:
        if state in found and not (state == "waiting" and enough):
            return "degraded" if state in _BAD else state, found[state]
    return None


def division_view(snapshot: Snapshot, deployment: Deployment) -> DivisionView:
    """Return how a deployment is divided, what became of it in each cluster, and how it came to be."""
    division = snapshot.divisions.get(deployment.id)
    targets: Mapping[str, int] = division.shares if division is not None else {}
    shares = {share.cluster_id: share for share in snapshot.shares_by_deployment.get(deployment.id, ())}
    heard = list(_heard(snapshot, shares.values()))
    views = [
        _share_view(snapshot, id_, targets.get(id_, 0), shares.get(id_), division)
        for id_ in dict.fromkeys((*targets, *shares))
    ]
    return DivisionView(
        deployment=deployment.path,
        total=deployment.spec.replicas,
        ready=sum(told.ready for _, told in heard),
        placed=sum(told.placed for _, told in heard),
        moving=sum(max(0, held(share) - targets.get(share.cluster_id, 0)) for share, _ in heard),
        unplaced=division.unplaced if division is not None else 0,
        unplaced_reason=division.unplaced_reason if division is not None else "",
        shares=tuple(sorted(views, key=lambda view: view.cluster)),
        history=division.history if division is not None else (),
    )


def _share_view(
    snapshot: Snapshot, cluster_id: str, target: int, share: Share | None, division: Division | None
) -> ShareView:
    cluster = snapshot.clusters.get(cluster_id)
    told = _said(cluster, share) or _SILENT
    return ShareView(
        cluster=cluster.name if cluster is not None else cluster_id,
        here=cluster_id == HERE_ID,
        cluster_state=standing(cluster) if cluster is not None else "removed",
        target=target,
        replicas=share.replicas if share is not None else 0,
        placed=told.placed,
        ready=told.ready,
        updated=told.updated,
        state=told.state,
        reason=told.reason,
        rule=division.rules.get(cluster_id, "") if division is not None else "",
        reported_at=share.reported_at if share is not None else 0.0,
    )


def standing(cluster: Member) -> str:
    """Return how a cluster is, in one word: its state, unless it is well and an operator wants something of it."""
    ready = cluster.state is MemberState.READY
    return str(cluster.scheduling if ready and cluster.scheduling is not Scheduling.ACTIVE else cluster.state)


def cluster_views(snapshot: Snapshot, members: Iterable[MemberView], thresholds: Thresholds) -> tuple[ClusterView, ...]:
    """Return clusters with what they run and what is on the move, those given, by name.

    `thresholds` are those of clusters that have none of their own.
    """
    chosen = {view.id: view for view in members}
    shares = snapshot.shares_by_cluster
    wanted = dict.fromkeys(chosen, 0)
    for division in snapshot.divisions.values():
        for id_ in chosen.keys() & division.shares.keys():
            wanted[id_] += division.shares[id_]
    found = []
    full_for = _full_for(snapshot)
    for id_, member in chosen.items():
        view = _cluster_view(snapshot, member, shares.get(id_, ()), wanted[id_])
        own = None if view.here else view.member.thresholds or thresholds
        found.append(msgspec.structs.replace(view, thresholds=own, full_for=tuple(full_for.get(id_, ())[:MOST_STUCK])))
    return tuple(sorted(found, key=lambda view: view.member.name))


def _full_for(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return, by cluster, the deployments that have replicas without a place, may use it, and find no room there."""
    found: dict[str, list[str]] = {}
    clusters = tuple(snapshot.clusters.values())
    for division in snapshot.divisions.values():
        deployment = snapshot.deployments.get(division.deployment_id)
        if not division.unplaced or deployment is None or deployment.deleting:
            continue
        key = question_of(deployment).key
        judged = candidates(deployment.spec.clusters, clusters, snapshot.label_sets)
        for cluster, candidate in zip(clusters, judged, strict=True):
            room = snapshot.rooms.get(cluster.id)
            answer = room.answers.get(key) if room is not None else None
            if candidate.use is Use.OPEN and answer is not None and not answer.more:
                found.setdefault(cluster.id, []).append(deployment.path)
    return {id_: sorted(paths) for id_, paths in found.items()}


def _cluster_view(snapshot: Snapshot, member: MemberView, shares: Sequence[Share], wanted: int) -> ClusterView:
    room = snapshot.rooms.get(member.id)
    here = member.id == HERE_ID
    if here:
        member = msgspec.structs.replace(member, connected=True)
    cluster = snapshot.clusters.get(member.id)
    told = [(share, _said(cluster, share) or _NOTHING, _target(snapshot, share)) for share in shares]
    return ClusterView(
        member=member,
        here=here,
        nodes=room.summary.nodes if room is not None else 0,
        cpus=room.summary.cpus if room is not None else 0.0,
        free_cpus=room.summary.free_cpus if room is not None else 0.0,
        memory_bytes=room.summary.memory_bytes if room is not None else 0,
        free_memory_bytes=room.summary.free_memory_bytes if room is not None else 0,
        wanted=wanted,
        running=sum(report.running for _, report, _ in told),
        ready=sum(report.ready for _, report, _ in told),
        moving_in=sum(max(0, min(share.replicas, target) - report.ready) for share, report, target in told),
        moving_out=sum(max(0, held(share) - _target(snapshot, share)) for share, _ in _heard(snapshot, shares)),
        left=sum(max(held(share), report.remaining) for share, report, _ in told),
        stuck=stuck(snapshot, shares) if member.scheduling is Scheduling.DRAINING else (),
        unreached=unreached_text(cluster) if cluster is not None else "",
    )


def _target(snapshot: Snapshot, share: Share) -> int:
    division = snapshot.divisions.get(share.deployment_id)
    return division.shares.get(share.cluster_id, 0) if division is not None else 0


def stuck(snapshot: Snapshot, shares: Iterable[Share]) -> tuple[str, ...]:
    """Return, of a cluster's shares, which replicas cannot leave it yet, and why."""
    found = []
    for share in shares:
        deployment = snapshot.deployments.get(share.deployment_id)
        excess = held(share) - _target(snapshot, share)
        if excess <= 0 or deployment is None:
            continue
        division = snapshot.divisions.get(share.deployment_id)
        if division is not None and division.unplaced:
            found.append(
                f"{deployment.path}: {min(excess, division.unplaced)} have no place: {division.unplaced_reason}"
            )
        else:
            found.append(f"{deployment.path}: {excess} wait for replacements: {_awaited(snapshot, share)}")
    found.sort()
    more = [f"and {len(found) - MOST_STUCK} more deployments"] if len(found) > MOST_STUCK else []
    return (*found[:MOST_STUCK], *more)


def _awaited(snapshot: Snapshot, leaving: Share) -> str:
    """Say where replacements are not ready yet, and what is said of it there."""
    late: dict[str, int] = {}
    why = ""
    for share in snapshot.shares_by_deployment.get(leaving.deployment_id, ()):
        cluster = snapshot.clusters.get(share.cluster_id)
        told = _said(cluster, share) or _NOTHING
        missing = min(share.replicas, _target(snapshot, share)) - told.ready
        if share is leaving or cluster is None or missing <= 0:
            continue
        late[cluster.name] = missing
        why = why or told.reason
    if not late:
        deployment = snapshot.deployments.get(leaving.deployment_id)
        division = snapshot.divisions.get(leaving.deployment_id)
        if deployment is not None and division is not None and only_unreached(snapshot, deployment, division.shares):
            return "they are ready, but no gateway here reaches them"
        return "they are ready, and take over"
    return f"not ready yet in {listed(late)}" + (f": {why}" if why else "")
