"""Division: how long it takes to divide all deployments anew when a cluster is lost.

100 clusters, 10,000 deployments of a few dozen replicas in 500 shapes and mixed policies are divided, told to their
clusters and counted by them until all have their place; then one cluster dies, and `divide_all` runs on that snapshot
as the leader's loop does. Each run begins with a fresh snapshot, so that no index is there already.

Peer: deployments one after the other in plain Python, seat after seat by Webster's method (`_naive`), in the same run:
all of them after the loss, a part of them from nothing. It knows room alone: no policies, bounds, promises or words,
and one shape does not take room from another. Karmada publishes about 22 bindings a second for its scheduler (changelog
of 1.15), estimators and writes included: more than this decision alone.

    python benchmarks/federation_divide.py [--clusters 100] [--deployments 10000] [--runs 5] [--json FILE]
"""

import gc
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from figures import options_of, write
from machine import describe

from fallow.decide.federation.division import Target, divide_all
from fallow.decide.federation.shapes import question_of, questions
from fallow.decide.snapshot import Snapshot
from fallow.model.clusters import ClusterPolicy, ClusterSpread
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import Deployment, DeploymentSpec
from fallow.model.divisions import Division
from fallow.model.labels import Requirement, Selector
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.rooms import Room, RoomAnswer, RoomSummary
from fallow.model.shares import Share, ShareReport, share_id

MIB = 2**20
SHAPES = 500
REGIONS = 5
NODES = 100  # of each cluster
CLUSTER_CPUS, CLUSTER_MEMORY = NODES * 32.0, NODES * 64 * 1024 * MIB
NAIVE = 200  # deployments
NOW = 1_000_000.0


def _region(*names: str) -> Selector:
    return Selector(requirements=(Requirement(key="region", operator="in", values=names),))


POLICIES = (
    ClusterPolicy(),
    ClusterPolicy(where=_region("region-0", "region-1", "region-2")),
    ClusterPolicy(divide="weighted", weights={f"cluster-{index}": 1 + index % 4 for index in range(60)}),
    ClusterPolicy(divide="weighted", where=_region("region-1", "region-3")),
    ClusterPolicy(divide="aggregate"),
    ClusterPolicy(spread=ClusterSpread(label="region", min_groups=3), max={f"cluster-{i}": 5 for i in range(100)}),
    ClusterPolicy(fallback=(_region("region-2"), _region("region-3", "region-4"), Selector())),
    ClusterPolicy(divide="aggregate", spread=ClusterSpread(label="region", min_groups=2)),
)  # fmt: skip


def clusters(count: int) -> dict[str, Member]:
    """Return ready clusters in five regions."""
    return {
        f"c-{index:04}": Member(
            id=f"c-{index:04}", created_at=0.0, updated_at=0.0, name=f"cluster-{index}", role=Role.CLUSTER,
            labels={"region": f"region-{index % REGIONS}"}, key_sha256="", token_id="", certificate_expires_at=0.0,
            lease=Lease(address=""), state=MemberState.READY,
        )
        for index in range(count)
    }  # fmt: skip


def deployments(count: int) -> dict[str, Deployment]:
    """Return deployments of 12 to 48 replicas, in SHAPES different reservations."""
    found = {}
    for number in range(count):
        shape = number % SHAPES
        container = ContainerSpec(
            image="registry.example/app:1",
            ports=(PortSpec(container=8080),),
            resources=Resources(cpus=0.1 + shape % 25 * 0.05, memory_bytes=(128 + shape // 25 * 64) * MIB),
        )
        id_ = f"d-{number:06}"
        found[id_] = Deployment(
            id=id_, created_at=float(number), updated_at=float(number), project="default", name=f"app-{number}",
            spec=DeploymentSpec(
                replicas=12 + number * 7 % 37, container=container, clusters=POLICIES[number % len(POLICIES)]
            ),
        )  # fmt: skip
    return found


def counted(snapshot: Snapshot, targets: Mapping[str, Target]) -> Snapshot:
    """Return the snapshot as it is once targets are stored, told, followed and counted."""
    divisions, shares = {}, {}
    used: dict[str, Counter[str]] = defaultdict(Counter)
    orders: dict[str, dict[str, int]] = defaultdict(dict)
    for id_, target in targets.items():
        divisions[id_] = Division(
            id=id_, created_at=0.0, updated_at=0.0, deployment_id=id_, policy=target.fingerprint,
            total=snapshot.deployments[id_].spec.replicas, shares=target.shares, rules=target.rules,
            unplaced=target.unplaced, unplaced_reason=target.unplaced_reason,
        )  # fmt: skip
        resources = snapshot.deployments[id_].spec.container.resources
        for cluster_id, count in target.shares.items():
            shares[share_id(id_, cluster_id)] = Share(
                id=share_id(id_, cluster_id), created_at=0.0, updated_at=0.0, deployment_id=id_, cluster_id=cluster_id,
                replicas=count, order=1, least=count,
                reported=ShareReport(
                    deployment_id=id_, revision=1, generation=1, replicas=count, placed=count, ready=count
                ),
            )  # fmt: skip
            used[cluster_id]["cpus"] += round(resources.cpus * 1000) * count
            used[cluster_id]["memory"] += resources.memory_bytes * count
            orders[cluster_id][id_] = 1
    rooms = {id_: room(snapshot, id_, used[id_], orders[id_]) for id_ in snapshot.clusters}
    return replace(snapshot, divisions=divisions, shares=shares, rooms=rooms)


def room(snapshot: Snapshot, cluster_id: str, used: Mapping[str, int], orders: dict[str, int]) -> Room:
    """Return what a cluster answers to every question when so many thousandths of processors and bytes are used."""
    cpus, memory = CLUSTER_CPUS - used.get("cpus", 0) / 1000, CLUSTER_MEMORY - used.get("memory", 0)
    answers = {}
    for asked in questions(snapshot):
        more = min(cpus / asked.resources.cpus, memory / asked.resources.memory_bytes)
        answers[asked.key] = RoomAnswer(key=asked.key, more=max(int(more), 0))
    return Room(
        id=cluster_id,
        created_at=0.0,
        updated_at=0.0,
        answers=answers,
        orders=orders,
        summary=RoomSummary(nodes=NODES),
    )


def without(snapshot: Snapshot, cluster_id: str) -> Snapshot:
    """Return a fresh snapshot in which a cluster is dead."""
    dead = msgspec.structs.replace(snapshot.members[cluster_id], state=MemberState.DEAD)
    return replace(snapshot, members={**snapshot.members, cluster_id: dead})


def settled(clusters_count: int, deployments_count: int) -> tuple[Snapshot, list[dict[str, Any]]]:
    """Return a snapshot in which every replica has its place, and how the rounds went until then."""
    now = Snapshot(members=clusters(clusters_count), deployments=deployments(deployments_count))
    now = replace(now, rooms={id_: room(now, id_, {}, {}) for id_ in now.clusters})
    rounds = []
    while True:
        started = time.perf_counter()
        targets = divide_all(now, NOW)
        unplaced = sum(target.unplaced for target in targets.values())
        rounds.append({"seconds": round(time.perf_counter() - started, 3), "unplaced": unplaced})
        print(f"all at once: {rounds[-1]}", file=sys.stderr)
        now = counted(now, targets)
        if not unplaced:
            return now, rounds


def _naive(snapshot: Snapshot, ids: Iterable[str]) -> int:
    """Divide what has no place, deployment after deployment and seat after seat; return how many seats it was."""
    alive = [id_ for id_, found in snapshot.clusters.items() if found.state is MemberState.READY]
    left = {id_: {key: answer.more for key, answer in snapshot.rooms[id_].answers.items()} for id_ in alive}
    seats = 0
    for id_ in ids:
        deployment, division = snapshot.deployments[id_], snapshot.divisions.get(id_)
        key = question_of(deployment).key
        before = division.shares if division is not None else {}
        shares = {cluster_id: before.get(cluster_id, 0) for cluster_id in alive}
        lacking = deployment.spec.replicas - sum(shares.values())
        for _ in range(lacking):
            best, quotient = "", 0.0
            for cluster_id in alive:
                found = (left[cluster_id][key] + shares[cluster_id]) / (2 * shares[cluster_id] + 1)
                if left[cluster_id][key] > 0 and found > quotient:
                    best, quotient = cluster_id, found
            shares[best] += 1
            left[best][key] -= 1
        seats += lacking
    return seats


def naively(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, Any]:
    """Return how long the plain way takes."""
    started = time.perf_counter()
    seats = _naive(snapshot, ids)
    seconds = time.perf_counter() - started
    return {
        "deployments": len(ids),
        "replicas": seats,
        "seconds": round(seconds, 3),
        "deployments_per_second": round(len(ids) / seconds),
    }


def main(arguments: Sequence[str]) -> None:
    """Run the loss of several clusters and print one JSON object."""
    parser = options_of(__doc__)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--deployments", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    before, rounds = settled(options.clusters, options.deployments)
    gc.freeze()  # a leader's records are old: the collector does not look at them for every division
    found = []
    for run in range(options.runs):
        lost = f"c-{(7 + run * 13) % options.clusters:04}"
        now = without(before, lost)
        gc.collect()
        started, spent = time.perf_counter(), time.process_time()
        targets = divide_all(now, NOW)
        found.append((time.perf_counter() - started, time.process_time() - spent))
        print(f"{lost} lost: {found[-1][0]:.2f} s", file=sys.stderr)
    given = sum(division.shares.get(lost, 0) for division in before.divisions.values())
    came = sum(
        max(count - before.divisions[id_].shares.get(cluster_id, 0), 0)
        for id_, target in targets.items()
        for cluster_id, count in target.shares.items()
    )
    ids = list(before.deployments)
    empty = replace(before, divisions={}, rooms={id_: room(before, id_, {}, {}) for id_ in before.clusters})
    naive = {"one_cluster_lost": naively(now, ids), "all_at_once": naively(empty, ids[:NAIVE])}
    median = statistics.median(seconds for seconds, _ in found)
    write(
        {
            "benchmark": "federation_divide",
            "machine": describe(),
            "clusters": options.clusters,
            "deployments": options.deployments,
            "shapes": SHAPES,
            "replicas": sum(division.total for division in before.divisions.values()),
            "shares": len(before.shares),
            "all_at_once": rounds,
            "one_cluster_lost": {
                "seconds": round(median, 3),
                "slowest_seconds": round(max(seconds for seconds, _ in found), 3),
                "processor_seconds": round(statistics.median(spent for _, spent in found), 3),
                "replicas_lost": given,
                "replicas_moved": came,
                "unplaced": sum(target.unplaced for target in targets.values()),
                "deployments_per_second": round(options.deployments / median),
            },
            "naive": naive,
        },
        options,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
