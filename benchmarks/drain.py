"""A cluster with real containers is drained under load: requests that fail, and how long it takes.

A host with a gateway (HAProxy) and two member clusters of the real command, each with machines in namespaces of their
own, each of these with an engine of its own; one deployment, whose address is asked at an even pace, open loop, from
beginning to end. All replicas are in one cluster, which is drained (`fallow cluster drain`) into the other one; then
that one back into the first, and so on.

The bound is what the engines take for the same containers with nothing else to do: the same calls, as many at a time,
on the engines that are drained into, in the same run, before anything is deployed. Both are told: how long to start
them, and to stop and remove as many. A drain has to do both, at the same time, on the same processors, which also serve
the requests and run everything of ours; what that took is told.

    python benchmarks/drain.py [--replicas 200] [--nodes 4] [--rounds 3] [--rate 100]     needs root, Podman, HAProxy,
                                                                                          docker-registry and busybox
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from asking import OpenLoop
from figures import options_of, write
from machine import describe
from whole import Process, busy_seconds

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests" / "e2e")]

from joined import PATH, Joined, federation  # noqa: E402
from whole_cluster import web  # noqa: E402

from fallow.agent.shell import CREATES_AT_ONCE  # noqa: E402
from fallow.decide.compose.application import parse_compose  # noqa: E402
from fallow.drivers.engine.contract import ContainerRequest  # noqa: E402
from fallow.drivers.engine.detect import find_engine  # noqa: E402
from fallow.drivers.engine.docker_api import DockerApiEngine  # noqa: E402
from testbed import images  # noqa: E402
from testbed.engines import EngineNode  # noqa: E402

CLUSTERS = ("west", "east")
FIRST_PORT = 30_000  # of the containers that the bound is made of: no node's lease has these
PATIENCE_SECONDS = 1200.0
STEADY_SECONDS = 10.0
SERVE = (
    "mkdir -p /www && echo ok >/www/healthz && hostname >/www/index.html;"
    "trap 'kill $!; exit 0' TERM; httpd -f -p 8080 -h /www & wait"
)


def compose(image: str, replicas: int) -> str:
    """Return the Compose file of so many replicas."""
    deploy = {"replicas": replicas, "resources": {"reservations": {"cpus": "0.02", "memory": "8M"}}}
    health = {"http": "/healthz", "interval": "10s", "timeout": "5s", "retries": 3}
    policy = yaml.safe_load(f"{{{Joined.clusters_policy}}}")
    return web(image, deploy=deploy, fallow={"health": health, "clusters": policy})


class Engines:
    """The engines of some machines, driven as an agent drives them, but with nothing else."""

    def __init__(self, engines: list[DockerApiEngine], text: str) -> None:
        self._engines = engines
        self._spec = parse_compose(text).deployments[0][1].container

    async def start_and_end(self, containers: int) -> dict[str, float]:
        """Start so many containers, spread evenly, then end them; return how long both took, in seconds."""
        made: list[tuple[DockerApiEngine, str]] = []

        async def start(number: int) -> None:
            engine = self._engines[number % len(self._engines)]
            request = ContainerRequest(
                replica_id=f"bound-{number}",
                deployment="bound/web",
                spec=self._spec,
                host_ports={"8080/tcp": FIRST_PORT + number},
            )
            container = await engine.create(request)
            made.append((engine, (await engine.start(container.id)).id))

        async def end(number: int) -> None:
            engine, container_id = made[number]
            await engine.stop(container_id, 10.0)
            await engine.remove(container_id)

        numbers = range(containers)
        return {"start_seconds": await self._all(start, numbers), "end_seconds": await self._all(end, numbers)}

    async def _all(self, do: Callable[[int], Awaitable[None]], numbers: range) -> float:
        gate = asyncio.Semaphore(CREATES_AT_ONCE * len(self._engines))

        async def one(number: int) -> None:
            async with gate:
                await do(number)

        began = time.monotonic()
        await asyncio.gather(*map(one, numbers))
        return round(time.monotonic() - began, 1)


async def bound(nodes: list[EngineNode], image: str, text: str, replicas: int) -> dict[str, float]:
    """Return what the engines take for so many containers, with nothing else to do."""
    engines = [await find_engine(node.url, node_id="bound") for node in nodes]
    try:
        for engine in engines:
            await engine.pull(image, insecure=True)
        return await Engines(engines, text).start_and_end(replicas)
    finally:
        for engine in engines:
            await engine.close()


def spent(joined: Joined) -> dict[str, float]:
    """Return the seconds of processor that each kind of our processes has used so far, and the whole machine."""
    clusters = [joined.host, *joined.members.values()]
    pids = {
        "control_planes": [found.server.pid for found in clusters if found.server is not None],
        "agents": [agent.inner_pid for found in clusters for agent in found.agents.values()],
        "gateway": [gateway.pid for gateway in joined.host.gateways.values()],
    }
    told = {kind: sum(Process(pid).cpu_seconds() for pid in found) for kind, found in pids.items()}
    return told | {"machine": busy_seconds()}


def drain(joined: Joined, load: OpenLoop, source: str, target: str, replicas: int) -> dict[str, Any]:
    """Empty one cluster into the other, and return what it took."""
    idle, steady_from = spent(joined), time.time()
    time.sleep(STEADY_SECONDS)
    before, began, clock = spent(joined), time.time(), time.monotonic()
    joined.host.fallow("cluster", "drain", source, "--timeout", f"{PATIENCE_SECONDS:g}s", timeout=PATIENCE_SECONDS + 60)
    seconds, ended, after = time.monotonic() - clock, time.time(), spent(joined)
    if left := joined.containers(source):
        raise RuntimeError(f"{source} is said to be empty, and runs {left} containers")
    joined.wait_shares(**{target: replicas})
    joined.host.fallow("cluster", "uncordon", source)
    return {
        "from": source,
        "seconds": round(seconds, 1),
        "processor_seconds": {kind: round(after[kind] - before[kind], 1) for kind in after},
        "processors_before": {kind: round((before[kind] - idle[kind]) / STEADY_SECONDS, 2) for kind in before},
        "requests": load.told(began, ended),
        "requests_before": load.told(steady_from, began),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return all numbers."""
    machine = describe()  # before we load it ourselves
    with federation(dict.fromkeys(CLUSTERS, options.nodes), Joined) as joined:
        host = joined.host
        small = replace(images.busybox(), command=("/bin/sh", "-c", SERVE), exposed=("8080/tcp",))
        image = images.push(host.insecure_registries[0], "small:1", small)
        text = compose(image, options.replicas)
        east = list(joined.members["east"].nodes.values())
        limit = asyncio.run(bound(east, image, text, options.replicas))
        sys.stderr.write(f"{limit}\n")
        host.fallow("cluster", "cordon", "east")
        file = host.fabric.folder / "compose.yaml"
        file.write_text(text)
        began = time.monotonic()
        words = ("--project", PATH.partition("/")[0], "--timeout", f"{PATIENCE_SECONDS:g}s")
        host.fallow("deploy", str(file), *words, timeout=PATIENCE_SECONDS + 60)
        deployed = round(time.monotonic() - began, 1)
        sys.stderr.write(f"deployed in {deployed} s\n")
        host.fallow("cluster", "uncordon", "east")
        rounds = []
        with OpenLoop(host.http_port, "web.test", options.rate) as load:
            for number in range(options.rounds):
                source, target = CLUSTERS if number % 2 == 0 else CLUSTERS[::-1]
                rounds.append(drain(joined, load, source, target, options.replicas))
                sys.stderr.write(f"{rounds[-1]}\n")
    seconds = statistics.median(found["seconds"] for found in rounds)
    return {
        "benchmark": "drain",
        "machine": machine,
        "replicas": options.replicas,
        "nodes_each": options.nodes,
        "requests_per_second": options.rate,
        "bound": limit,
        "deployed_seconds": deployed,
        "rounds": rounds,
        "requests_sent": sum(found["requests"]["sent"] for found in rounds),
        "requests_failed": sum(found["requests"]["failed"] for found in rounds),
        "p99_ms": statistics.median(found["requests"]["p99_ms"] for found in rounds),
        "seconds": seconds,
        "times_start": round(seconds / limit["start_seconds"], 2),
        "times_start_and_end": round(seconds / (limit["start_seconds"] + limit["end_seconds"]), 2),
    }


def main() -> None:
    """Run it."""
    parser = options_of(__doc__)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=4, help="of each cluster")
    parser.add_argument("--rounds", type=int, default=3, help="drains, there and back")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    options = parser.parse_args()
    write(measure(options), options)


if __name__ == "__main__":
    main()
