"""DNS: answers a second and their time, and how long after a change an answer is still old.

Three kinds of questions over UDP, from dnsperf on the same processors: hot names (1,000 of 5,000 nodes, asked again and
again), services (SRV of ten endpoints each), and names that were never asked before (what an attack looks like).
Latency is of one question after the other, without other load. Knot, the peer, serves the same records from a zone file
in the same run, where it is installed.

Staleness: 5,000 nodes and 10,000 replicas in a store; a node's address is changed while twenty replicas a second
change, and its name is asked until the answer is new. The time runs from the store's acknowledgement, and from the
call.

    python benchmarks/names.py [--seconds 5] [--changes 200] [--store URL]
"""

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dns.message
import msgspec
from machine import describe
from prometheus_client import CollectorRegistry

from fallow.control.hub import Hub
from fallow.control.names import NamesLoop
from fallow.control.runner import LoopMetrics, Runner
from fallow.decide.plan import Step
from fallow.decide.reverse import Reverse
from fallow.decide.zone import Zone
from fallow.drivers.dns.server import NameServer
from fallow.model.containers import ContainerSpec, PortSpec
from fallow.model.deployments import Deployment, DeploymentSpec, Replica, ReplicaState
from fallow.model.members import Lease, Member, MemberState, Role
from fallow.model.names import HostName, ServiceEndpoint, ServiceName
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.open import open_store

NODES, SERVICES, ENDPOINTS = 5000, 1000, 10
DOMAIN = "fallow.internal"
WARM_UP_SECONDS = 1


def address(number: int) -> str:
    """Return a node's address."""
    return f"10.{64 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def zone() -> Zone:
    """Return the names that are served."""
    hosts = {("node", f"n{number}"): HostName("node", f"n{number}", address(number)) for number in range(NODES)}
    services = {
        ("shop", f"s{number}"): ServiceName(
            "shop",
            f"s{number}",
            ("80/tcp",),
            tuple(
                ServiceEndpoint(f"s{number}-{slot}-abcdefg", address((number + slot * 7) % NODES), {"80/tcp": 20000})
                for slot in range(ENDPOINTS)
            ),
        )
        for number in range(SERVICES)
    }
    return Zone(domain=DOMAIN, revision=1, hosts=hosts, services=services, reverse=Reverse(domain=DOMAIN, hosts=hosts))


async def serve() -> None:
    """Serve the zone until killed; print the port."""
    server = NameServer()
    server.set(zone())
    print(await server.listen("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


@contextmanager
def ours() -> Iterator[int]:
    """Run a name server of ours in a process of its own and give its port."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def knot(folder: Path) -> Iterator[int]:
    """Run Knot with the same records and give its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    lines = ["$TTL 5"] + [
        f"{found.name}. {found.ttl} {found.type} " + re.sub(r"([a-z][a-z0-9.-]*internal)", r"\1.", found.value)
        for found in zone().records()
        if found.name.endswith(DOMAIN)
    ]
    (folder / "zone").write_text("\n".join(lines) + f"\nns.{DOMAIN}. 5 A 127.0.0.1\n")
    (folder / "knot.conf").write_text(
        f"server:\n    rundir: {folder}\n    listen: 127.0.0.1@{port}\n    user: {os.environ.get('USER', 'root')}\n"
        f"database:\n    storage: {folder}\n"
        f"zone:\n  - domain: {DOMAIN}\n    file: {folder}/zone\n    storage: {folder}\n"
    )
    with subprocess.Popen(
        ["/usr/sbin/knotd", "-c", folder / "knot.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(port)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)


def wait_for(port: int, seconds: float = 20.0) -> None:
    """Wait until a name server answers."""
    ends = time.time() + seconds
    question = dns.message.make_query(f"n1.node.{DOMAIN}", "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.2)
        while time.time() < ends:
            with suppress(OSError):
                asker.sendto(question, ("127.0.0.1", port))
                if dns.message.from_wire(asker.recv(4096)).answer:
                    return
    raise TimeoutError("the name server does not answer")


def questions() -> dict[str, list[str]]:
    """Return what is asked, as dnsperf reads it."""
    return {
        "hot_names": [f"n{number}.node.{DOMAIN} A" for number in random.sample(range(NODES), 1000)],
        "services": [f"_80._tcp.s{number}.shop.svc.{DOMAIN} SRV" for number in random.sample(range(SERVICES), 500)],
        "never_asked": [f"x{random.getrandbits(60):x}.node.{DOMAIN} A" for _ in range(400_000)],
    }


def load(port: int, file: Path, seconds: int) -> dict[str, Any]:
    """Return what dnsperf counts."""
    done = subprocess.run(
        ["dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", file, "-l", str(seconds), "-c", "4", "-e"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = {key: re.search(rf"{key}:?\s+([\d.]+)", done) for key in ("Queries per second", "Queries lost")}
    rate, lost = (float(match[1]) if match else 0.0 for match in found.values())
    return {"answers_per_second": round(rate), "lost": int(lost)}


def latency(port: int, count: int = 3000) -> dict[str, float]:
    """Return the times of questions one after the other."""
    spent = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("127.0.0.1", port))
        asker.settimeout(2)
        packets = [dns.message.make_query(f"n{number}.node.{DOMAIN}", "A").to_wire() for number in range(500)]
        for number in range(count):
            began = time.perf_counter()
            asker.send(packets[number % len(packets)])
            asker.recv(4096)
            spent.append(time.perf_counter() - began)
    return {
        "median_us": round(1e6 * statistics.median(spent), 1),
        "p99_us": round(1e6 * statistics.quantiles(spent, n=100)[98], 1),
    }


def speed(port: int, folder: Path, seconds: int) -> dict[str, Any]:
    """Return all numbers of a server."""
    found: dict[str, Any] = {"latency": latency(port)}
    for name, lines in questions().items():
        file = folder / name
        file.write_text("\n".join(lines) + "\n")
        if name != "never_asked":
            load(port, file, WARM_UP_SECONDS)
        found[name] = load(port, file, seconds)
    return found


def records() -> tuple[list[Member], list[Deployment], list[Replica]]:
    """Return what is stored for the measurement of staleness."""
    common: dict[str, Any] = {"created_at": 1.0, "updated_at": 1.0}
    members = [
        Member(
            id=f"m{number}", name=f"n{number}", role=Role.NODE, key_sha256="", token_id="", certificate_expires_at=1e12,
            lease=Lease(address=address(number)), state=MemberState.READY, **common,
        )
        for number in range(NODES)
    ]  # fmt: skip
    container = ContainerSpec(image="a:1", ports=(PortSpec(container=80),))
    deployments = [
        Deployment(
            id=f"d{number}", project="shop", name=f"s{number}", spec=DeploymentSpec(container=container), **common
        )
        for number in range(SERVICES)
    ]
    replicas = [
        Replica(
            id=f"s{number % SERVICES}-{number}", deployment_id=f"d{number % SERVICES}", project="shop", deployment="s",
            slot=number, generation=1, template_id="t", node_id=f"m{number % NODES}", address=address(number % NODES),
            host_ports={"80/tcp": 20000}, state=ReplicaState.RUNNING, healthy_since=1.0, **common,
        )
        for number in range(SERVICES * ENDPOINTS)
    ]  # fmt: skip
    return members, deployments, replicas


async def staleness(url: str, changes: int) -> dict[str, Any]:
    """Return for how long answers are old."""
    store = await open_store(url)
    cache = Cache(store)
    await cache.start()
    applier = Applier(store, cache)
    members, deployments, replicas = records()
    every = [*members, *deployments, *replicas]
    for at in range(0, len(every), 500):
        await applier.commit(Step(puts=tuple(every[at : at + 500])))
    names = NamesLoop(Hub(time.time), DOMAIN, CollectorRegistry())
    runner = Runner(cache, applier, [names.controller()], time.time, LoopMetrics(CollectorRegistry()))
    running = asyncio.create_task(runner.run())
    while names.zone is None:  # noqa: ASYNC110 - once, at the start
        await asyncio.sleep(0.01)
    port = await names.server.listen("127.0.0.1", 0)
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.setblocking(False)
    asker.connect(("127.0.0.1", port))
    loop = asyncio.get_running_loop()

    async def churn() -> None:
        for number in range(10**9):
            known = cache.get("replicas", replicas[number % len(replicas)].id)
            assert isinstance(known, Replica)
            turned = 0.0 if known.healthy_since else 1.0
            await applier.commit(Step(puts=(msgspec.structs.replace(known, healthy_since=turned),)))
            await asyncio.sleep(0.05)

    async def told(name: str, expected: str) -> None:
        packet = dns.message.make_query(name, "A").to_wire()
        while True:
            await loop.sock_sendall(asker, packet)
            answer = dns.message.from_wire(await loop.sock_recv(asker, 4096))
            if answer.answer and answer.answer[0][0].to_text() == expected:
                return
            await asyncio.sleep(0.001)

    churning = asyncio.create_task(churn())
    called, stored = [], []
    for number in range(changes + 1):
        member = cache.get("members", f"m{number}")
        assert isinstance(member, Member)
        fresh = f"10.200.{number // 250}.{number % 250 + 1}"
        began = time.perf_counter()
        await applier.commit(Step(puts=(msgspec.structs.replace(member, lease=Lease(address=fresh)),)))
        acknowledged = time.perf_counter()
        await told(f"n{number}.node.{DOMAIN}", fresh)
        ended = time.perf_counter()
        called.append(ended - began)
        stored.append(ended - acknowledged)
        await asyncio.sleep(random.uniform(0.01, 0.05))
    for task in (churning, running):
        task.cancel()
    await asyncio.gather(churning, running, return_exceptions=True)
    await names.server.close()
    await cache.stop()
    await store.close()
    del called[0], stored[0]  # the loop was still resting from its first look at everything
    return {"changes": changes, "nodes": NODES, "replicas": len(replicas)} | {
        f"{name}_{label}_ms": round(1000 * value, 2)
        for name, times in (("from_acknowledgement", stored), ("from_call", called))
        for label, value in (
            ("median", statistics.median(times)),
            ("p99", statistics.quantiles(times, n=100)[98]),
            ("max", max(times)),
        )
    }


def main() -> None:
    """Measure, and write JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--store", default="", help="of the measurement of staleness; SQLite unless told")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    found: dict[str, Any] = {"benchmark": "names", "machine": describe()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.which("dnsperf"):
            with ours() as port:
                found["fallow"] = speed(port, folder, options.seconds)
            if Path("/usr/sbin/knotd").exists():
                with knot(folder) as port:
                    found["peer"] = {"name": "Knot DNS, zone file"} | speed(port, folder, options.seconds)
        url = options.store or f"sqlite:{folder / 'names.db'}"
        found["staleness"] = asyncio.run(staleness(url, options.changes))
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
