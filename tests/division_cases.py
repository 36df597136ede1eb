"""Short ways to make clusters, rooms and divisions for tests of how totals are divided."""

from collections.abc import Mapping
from typing import Any

import msgspec
from records import NOW, deployment, member, snapshot

from fallow.decide.federation.division import Target, divide_all
from fallow.decide.federation.shapes import question_of
from fallow.decide.selectors import parse_selector
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import ClusterPolicy
from fallow.model.containers import Resources
from fallow.model.deployments import Deployment
from fallow.model.divisions import Division
from fallow.model.labels import Selector
from fallow.model.members import Member, Role
from fallow.model.meta import Record
from fallow.model.rooms import Room, RoomAnswer, RoomSummary
from fallow.model.shares import Share, ShareReport

LATER = NOW + 60  # when nobody waits for answers any more


def where(text: str) -> Selector:
    return parse_selector(text)


def cluster(name: str, **changes: Any) -> Member:
    return member(name, **({"id": f"c-{name}", "role": Role.CLUSTER} | changes))


def wish(name: str = "web", replicas: int = 6, cpus: float = 0.0, memory_bytes: int = 0, **policy: Any) -> Deployment:
    """Return a deployment; what is not named here is an argument of its cluster policy."""
    made = deployment(name)
    container = msgspec.structs.replace(made.spec.container, resources=Resources(cpus=cpus, memory_bytes=memory_bytes))
    spec = msgspec.structs.replace(made.spec, replicas=replicas, container=container, clusters=ClusterPolicy(**policy))
    return msgspec.structs.replace(made, spec=spec)


def with_spec(of: Deployment, **changes: Any) -> Deployment:
    return msgspec.structs.replace(of, spec=msgspec.structs.replace(of.spec, **changes))


def room(of: str, *answers: tuple[Deployment, int], **changes: Any) -> Room:
    """Return what the cluster called `of` answers: how many more of each deployment's shape fit."""
    return room_by_key(of, {question_of(found).key: more for found, more in answers}, **changes)


def room_by_key(of: str, answers: Mapping[str, int], why: str = "", **changes: Any) -> Room:
    made = {key: RoomAnswer(key=key, more=more, why=why) for key, more in answers.items()}
    values: dict[str, Any] = {"created_at": NOW, "updated_at": NOW, "answers": made, "summary": RoomSummary(nodes=3)}
    return Room(id=f"c-{of}", **(values | changes))


def share(of: Deployment, at: str, replicas: int, placed: int | None = None, **changes: Any) -> Share:
    """Return a share that its cluster has taken in; `placed` None: all of it."""
    count = replicas if placed is None else placed
    values: dict[str, Any] = {
        "created_at": NOW, "updated_at": NOW, "revision": 1, "deployment_id": of.id, "cluster_id": f"c-{at}",
        "replicas": replicas, "order": 1, "least": replicas,
        "reported": ShareReport(
            deployment_id=of.id, revision=1, generation=1, replicas=replicas, placed=count, running=count, ready=count
        ),
    }  # fmt: skip
    return Share(id=f"{of.id}.c-{at}", **(values | changes))


def divided(of: Deployment, shares: Mapping[str, int], fingerprint: str, **changes: Any) -> Division:
    return Division(
        id=of.id, created_at=NOW, updated_at=NOW, revision=1, deployment_id=of.id, policy=fingerprint,
        total=sum(shares.values()), shares={f"c-{name}": count for name, count in shares.items()}, **changes,
    )  # fmt: skip


def followed(before: Snapshot, targets: Mapping[str, Target], rooms: Mapping[str, Room] | None = None) -> Snapshot:
    """Return the snapshot once targets are stored, told and taken in; `rooms` are what clusters answer then."""
    records: list[Record] = [*before.members.values(), *before.deployments.values()]
    orders: dict[str, dict[str, int]] = {}
    for id_, target in targets.items():
        records.append(
            Division(
                id=id_, created_at=NOW, updated_at=NOW, revision=1, deployment_id=id_, policy=target.fingerprint,
                total=before.deployments[id_].spec.replicas, shares=target.shares, rules=target.rules,
                unplaced=target.unplaced, unplaced_reason=target.unplaced_reason,
            )
        )  # fmt: skip
        for cluster_id, count in target.shares.items():
            records.append(share(before.deployments[id_], before.members[cluster_id].name, count))
            orders.setdefault(cluster_id, {})[id_] = 1
    for id_, found in (before.rooms if rooms is None else rooms).items():
        records.append(msgspec.structs.replace(found, orders=orders.get(id_, {})))
    return snapshot(*records)


def shares_by_name(target: Target) -> dict[str, int]:
    return {id_.removeprefix("c-"): count for id_, count in sorted(target.shares.items())}


def divide_one(of: Deployment, *records: Record, now: float = LATER) -> dict[str, int]:
    """Return one deployment's shares by the names of clusters."""
    return shares_by_name(divide_all(snapshot(of, *records), now)[of.id])
