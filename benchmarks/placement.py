"""Placement: how many replicas a second, and how much memory it takes.

Peer: the same rules judged node by node in plain Python (`_naive`), on a sample small enough to wait for, in the same
run. JSON to standard output or a file; times are medians of `--runs`, memory is what placement allocates on top of the
snapshot.

    python benchmarks/placement.py [--runs 5] [--large] [--json FILE]

A first replica has nothing to be spread from: what spreading costs shows in the deployments of three and of 1,000.

Lent capacity: the same nodes as virtual machines, four on each server, beside what they cost when they are not lent;
re-checks of single bindings; and one look of the loop that moves replicas away, at a fleet that needs nothing back.
"""

import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from figures import options_of, write
from machine import describe

from fallow.decide.harvest.evict import evict
from fallow.decide.harvest.heard import HeardServer
from fallow.decide.placement import Binding, fits, place
from fallow.decide.snapshot import Snapshot
from fallow.model.containers import ContainerSpec, PortSpec, Resources
from fallow.model.deployments import PlacementPolicy, Preference, Replica, ReplicaState, Template
from fallow.model.labels import Requirement, Selector
from fallow.model.members import Facts, Lease, Member, MemberState, Role
from fallow.model.servers import ServerReport
from fallow.model.vms import Vm

MIB = 2**20
NAIVE_NODES, NAIVE_REPLICAS = 500, 200
LENT_NODES, NODES_OF_A_SERVER = 10_000, 4
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


def measure(
    make: Callable[[], Snapshot], runs: int, servers: Mapping[str, HeardServer] | None = None
) -> dict[str, Any]:
    """Place a fresh snapshot `runs` times for time, and once more for memory."""
    seconds, placed = [], 0
    for _ in range(runs):
        wanted = make()
        gc.collect()
        started = time.perf_counter()
        placement = place(wanted, 0.0, None, servers)
        seconds.append(time.perf_counter() - started)
        placed = len(placement.bindings)
    wanted = make()
    tracemalloc.start()
    place(wanted, 0.0, None, servers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    median = statistics.median(seconds)
    return {
        "nodes": len(wanted.nodes),
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


def lent(own: Snapshot) -> tuple[Snapshot, dict[str, HeardServer]]:
    """Return the same nodes as virtual machines on servers that lend enough for all of them, and what those say."""
    members, vms, servers = dict(own.members), {}, {}
    report = ServerReport(
        cpus=256.0, memory_bytes=2**40, primary_cpus=20.0, offer_cpus=140.0, offer_memory_bytes=2**39, lends=True
    )
    for index, node_id in enumerate(sorted(own.members)):
        server_id = f"s-{index // NODES_OF_A_SERVER:06}"
        if server_id not in members:
            node = own.members[node_id]
            members[server_id] = msgspec.structs.replace(node, id=server_id, name=server_id, role=Role.SERVER)
            servers[server_id] = HeardServer(report=report, age_seconds=0.5)
        vms[f"v-{node_id}"] = Vm(
            id=f"v-{node_id}", created_at=0.0, updated_at=0.0, name=f"vm-{index}", server_id=server_id, cpus=32.0,
            memory_bytes=65_536 * MIB, disk_bytes=0, image="default", node_id=node_id,
        )  # fmt: skip
    return replace(own, members=members, vms=vms), servers


def on_lent_capacity(nodes: int, runs: int) -> list[dict[str, Any]]:
    """Place the same replicas on the same nodes, lent and not."""
    found = []
    for title, deployments, each in (("ten deployments of 1,000", 10, 1_000), ("10,000 deployments of one", 10_000, 1)):
        own = snapshot(nodes, deployments, each, 500 if each == 1 else 10, POLICIES["plain"])
        wanted, servers = lent(own)
        plain = measure(lambda own=own: replace(own), runs)
        shared = measure(lambda wanted=wanted: replace(wanted), runs, servers)
        ratio = round(shared["seconds"] / plain["seconds"], 2)
        found.append({"scenario": title, "servers": len(servers), "own": plain, "lent": shared, "cost_ratio": ratio})
        print(f"{title} on lent capacity: {ratio} times as long", file=sys.stderr)
    return found


def rechecks(nodes: int) -> dict[str, Any]:
    """Re-check every binding of a placement on what the ones before it leave, and look once who has to move."""
    own = snapshot(nodes, nodes, 1, 500, POLICIES["plain"])
    answer: dict[str, Any] = {"bindings": nodes}
    for name, (wanted, servers) in (("own", (own, {})), ("lent", lent(own))):
        bindings = place(wanted, 0.0, None, servers).bindings
        bound = {
            found.replica_id: msgspec.structs.replace(
                wanted.replicas[found.replica_id], node_id=found.node_id, state=ReplicaState.RUNNING,
                host_ports=found.host_ports,
            )
            for found in bindings[1:]
        }  # fmt: skip
        there = replace(wanted, replicas={**wanted.replicas, **bound})
        assert fits(there, bindings[0], None, servers, 0.0) is None  # and its indexes are built
        started = time.perf_counter()
        for _ in range(nodes):
            fits(there, bindings[0], None, servers, 0.0)
        answer[f"{name}_microseconds"] = round((time.perf_counter() - started) / nodes * 1e6, 1)
        if servers:
            started = time.perf_counter()
            assert not evict(there, servers, 0.0, str).steps
            answer["evict_look_seconds"] = round(time.perf_counter() - started, 4)
    return answer


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
        "lent_capacity": on_lent_capacity(LENT_NODES, options.runs),
        "rechecks": rechecks(LENT_NODES),
    }
    write(answer, options)


if __name__ == "__main__":
    main(sys.argv[1:])
