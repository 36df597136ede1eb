"""Image jobs: what a job over many nodes costs the control plane, with hollow agents on the same two processors.

Agents answer an order at once, so what is measured is the control plane alone: the time from the request to the first
order at a node, the time until every node has ended, processor time, and the records written for each node (its task
when it begins and when it ends, and its inventory). The registry cannot be reached, so nothing is resolved.

Aims: at most 4 records a node; 99 of 100 first orders within 200 ms of the request.

    python benchmarks/image_jobs.py [--agents 1000] [--jobs 20] [--parallel 100] [--store URL | --etcd]
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

_READY = 'fallow_members{role="node",state="ready"}'
KINDS = "image-jobs,image-tasks,node-images,events"
JOB_SECONDS = 300.0
QUIET_SECONDS = 4.0  # until the inventories are stored


async def one_job(plane: Whole, number: int, target: dict[str, Any], parallel: str) -> dict[str, float]:
    """Run one job to its end; return its times in seconds."""
    for fleet in plane.fleets:
        await fleet.received()
    cpu, began = plane.process.cpu_seconds(), time.time()
    body = {
        "action": "pull", "reference": f"127.0.0.1:1/bench:{number}", "target": target, "parallel": parallel,
    }  # fmt: skip
    made = await plane.api.call("POST", "/v1/image-jobs", body)
    async with asyncio.timeout(JOB_SECONDS):
        while (await plane.api.call("GET", f"/v1/image-jobs/{made['id']}"))["state"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    ended = time.time()
    arrived = [at for fleet in plane.fleets for at in (await fleet.received())["run"].values()]
    return {
        "nodes": len(arrived),
        "first_order": min(arrived) - began,
        "last_order": max(arrived) - began,
        "all_ended": ended - began,
        "cpu": plane.process.cpu_seconds() - cpu,
    }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    machine = describe()
    async with whole(options.store) as plane:
        for count in (options.agents // 2, options.agents - options.agents // 2):
            await plane.add(count)
        joined = await plane.join(await plane.api.join_token(options.agents), 64)
        await plane.api.until(_READY, joined["agents"], 60)
        await asyncio.sleep(3)
        counts: dict[str, int] = {}
        counting = asyncio.create_task(plane.api.count_changes(KINDS, counts))
        await asyncio.sleep(0.5)
        whole_job = await one_job(plane, 0, {}, options.parallel)
        await asyncio.sleep(QUIET_SECONDS)
        written = dict(counts)
        counting.cancel()
        small = [await one_job(plane, number + 1, {"percent": 1}, "100%") for number in range(options.jobs)]
        firsts = [each["first_order"] for each in (*small, whole_job)]
        assert whole_job["nodes"] == options.agents, f"{whole_job['nodes']} of {options.agents} were asked"
        return {
            "benchmark": "image_jobs",
            "machine": machine,
            "agents": options.agents,
            "parallel": options.parallel,
            "all_ended_seconds": round(whole_job["all_ended"], 2),
            "control_plane_cpu_seconds": round(whole_job["cpu"], 2),
            "control_plane_cpu_ms_a_node": round(1000 * whole_job["cpu"] / options.agents, 2),
            "records_written": written,
            "records_a_node": round(sum(written.values()) / options.agents, 2),
            "jobs": len(firsts),
            "first_order_median_ms": round(1000 * statistics.median(firsts), 1),
            "first_order_p99_ms": round(1000 * statistics.quantiles(firsts, n=100, method="inclusive")[98], 1),
        }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    add_store_options(parser)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=20, help="further jobs, over a hundredth of the agents")
    parser.add_argument("--parallel", default="100")
    options = parser.parse_args()
    with store_of(options) as store:
        found = asyncio.run(measure(options)) | {"store": store}
    sys.stderr.write(f"{found}\n")
    write(found, options)


if __name__ == "__main__":
    main()
