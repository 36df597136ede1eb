"""Access: requests a second and their latency through the HAProxy we drive, and how quickly it takes a change.

Peer: a plain HAProxy whose file names the same endpoints, with no routing, no header rules and no spare backends, in
the same run and by turns. Beside both a plain one that keeps the promises we keep (second tries, headers that tell who
asks, the same checks): so what the promises cost is told apart from what being driven costs. Endpoints are answered by
another HAProxy, so that they are not what is measured. Needs haproxy and wrk. JSON to standard output; numbers are
medians of `--runs`. Then the whole path, in readiness.py: from a replica that is ready to the first request it answers.

    python benchmarks/access.py [--runs 3] [--seconds 3] [--connections 32]
"""

import asyncio
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from figures import options_of, write
from machine import describe
from readiness import ready_to_traffic
from whole import free_ports, processes_in

from fallow.drivers.proxy.config import DEFAULTS, FORWARDING, server_words
from fallow.drivers.proxy.haproxy import HAProxy
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyState

HOST = "shop.test"
ENDPOINTS = 4
CHANGES = 20
# Folder of a HAProxy -> what it stands for.
_NAMES = {"proxy": "driven", "peer": "plain", "promising": "plain_with_promises", "origin": "direct"}
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}

_DEFAULTS = """
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
"""


@asynccontextmanager
async def plain_haproxy(folder: Path, name: str, config: str) -> AsyncIterator[None]:
    """Run a HAProxy with this configuration, in a session of its own as ours is.

    Linux shares processors out among sessions: one in the same session as its client and its endpoints is woken less
    often, does more at a time, and so spends less on a request.
    """
    (folder / name).mkdir()
    (folder / name / "haproxy.cfg").write_text(config)
    child = await asyncio.create_subprocess_exec(
        "haproxy", "-db", "-q", "-f", "haproxy.cfg", cwd=folder / name, start_new_session=True
    )
    try:
        yield
    finally:
        child.terminate()
        await child.wait()


def origin_config(ports: list[int]) -> str:
    """Return a configuration that answers on every port by itself."""
    binds = "".join(f"    bind 127.0.0.1:{port}\n" for port in ports)
    body = "x" * 128
    answer = f'http-request return status 200 content-type text/plain string "{body}"'
    return f"{_DEFAULTS}\nfrontend origin\n{binds}    {answer}\n"


def peer_config(port: int, endpoints: tuple[Endpoint, ...]) -> str:
    """Return what somebody would write by hand for these endpoints."""
    servers = "".join(f"    server {found.id} {found.address}:{found.port} check inter 1s\n" for found in endpoints)
    return f"{_DEFAULTS}\nfrontend http\n    bind 127.0.0.1:{port}\n    default_backend app\nbackend app\n{servers}"


def promising_config(port: int, endpoints: tuple[Endpoint, ...]) -> str:
    """Return the same with what we promise for every request."""
    servers = "".join(f"    server {found.id} {server_words(found)}\n" for found in endpoints)
    frontend = f"\nfrontend http from web\n    bind 127.0.0.1:{port}\n{FORWARDING}    default_backend app\n"
    return f"{DEFAULTS}{frontend}\nbackend app from web\n{servers}"


def routes(revision: int, endpoints: tuple[Endpoint, ...]) -> ProxyState:
    """Return the state with the measured deployment and fifty others."""
    others = tuple(HttpRoute(host=f"other-{number}.test", path="/", backend=f"o/{number}:80") for number in range(50))
    return ProxyState(
        revision=revision,
        http=(HttpRoute(host=HOST, path="/", backend="shop/web:80"), *others),
        backends=(
            Backend(key="shop/web:80", endpoints=endpoints),
            *(Backend(key=other.backend) for other in others),
        ),
    )


async def wrk(port: int, seconds: float, connections: int) -> dict[str, Any]:
    """Send requests as fast as they are answered. Raises ValueError when one failed."""
    child = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-H", f"Host: {HOST}",
        f"http://127.0.0.1:{port}/", stdout=subprocess.PIPE,
    )  # fmt: skip
    text = (await child.communicate())[0].decode()
    if "Non-2xx" in text or "Socket errors" in text:
        raise ValueError(f"requests failed:\n{text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    if rate is None or p99 is None:
        raise ValueError(f"wrk told no numbers:\n{text}")
    return {"requests_per_second": float(rate[1]), "p99_ms": float(p99[1]) * _UNITS[p99[2]]}


async def loaded(folder: Path, port: int, seconds: float, connections: int) -> dict[str, Any]:
    """Return what `wrk` tells, and what a request costs the HAProxy that runs in `folder`."""
    processes = processes_in(folder)
    before = sum(process.cpu_seconds() for process in processes)
    told = await wrk(port, seconds, connections)
    spent = sum(process.cpu_seconds() for process in processes) - before
    return told | {"cpu_us_a_request": round(1e6 * spent / (told["requests_per_second"] * seconds), 2)}


async def changes_under_load(proxy: HAProxy, port: int, endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """Take endpoints out and in while requests come, and return how long it took. Raises ValueError on a failure."""
    applied: list[float] = []
    drained: list[float] = []

    async def change(revision: int) -> None:
        wanted = endpoints if revision % 2 else endpoints[1:]
        begun = time.perf_counter()
        await proxy.apply(routes(revision, wanted))
        applied.append(1000 * (time.perf_counter() - begun))
        while True:
            if not (await proxy.report()).draining:
                break
            await asyncio.sleep(0.002)
        if len(wanted) < len(endpoints):
            drained.append(1000 * (time.perf_counter() - begun))

    load = asyncio.create_task(wrk(port, 4.0, 16))
    await asyncio.sleep(0.3)
    for revision in range(2, 2 + CHANGES):
        await change(revision)
    under_load = not load.done()
    return {
        "changes": CHANGES,
        "apply_ms": statistics.median(applied),
        "apply_max_ms": max(applied),
        "drain_ms": statistics.median(drained),
        "all_under_load": under_load,
        "load": await load,
    }


async def measure(runs: int, seconds: float, connections: int, replicas: int) -> dict[str, Any]:
    """Return all numbers."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in _NAMES}
    ours, peer, promising, *origins = free_ports(3 + ENDPOINTS)
    endpoints = tuple(Endpoint(id=f"e{n}", address="127.0.0.1", port=port) for n, port in enumerate(origins))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proxy = HAProxy(folder / "proxy", http_port=ours, bind_address="127.0.0.1")
        async with (
            plain_haproxy(folder, "origin", origin_config(origins)),
            plain_haproxy(folder, "peer", peer_config(peer, endpoints)),
            plain_haproxy(folder, "promising", promising_config(promising, endpoints)),
        ):
            await asyncio.sleep(0.5)
            await proxy.start(None)
            try:
                await proxy.apply(routes(1, endpoints))
                for _ in range(runs):
                    for kind, port in zip(_NAMES, (ours, peer, promising, origins[0]), strict=True):
                        found[kind].append(await loaded(folder / kind, port, seconds, connections))
                changes = await changes_under_load(proxy, ours, endpoints)
                version = await proxy.version()
            finally:
                await proxy.stop()
    medians = {
        kind: {key: statistics.median(run[key] for run in all_runs) for key in all_runs[0]}
        for kind, all_runs in found.items()
    }
    medians = {_NAMES[kind]: numbers for kind, numbers in medians.items()}
    rate = {kind: numbers["requests_per_second"] for kind, numbers in medians.items()}
    cost = {kind: numbers["cpu_us_a_request"] for kind, numbers in medians.items()}
    return {
        "benchmark": "access",
        "peer": f"plain {version} with static backends",
        "machine": describe(),
        "connections": connections,
        "seconds": seconds,
        "runs": {_NAMES[kind]: told for kind, told in found.items()},
        "medians": medians,
        "driven_to_plain": round(rate["driven"] / rate["plain"], 3),
        "driven_to_plain_with_promises": round(rate["driven"] / rate["plain_with_promises"], 3),
        "plain_to_driven_cpu": round(cost["plain"] / cost["driven"], 3),
        "plain_with_promises_to_driven_cpu": round(cost["plain_with_promises"] / cost["driven"], 3),
        "changes": changes,
        "ready_to_traffic": await ready_to_traffic(replicas),
    }


def main() -> int:
    """Run it."""
    parser = options_of(__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--replicas", type=int, default=100, help="that become ready one after another")
    options = parser.parse_args()
    if missing := [name for name in ("haproxy", "wrk") if shutil.which(name) is None]:
        sys.stderr.write(f"not installed: {', '.join(missing)}\n")
        return 1
    figures = asyncio.run(measure(options.runs, options.seconds, options.connections, options.replicas))
    write(figures, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
