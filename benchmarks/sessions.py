"""Sessions: hollow agents against one control plane on the same two processors.

For each number of agents: how many a second join and open their session (from the first call to the last open session,
the agents' own work on the same processors included), what their heartbeats cost once they are at rest, memory, the
time from a change to the agent it concerns, and the time until a tenth of them, killed at once, is dead.

A change here is the longest way there is: a deployment is scaled by one through the API, which leads to a stored wish,
a stored replica and a stored binding before the assignment is sent; the time runs from the answer of the API, and from
its call. The heartbeat, suspect and dead times are the defaults.

Peer: Kubernetes with hollow nodes on two cores of this kind: 178 nodes/s registered, p99 510 ms from a change to its
node, and 1.6 to 1.9 cores for the heartbeats of 5,000 nodes alone.

    python benchmarks/sessions.py [--agents 2000 5000 9000] [--changes 200] [--store URL | --etcd]
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from typing import Any

from figures import options_of, write
from machine import describe
from rollup import compose
from stores import add_store_options, store_of
from whole import Fleet, Whole, whole

STEADY_SECONDS = 10.0
DEAD_SECONDS = 60.0
_DEAD = 'fallow_members{role="node",state="dead"}'
_SUSPECT = 'fallow_members{role="node",state="suspect"}'
_READY = 'fallow_members{role="node",state="ready"}'
PEER = {
    "name": "Kubernetes with hollow nodes, two cores of this kind",
    "joins_per_second": 178,
    "change_p99_ms": 510,
    "cores_at_5000": [1.6, 1.9],
}


async def changes(plane: Whole, fleets: list[Fleet], count: int) -> dict[str, float]:
    """Scale a deployment up by one, so many times, and return how long its agents waited for it."""
    await plane.api.call("POST", "/v1/deploy", {"compose": compose("changes", 1, 1)})
    await asyncio.sleep(1)
    for fleet in fleets:
        await fleet.received()
    called: list[float] = []
    answered: list[float] = []
    for number in range(count):
        called.append(time.time())
        await plane.api.call("PATCH", "/v1/deployments/changes/web0", {"replicas": 2 + number})
        answered.append(time.time())
        await asyncio.sleep(random.uniform(0.03, 0.1))
    await asyncio.sleep(2)
    heard = [await fleet.received() for fleet in fleets]
    arrived = sorted(at for answer in heard for at in answer["run"].values())
    assert len(arrived) == count, f"{len(arrived)} of {count} changes arrived"
    from_call = [1000 * (end - begin) for begin, end in zip(called, arrived, strict=True)]
    from_answer = [1000 * (end - begin) for begin, end in zip(answered, arrived, strict=True)]
    return {
        "count": count,
        "from_answer_median_ms": round(statistics.median(from_answer), 1),
        "from_answer_p99_ms": round(statistics.quantiles(from_answer, n=100)[98], 1),
        "from_call_median_ms": round(statistics.median(from_call), 1),
        "from_call_p99_ms": round(statistics.quantiles(from_call, n=100)[98], 1),
    }


async def deaths(plane: Whole, fleet: Fleet) -> dict[str, float]:
    """Kill a process of agents and return the seconds until they are suspect and dead."""
    began = time.time()
    await fleet.kill()
    first_suspect = last_suspect = first_dead = last_dead = 0.0
    while not last_dead:
        found, now = await plane.api.metrics(), time.time() - began
        silent = found[_SUSPECT] + found[_DEAD]
        first_suspect = first_suspect or (now if silent else 0.0)
        last_suspect = last_suspect or (now if silent >= fleet.count else 0.0)
        first_dead = first_dead or (now if found[_DEAD] else 0.0)
        last_dead = now if found[_DEAD] >= fleet.count else 0.0
        if now > DEAD_SECONDS:
            raise TimeoutError(f"{found[_DEAD]} of {fleet.count} dead after {now:.0f} s")
        await asyncio.sleep(0.1)
    assert found[_DEAD] == fleet.count, "somebody is dead who was not killed"
    return {
        "agents": fleet.count,
        "first_suspect_seconds": round(first_suspect, 2),
        "all_suspect_seconds": round(last_suspect, 2),
        "first_dead_seconds": round(first_dead, 2),
        "all_dead_seconds": round(last_dead, 2),
    }


async def one_size(agents: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the numbers for so many agents, on a control plane of their own."""
    doomed = agents // 10
    async with whole(options.store) as plane:
        empty = plane.process.memory()
        for count in ((agents - doomed) // 2, agents - doomed - (agents - doomed) // 2, doomed):
            await plane.add(count)
        joined = await plane.join(await plane.api.join_token(agents), options.parallel)
        await plane.api.until(_READY, joined["agents"], 60)
        await asyncio.sleep(3)
        cpu, began = plane.process.cpu_seconds(), time.time()
        await asyncio.sleep(STEADY_SECONDS)
        steady = (plane.process.cpu_seconds() - cpu) / (time.time() - began)
        memory = plane.process.memory()
        assert (await plane.api.metrics())[_READY] == agents, "a heartbeat came too late"
        return {
            "agents": agents,
            "joined": joined,
            "steady_cores": round(steady, 4),
            "steady_cpu_us_a_heartbeat": round(1e6 * steady / agents, 1),
            "memory_empty": empty,
            "memory": memory,
            "bytes_an_agent": (memory["pss_bytes"] - empty["pss_bytes"]) // agents,
            "changes": await changes(plane, plane.fleets, options.changes),
            "deaths": await deaths(plane, plane.fleets[-1]),
        }


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    machine = describe()
    sizes = []
    for agents in options.agents:
        sizes.append(await one_size(agents, options))
        sys.stderr.write(f"{sizes[-1]}\n")
    return {
        "benchmark": "sessions",
        "machine": machine,
        "heartbeat_seconds": 1.0,
        "sizes": sizes,
        "peer": PEER,
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    add_store_options(parser)
    parser.add_argument("--agents", type=int, nargs="+", default=[2000, 5000, 9000])
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=64, help="joins at a time")
    options = parser.parse_args()
    with store_of(options) as store:
        write(asyncio.run(measure(options)) | {"store": store}, options)


if __name__ == "__main__":
    main()
