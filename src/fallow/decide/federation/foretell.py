"""What would become of divisions, if: the same `divide_all` on a snapshot that is changed as the question says.

Nothing is done. What is foretold holds for what clusters say now.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from fallow.decide.federation.division import Target, divide_all
from fallow.decide.federation.founding import keyless
from fallow.decide.federation.room_answers import answers_to, summary_of
from fallow.decide.federation.shapes import divided, questions
from fallow.decide.federation.table import WAIT_SECONDS
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.placement.request import reservation
from fallow.decide.placement.result import Foretold
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.clusters import HERE_ID
from fallow.model.deployments import Deployment, DeploymentSpec
from fallow.model.members import MemberState, Scheduling
from fallow.model.rooms import MOST, Room, RoomAnswer, RoomQuestion, RoomSummary
from fallow.model.shares import PlanRequest, PlanResult, ShareChange

NEW_NAME = "new"
_NEW_ID = "foretold:"  # no stored id contains a colon
_REASONS = 20  # that are told


def plan(
    snapshot: Snapshot,
    request: PlanRequest,
    now: float,
    heard: Heard | None = None,
    servers: HeardServers | None = None,
) -> PlanResult:
    """Return which replicas would move where. `request.cluster` is a cluster's id, or the name of one to be added.

    Where there is no cluster yet, the room on this control plane's own nodes is counted by what those (`heard`) and
    the servers that lend (`servers`) said last; clusters have counted their own.
    """
    snapshot = snapshot if snapshot.clusters else _founded(snapshot, now, heard or {}, servers or {})
    before = divide_all(snapshot, now)
    if request.what == "add":
        after_all = _added(snapshot, request, now)
        restless = {found.id for found in divided(snapshot) if found.spec.clusters.rebalance is not None}
        return _result(after_all, before, divide_all(after_all, now, restless), "")
    cluster = snapshot.clusters[request.cluster]
    lost = request.what == "cluster-loss"
    changed = msgspec.structs.replace(
        cluster,
        state=MemberState.DEAD if lost else cluster.state,
        scheduling=cluster.scheduling if lost else Scheduling.DRAINING,
    )
    after_all = _with(snapshot, members={**snapshot.members, cluster.id: changed})
    cause = f"{cluster.name} is {'lost' if lost else 'drained'}"
    return _result(after_all, before, divide_all(after_all, now), cause)


def foretell_shares(
    snapshot: Snapshot, project: str, wishes: Sequence[tuple[str, DeploymentSpec]], now: float
) -> Mapping[str, Foretold]:
    """Return, by deployment name, which clusters would run how many of its replicas once the wishes were stored.

    Clusters have not been asked about what nobody has deployed yet: they are judged by what they have free in all.
    """
    deployments = dict(snapshot.deployments)
    ids = {}
    for name, spec in wishes:
        before = snapshot.deployment_named(project, name)
        ids[name] = before.id if before is not None else f"{_NEW_ID}{name}"
        deployments[ids[name]] = (
            msgspec.structs.replace(before, spec=spec)
            if before is not None
            else Deployment(id=ids[name], created_at=now, updated_at=now, project=project, name=name, spec=spec)
        )
    targets = divide_all(_with(snapshot, deployments=deployments), now + WAIT_SECONDS)
    return {name: _foretold(snapshot, targets[id_]) for name, id_ in ids.items() if id_ in targets}


def _foretold(snapshot: Snapshot, target: Target) -> Foretold:
    return Foretold(
        placements={snapshot.members[id_].name: count for id_, count in sorted(target.shares.items())},
        unplaced=target.unplaced,
        reasons=(target.unplaced_reason,) if target.unplaced else (),
    )


def _result(snapshot: Snapshot, before: Mapping[str, Target], after: Mapping[str, Target], cause: str) -> PlanResult:
    """Return the differences; `cause` is why replicas leave, where it is the same for all."""
    changes: list[ShareChange] = []
    unplaced: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for deployment in sorted(divided(snapshot), key=lambda found: found.path):
        new = after.get(deployment.id)
        if new is None:
            continue
        changes.extend(_changes(snapshot, deployment, before.get(deployment.id, Target()), new, cause))
        if new.unplaced:
            unplaced[deployment.path] = new.unplaced
            reasons.setdefault(new.unplaced_reason, deployment.path)
    told = [f"{path}: {reason}" for reason, path in list(reasons.items())[:_REASONS]]
    return PlanResult(
        changes=tuple(changes),
        moved=sum(max(change.after - change.before, 0) for change in changes),
        unplaced=unplaced,
        reasons=tuple(told),
    )


def _changes(
    snapshot: Snapshot, deployment: Deployment, before: Target, after: Target, cause: str
) -> Sequence[ShareChange]:
    """Return one deployment's changes, clusters by name."""
    names = {id_: snapshot.clusters[id_].name for id_ in {*before.shares, *after.shares} if id_ in snapshot.clusters}
    return [
        ShareChange(
            deployment=deployment.path,
            cluster=name,
            before=before.shares.get(id_, 0),
            after=after.shares.get(id_, 0),
            why=cause if cause and after.shares.get(id_, 0) < before.shares.get(id_, 0) else after.rules.get(id_, ""),
        )
        for id_, name in sorted(names.items(), key=lambda item: item[1])
        if before.shares.get(id_, 0) != after.shares.get(id_, 0)
    ]


def _with(snapshot: Snapshot, **changes: Any) -> Snapshot:
    """Return a snapshot that differs in some kinds of records, and whose indexes are made anew."""
    return replace(snapshot, **changes)


# A cluster that is not there yet


def _founded(snapshot: Snapshot, now: float, heard: Heard, servers: HeardServers) -> Snapshot:
    """Return the snapshot with this control plane's own nodes as a cluster, as with the first one that joins."""
    known = _with(snapshot, members={**snapshot.members, HERE_ID: keyless(HERE_ID, HERE_ID, now)})
    answers = {each.key: each for each in answers_to(snapshot, questions(known), heard, servers, now)}
    here = _room(HERE_ID, answers, summary_of(snapshot, servers, now), now)
    return _with(known, rooms={**snapshot.rooms, HERE_ID: here})


def _added(snapshot: Snapshot, request: PlanRequest, now: float) -> Snapshot:
    """Return the snapshot with one more cluster."""
    name = request.cluster or NEW_NAME
    new = msgspec.structs.replace(keyless(_NEW_ID, name, now), labels=request.labels)
    answers = {each.key: RoomAnswer(key=each.key, more=_fits(each, request)) for each in questions(snapshot)}
    room = _room(_NEW_ID, answers, RoomSummary(nodes=request.nodes), now)
    return _with(snapshot, members={**snapshot.members, _NEW_ID: new}, rooms={**snapshot.rooms, _NEW_ID: room})


def _fits(asked: RoomQuestion, request: PlanRequest) -> int:
    """Return how many of a shape fit on empty nodes; those are taken to have the labels that nodes are chosen by."""
    cpus, memory = reservation(asked.resources)
    node_cpus, _ = reservation(msgspec.structs.replace(asked.resources, cpus=request.cpus))
    bounds = [MOST]
    if cpus:
        bounds.append(node_cpus // cpus)
    if memory and request.memory_bytes:
        bounds.append(request.memory_bytes // memory)
    if any(port.host for port in asked.ports):
        bounds.append(1)
    if asked.placement.max_per_node:
        bounds.append(asked.placement.max_per_node)
    return min(min(bounds) * request.nodes, MOST)


def _room(id_: str, answers: dict[str, RoomAnswer], summary: RoomSummary, now: float) -> Room:
    return Room(id=id_, created_at=now, updated_at=now, answers=answers, summary=summary)
