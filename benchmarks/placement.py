"""Placement: how many replicas a second, and how much memory it takes.

Peer: the same rules judged node by node in plain Python (`_naive`), on a sample small enough to wait for, in the same
run. JSON to standard output or a file; times are medians of `--runs`, memory is what placement allocates on top of the
snapshot.

    python benchmarks/placement.py [--runs 5] [--large] [--json FILE]

A first replica has nothing to be spread from: what spreading costs shows in the deployments of three and of 1,000.
"""

import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from figures import options_of, write
from machine import describe

from fallow.decide.placement import Binding, fits, place
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import PlacementPolicy, Preference, Replica, Template
from fallow.model.labels import Requirement, Selector
from fallow.model.members import Facts, Lease, Member, MemberState, Role

MIB = 2**20
NAIVE_NODES, NAIVE_REPLICAS = 500, 200
POLICIES = {
    "plain": PlacementPolicy(),
    "zone spread": PlacementPolicy(spread_by=("zone",)),
    "required label": PlacementPolicy(
        selector=Selector(requirements=(Requirement(key="role", operator="in", values=("web",)),))
    ),
    "zone spread and required label": PlacementPolicy(
        selector=Selector(requirements=(Requirement(key="role", operator="in", values=("web",)),)), spread_by=("zone",)
    ),
    "resources": PlacementPolicy(
        resources=Selector(requirements=(Requirement(key="memory.size", operator="ge", values=("32GiB",)),))
    ),
    "resources and preference": PlacementPolicy(
        resources=Selector(requirements=(Requirement(key="memory.size", operator="ge", values=("32GiB",)),)),
        prefer=(Preference(order="most", key="cpu.count"),),
    ),
}


def fleet(count: int) -> dict[str, Member]:
    """Return nodes of 32 processors and 64 GiB in five zones, four of five with the role web."""
    return {
        f"n-{index:06}": Member(
            id=f"n-{index:06}",
            created_at=0.0,
            updated_at=0.0,
            name=f"node-{index}",
            role=Role.NODE,
            labels={"zone": f"zone-{index % 5}", "role": "batch" if index % 5 == index // 5 % 5 else "web"},
            key_sha256="",
            token_id="",
            certificate_expires_at=0.0,
            lease=Lease(address=f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}"),
            facts=Facts(architecture="amd64", cpus=32.0, memory_bytes=65_536 * MIB),
            state=MemberState.READY,
        )
        for index in range(count)
    }


def snapshot(nodes: int, deployments: int, each: int, sizes: int, policy: PlacementPolicy) -> Snapshot:
    """Return a fleet and pending replicas of `deployments` in `sizes` different reservations."""
    templates, replicas = {}, {}
    for number in range(deployments):
        size = number % sizes
        deployment_id = f"d-{number:06}"
        template = Template(
            id=f"{deployment_id}.1",
            created_at=float(number),
            updated_at=float(number),
            deployment_id=deployment_id,
            generation=1,
            container=ContainerSpec(
                image="registry.example/app:1",
                ports=(PortSpec(container=8080),),
                resources=Resources(cpus=0.05 + size % 25 * 0.02, memory_bytes=(32 + size // 25 * 8) * MIB),
            ),
            placement=policy,
        )
        templates[template.id] = template
        for slot in range(each):
            replica_id = f"app-{number}-{slot}"
            replicas[replica_id] = Replica(
                id=replica_id,
                created_at=float(number),
                updated_at=float(number),
                deployment_id=deployment_id,
                project="default",
                deployment=f"app-{number}",
                slot=slot,
                generation=1,
                template_id=template.id,
            )
    return Snapshot(members=fleet(nodes), templates=templates, replicas=replicas)


def measure(make: Callable[[], Snapshot], runs: int) -> dict[str, Any]:
    """Place a fresh snapshot `runs` times for time, and once more for memory."""
    seconds, placed = [], 0
    for _ in range(runs):
        wanted = make()
        gc.collect()
        started = time.perf_counter()
        placement = place(wanted, 0.0)
        seconds.append(time.perf_counter() - started)
        placed = len(placement.bindings)
    wanted = make()
    tracemalloc.start()
    place(wanted, 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    median = statistics.median(seconds)
    return {
        "nodes": len(wanted.members),
        "replicas": len(wanted.replicas),
        "placed": placed,
        "seconds": round(median, 4),
        "slowest_seconds": round(max(seconds), 4),
        "placements_per_second": round(placed / median),
        "peak_memory_bytes": peak,
    }


def _naive(wanted: Snapshot) -> int:
    """Ask every node in turn and take the one with the fewest replicas that fits; return how many were placed."""
    held: dict[str, list[Replica]] = {node_id: [] for node_id in wanted.members}
    wanted.__dict__["replicas_by_node"] = held  # in place of the index, which would be built anew after every binding
    placed = 0
    for replica in wanted.replicas.values():
        best: str | None = None
        for node in wanted.members.values():
            used = {number for other in held[node.id] for number in other.host_ports.values()}
            port = next(number for number in range(20000, 30000) if number not in used)
            binding = Binding(
                replica_id=replica.id, node_id=node.id, address=node.lease.address, host_ports={"8080/tcp": port}
            )
            if fits(wanted, binding) is None and (best is None or len(held[node.id]) < len(held[best])):
                best = node.id
        if best is not None:
            held[best].append(replica)
            placed += 1
    return placed


def compare(policy: PlacementPolicy, runs: int) -> dict[str, Any]:
    """Place the same small sample both ways."""

    def sample() -> Snapshot:
        return snapshot(NAIVE_NODES, NAIVE_REPLICAS, 1, NAIVE_REPLICAS, policy)

    fast = measure(sample, runs)
    wanted = sample()
    started = time.perf_counter()
    placed = _naive(wanted)
    seconds = time.perf_counter() - started
    return {
        "nodes": NAIVE_NODES,
        "replicas": NAIVE_REPLICAS,
        "naive_placements_per_second": round(placed / seconds, 1),
        "placements_per_second": fast["placements_per_second"],
        "ratio": round(seconds / placed * fast["placements_per_second"], 1),
    }


def main(arguments: Sequence[str]) -> None:
    """Run every scenario and print one JSON object."""
    parser = options_of("Measure placement.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--large", action="store_true", help="also 50,000 nodes and 100,000 replicas")
    options = parser.parse_args(arguments)
    shapes = [
        ("ten deployments of 1,000", 5_000, 10, 1_000, 10),
        ("10,000 deployments of one", 5_000, 10_000, 1, 500),
        ("3,333 deployments of three", 5_000, 3_333, 3, 500),
    ]
    if options.large:
        shapes += [
            ("ten deployments of 10,000", 50_000, 10, 10_000, 10),
            ("100,000 deployments of one", 50_000, 100_000, 1, 500),
        ]
    scenarios = []
    for title, nodes, deployments, each, sizes in shapes:
        for rule, policy in POLICIES.items():

            def make(
                nodes: int = nodes, count: int = deployments, each: int = each, sizes: int = sizes,
                policy: PlacementPolicy = policy,
            ) -> Snapshot:  # fmt: skip
                return snapshot(nodes, count, each, sizes, policy)

            result = measure(make, options.runs)
            scenarios.append({"scenario": title, "rules": rule, **result})
            print(f"{title}, {rule}: {result['placements_per_second']:,}/s", file=sys.stderr)
    answer = {
        "benchmark": "placement",
        "machine": describe(),
        "runs": options.runs,
        "scenarios": scenarios,
        "against_naive": compare(POLICIES["plain"], options.runs),
    }
    write(answer, options)


if __name__ == "__main__":
    main(sys.argv[1:])
