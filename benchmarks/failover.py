"""A cluster is lost: how long until the total is ready again; and drained: how long until it is empty.

A host and three member clusters, each a control plane in a process of its own with a store on disk and hollow nodes
(hollow.py) in another one, real sessions in between, thresholds as they are by default. In each round the cluster with
most replicas is killed, control plane and nodes at once, without a word to anybody; told is how long it takes from its
last sign of life (and from the kill) until all replicas are ready again in the others. It is then removed, and a new
cluster joins. At last one is drained. Hollow nodes start a replica at once: what is measured is noticing, deciding,
telling and reporting, to which the start of real containers comes.

Peers publish no such figure. By their defaults: Karmada 40 s until a silent cluster is noticed, 300 s until its
replicas move, one and a half workloads a second, and only when four switches are set; Liqo 40 s and 300 s; KubeFed 30 s
and 60 s.

    python benchmarks/failover.py [--rounds 30] [--after RESULT.json] [--deployments 10] [--replicas 20] [--nodes 10]
"""

import argparse
import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import options_of, spread, write
from machine import describe
from rollup import compose
from whole import Whole, whole

CLUSTERS = 3
SECONDS = 60.0
SETTLE_SECONDS = 6.0
PEERS = {
    "Karmada, its defaults": {"noticed_seconds": 40, "moves_after_seconds": 300, "workloads_per_second": 1.5},
    "Liqo, its defaults": {"noticed_seconds": 40, "moves_after_seconds": 300},
    "KubeFed, its defaults": {"noticed_seconds": 30, "moves_after_seconds": 60},
}


@dataclass
class Member:
    """One member cluster: its control plane, its nodes, and how to end them."""

    name: str
    plane: Whole
    exits: AsyncExitStack

    async def kill(self) -> None:
        """End nodes and control plane at once."""
        self.plane.kill()
        await asyncio.gather(*(fleet.kill() for fleet in self.plane.fleets))


async def member(host: Whole, name: str, nodes: int) -> Member:
    """Start a cluster with so many nodes and let it join the host."""
    exits = AsyncExitStack()
    plane = await exits.enter_async_context(whole(""))
    await plane.add(nodes)
    await plane.join(await plane.api.join_token(nodes), nodes)
    token = (await host.api.call("POST", "/v1/tokens", {"role": "cluster", "name": name}))["secret"]
    await plane.api.call("POST", "/v1/host", {"url": host.url, "token": token})
    await until(lambda: state_of(host, name), "ready")
    return Member(name, plane, exits)


async def clusters(host: Whole) -> dict[str, dict[str, Any]]:
    """Return the host's clusters by name."""
    return {found["member"]["name"]: found for found in (await host.api.call("GET", "/v1/clusters"))["items"]}


async def state_of(host: Whole, name: str) -> str:
    """Return how the host sees a cluster."""
    found = (await clusters(host)).get(name)
    return str(found["member"]["state"]) if found is not None else ""


async def ready(host: Whole) -> int:
    """Return how many replicas are ready, in all clusters that are not known to be dead."""
    return sum(found["counts"]["healthy"] for found in (await host.api.call("GET", "/v1/deployments"))["items"])


async def until(ask: Any, wanted: object) -> float:
    """Ask until the answer is as wanted; return when that was, in UTC seconds. Raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        while True:
            if await ask() == wanted:
                return time.time()
            await asyncio.sleep(0.05)


async def lose(host: Whole, members: dict[str, Member], total: int) -> dict[str, Any]:
    """Kill the cluster that has most, and return how long it took until all was ready again."""
    running = {name: found["ready"] for name, found in (await clusters(host)).items() if name in members}
    name = max(running, key=lambda each: running[each])
    killed_at = time.time()
    await members[name].kill()
    dead_at = await until(lambda: state_of(host, name), "dead")
    last_seen_at = float((await clusters(host))[name]["member"]["last_seen_at"])
    ready_at = await until(lambda: ready(host), total)
    await members.pop(name).exits.aclose()
    await host.api.call("DELETE", f"/v1/members/{name}?force=true")
    return {
        "replicas_lost": running[name],
        "dead_after_seconds": round(dead_at - last_seen_at, 2),
        "ready_again_after_seconds": round(ready_at - last_seen_at, 2),
        "ready_again_after_kill_seconds": round(ready_at - killed_at, 2),
    }


async def drain(host: Whole, name: str) -> dict[str, Any]:
    """Empty a cluster and return how long that took."""
    before = (await clusters(host))[name]["ready"]
    began = time.time()
    await host.api.call("PATCH", f"/v1/members/{name}", {"scheduling": "draining"})

    async def left() -> int:
        return int((await clusters(host))[name]["left"])

    return {"replicas": before, "seconds_until_empty": round(await until(left, 0) - began, 2)}


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    total = options.deployments * options.replicas
    members: dict[str, Member] = {}
    rounds = []
    async with AsyncExitStack() as exits, whole("") as host:
        for number in range(CLUSTERS + options.rounds):
            name = f"c{number}"
            members[name] = await member(host, name, options.nodes)
            exits.push_async_callback(members[name].exits.aclose)
            if number == CLUSTERS - 1:
                body = {"compose": compose("shop", options.deployments, options.replicas)}
                await host.api.call("POST", "/v1/deploy", body)
                await until(lambda: ready(host), total)
                # A host that has just begun to lead is three times as patient with who it has hardly heard.
                await asyncio.sleep(SETTLE_SECONDS)
            if number >= CLUSTERS - 1 and len(rounds) < options.rounds:
                rounds.append(await lose(host, members, total))
                sys.stderr.write(f"{rounds[-1]}\n")
        fullest = max((await clusters(host)).items(), key=lambda found: found[1]["ready"])[0]
        drained = await drain(host, fullest)
    before = json.loads(options.after.read_text())["rounds"] if options.after else []
    rounds = [*before, *rounds]
    again = [found["ready_again_after_seconds"] for found in rounds]
    return {
        "benchmark": "failover",
        "machine": describe(),
        "clusters": CLUSTERS,
        "nodes_each": options.nodes,
        "deployments": options.deployments,
        "replicas": total,
        "rounds": rounds,
        "ready_again_after_seconds": spread(again),
        "drain": drained,
        "peers": PEERS,
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="clusters to lose")
    parser.add_argument("--after", type=Path, help="an earlier result, whose rounds count too")
    parser.add_argument("--deployments", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=20, help="of each deployment")
    parser.add_argument("--nodes", type=int, default=10, help="of each cluster")
    options = parser.parse_args()
    write(asyncio.run(measure(options)), options)


if __name__ == "__main__":
    main()
