"""Rolling out: ten deployments of 1,000 replicas on 5,000 nodes, the whole path, durable.

A control plane in a process of its own, with its loops, sessions, TLS and a store on disk; hollow agents (hollow.py)
in processes beside it on the same processors. One Compose file with ten services is posted to the API, and told is
how long it takes until every replica is bound in the store, until its agent has the assignment, and until the store
knows that it runs; and what processor time and memory the control plane takes for it.

Peer: Kubernetes 1.3x (API server, etcd, scheduler, controller manager) with hollow nodes on two cores of this kind:
10,000 pods bound in 52 to 58 s, 10 to 33 ms of processor time a pod, 2.0 GiB over four processes.

    python benchmarks/rollup.py [--nodes 5000] [--deployments 10] [--replicas 1000] [--runs 1] [--store URL | --etcd]
"""

import argparse
import asyncio
import statistics
import sys
import time
from typing import Any

from figures import options_of, write
from machine import describe
from stores import add_store_options, store_of
from whole import Whole, whole

PEER = {
    "name": "Kubernetes with hollow nodes, two cores of this kind",
    "seconds_until_bound": [52, 58],
    "replicas_per_second": [172, 191],
    "cpu_ms_a_replica": [10, 33],
    "memory_bytes": 2 * 2**30,
}
_BOUND = [f'fallow_replicas{{state="{state}"}}' for state in ("placed", "running")]


def compose(project: str, deployments: int, replicas: int) -> str:
    """Return a Compose file of so many services."""
    services = "".join(
        f"  web{number}:\n    image: registry.test/shop@sha256:{'0' * 64}\n    expose: ['8080']\n"
        f"    deploy: {{replicas: {replicas}, resources: {{reservations: {{cpus: '0.1', memory: 64M}}}}}}\n"
        for number in range(deployments)
    )
    return f"name: {project}\nservices:\n{services}"


async def roll_out(plane: Whole, project: str, deployments: int, replicas: int) -> dict[str, Any]:
    """Post the deployments and return the seconds from there to each stage, and what they cost."""
    wanted = deployments * replicas
    before = await plane.api.metrics()
    bound_before = sum(before[name] for name in _BOUND)
    healthy_before = before["fallow_replicas_healthy"]
    cpu, began = plane.process.cpu_seconds(), time.time()
    await plane.api.call("POST", "/v1/deploy", {"compose": compose(project, deployments, replicas)})
    answered = time.time() - began
    bound = running = 0.0
    while not running:
        found = await plane.api.metrics()
        now = time.time() - began
        if not bound and sum(found[name] for name in _BOUND) - bound_before >= wanted:
            bound = now
        if found["fallow_replicas_healthy"] - healthy_before >= wanted:
            running = now
        if now > 150:
            raise TimeoutError(f"{found} after {now:.0f} s")
        await asyncio.sleep(0.25)
    spent = plane.process.cpu_seconds() - cpu
    heard = [await fleet.received() for fleet in plane.fleets]
    arrivals = [at for answer in heard for at in answer["run"].values()]
    delivered = max(arrivals) - began
    assert len(arrivals) == wanted, f"{len(arrivals)} of {wanted} assignments arrived"
    return {
        "seconds_until_answered": round(answered, 3),
        "seconds_until_bound": round(min(bound, delivered), 3),  # what is delivered is bound: polling sees it later
        "seconds_until_delivered": round(delivered, 3),
        "seconds_until_first_delivered": round(min(arrivals) - began, 3),
        "seconds_until_running": round(running, 3),
        "bound_per_second": round(wanted / min(bound, delivered), 1),
        "cpu_seconds": round(spent, 2),
        "cpu_ms_a_replica": round(1000 * spent / wanted, 3),
        "memory": plane.process.memory(),
    }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    runs = []
    async with whole(options.store) as plane:
        for _ in range(options.processes):
            await plane.add(options.nodes // options.processes)
        joined = await plane.join(await plane.api.join_token(options.nodes), options.parallel)
        nodes = joined["agents"]
        await plane.api.until('fallow_members{role="node",state="ready"}', nodes, 60)
        await asyncio.sleep(3)  # let the loops come to rest
        idle = plane.process.memory()
        for number in range(options.runs):
            runs.append(await roll_out(plane, f"shop{number}", options.deployments, options.replicas))
            sys.stderr.write(f"{runs[-1]}\n")
    stages = [key for key in runs[0] if key != "memory"]
    medians = {key: statistics.median(run[key] for run in runs) for key in stages}
    return {
        "benchmark": "rollup",
        "machine": describe(),
        "nodes": nodes,
        "deployments": options.deployments,
        "replicas": options.deployments * options.replicas,
        "joined": joined,
        "memory_before": idle,
        "runs": runs,
        "medians": medians,
        "peer": PEER,
        "bound_times_as_fast_as_peer": round(PEER["seconds_until_bound"][0] / medians["seconds_until_bound"], 1),  # type: ignore[index]
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    add_store_options(parser)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--deployments", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=1000, help="of each deployment")
    parser.add_argument("--runs", type=int, default=1, help="roll out so many times, each beside what is there already")
    parser.add_argument("--processes", type=int, default=2, help="processes of hollow agents")
    parser.add_argument("--parallel", type=int, default=64, help="joins at a time")
    options = parser.parse_args()
    with store_of(options) as store:
        write(asyncio.run(measure(options)) | {"store": store}, options)


if __name__ == "__main__":
    main()
