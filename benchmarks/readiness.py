"""From "a replica is ready" to "it gets requests": the whole path, with a control plane, hollow agents and a gateway.

A deployment is scaled up by one again and again while requests come. A replica is ready when its agent says so for
the first time; it gets requests when one of them is answered by it. In between lie the session, the store, the loop of
routes, the gateway's session, its look whether the replica can be reached, and HAProxy. The answers come from a HAProxy
that listens wherever a replica may be and says where it was asked.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from asking import ask
from whole import Whole, free_ports, whole

HOST = "ready.test"
NODES = 20
PORTS_A_NODE = 10  # of the 10,000 each has; spread evenly, no more are used
CLIENTS = 8
READY_SECONDS = 30.0
COMPOSE = f"""
name: ready
services:
  web:
    image: registry.test/shop@sha256:{"0" * 64}
    expose: ["8080"]
    deploy: {{replicas: 2}}
    x-fallow:
      routes: [{{host: {HOST}, port: 8080}}]
"""


def origin_config() -> str:
    """Return a configuration that answers wherever a replica may be, with that place."""
    binds = "".join(f"    bind 127.1.0.{1 + node}:20000-{19999 + PORTS_A_NODE}\n" for node in range(NODES))
    return (
        "defaults\n    mode http\n    timeout client 60s\n    timeout server 60s\n    timeout connect 1s\n"
        f"frontend origin\n{binds}"
        "    http-request return status 200 content-type text/plain lf-string %[dst]:%[dst_port]\n"
    )


class Load:
    """Clients that ask over and over on their own connections, and when each place first answered."""

    def __init__(self, port: int) -> None:
        self.first: dict[str, float] = {}
        self.requests = 0
        self.failed = 0
        self._port = port

    async def run(self) -> None:
        """Ask until cancelled."""
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.closing(writer):
            while True:
                status, body = await ask((reader, writer), HOST)
                self.requests += 1
                if status == 200:
                    self.first.setdefault(body, time.time())
                else:
                    self.failed += 1
                await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def child(*words: str) -> AsyncIterator[None]:
    """Run a program."""
    started = await asyncio.create_subprocess_exec(*words)
    try:
        yield
    finally:
        started.terminate()
        await started.wait()


async def ready_to_traffic(replicas: int) -> dict[str, Any]:
    """Scale up so many times and return how long new replicas waited for their first request."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "origin.cfg").write_text(origin_config(), encoding="utf-8")
        (http_port,) = free_ports(1)
        async with child("haproxy", "-db", "-q", "-f", str(folder / "origin.cfg")), whole("") as plane:
            fleet = await plane.add(NODES)
            await plane.join(await plane.api.join_token(NODES), 8)
            await plane.api.until('fallow_members{role="node",state="ready"}', NODES, READY_SECONDS)
            token = (await plane.api.call("POST", "/v1/tokens", {"role": "gateway"}))["secret"]
            gateway = child(
                sys.executable, "-m", "fallow", "gateway", plane.url, token, "--http-port", str(http_port),
                "--data", str(folder / "gateway"), "--log-level", "warning",
            )  # fmt: skip
            async with gateway:
                await plane.api.until('fallow_members{role="gateway",state="ready"}', 1, READY_SECONDS)
                await plane.api.call("POST", "/v1/deploy", {"compose": COMPOSE})
                await plane.api.until("fallow_replicas_healthy", 2, READY_SECONDS)
                await asyncio.sleep(2)
                load = Load(http_port)
                asking = asyncio.create_task(load.run())
                for wanted in range(3, 3 + replicas):
                    await plane.api.call("PATCH", "/v1/deployments/ready/web", {"replicas": wanted})
                    await asyncio.sleep(0.25)
                await asyncio.sleep(1)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            return await _figures(plane, (await fleet.received())["run"], load, replicas)


async def _figures(plane: Whole, ready: dict[str, float], load: Load, replicas: int) -> dict[str, Any]:
    found = (await plane.api.call("GET", "/v1/replicas"))["items"]
    places = {one["id"]: f"{one['address']}:{next(iter(one['host_ports'].values()))}" for one in found}
    newest = sorted(ready, key=lambda id_: ready[id_])[-replicas:]
    waits = [1000 * (load.first[places[id_]] - ready[id_]) for id_ in newest]
    return {
        "replicas": len(waits),
        "median_ms": round(statistics.median(waits), 1),
        "p99_ms": round(statistics.quantiles(waits, n=100)[98], 1),
        "most_ms": round(max(waits), 1),
        "requests": load.requests,
        "failed": load.failed,
    }
