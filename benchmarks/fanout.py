"""Fan-out: one image to many nodes; how much of it the registry gives, and how long it takes.

Two runs. `engines`: real engines on one machine, each in namespaces of its own, told by `fallow image pull --on all`
to pull one image of incompressible layers. `hollow`: agents without an engine, in one process but with everything else
real (disks, TLS between each two, the plan of the control plane), whose links are throttled; size and links are scaled
down together, since bytes per second of one machine are shared by all.

Peer: direct pulls of the same image by the same engines at the same time, from the same registry. Bounds: direct
N*S/E, whole-image sharing (S/B)*log2 N, passing pieces on S/B; S size, B a node's link, E the registry's.

    python benchmarks/fanout.py engines [--nodes 16] [--size 1GiB]     needs root, Podman and docker-registry
    python benchmarks/fanout.py hollow [--nodes 200] [--size 16MiB] [--link 1MiB] [--registry-link 10MiB]
"""

import argparse
import asyncio
import math
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from figures import options_of, write
from machine import describe

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

from blob_nodes import MadeImage, Neighbourhood, Node, Origin, made_image  # noqa: E402
from records import member  # noqa: E402

from fallow.agent.blobs import Settings  # noqa: E402
from fallow.control.blobs import Blobs as Plan  # noqa: E402
from fallow.drivers.blobs.peers import Throttle  # noqa: E402
from fallow.model.image_frames import BlobsChanged  # noqa: E402
from fallow.model.images import PullGrant  # noqa: E402
from fallow.model.members import Lease, Member  # noqa: E402
from fallow.model.units import parse_bytes  # noqa: E402

LAYERS = 4
SAMPLE_BYTES = 64 * 1024


# real engines


@dataclass
class Gate:
    """Passes connections on to a registry, and counts what it gives."""

    host: str
    upstream: tuple[str, int]
    given: int = 0
    port: int = 0
    _open: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        """Listen."""
        listening = socket.create_server((self.host, 0), backlog=512)
        self.port = listening.getsockname()[1]
        self._open.append(listening)
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        for each in self._open:
            each.close()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(self.upstream)
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket, counts: bool) -> None:
        try:
            while piece := source.recv(SAMPLE_BYTES):
                self.given += len(piece) * counts
                to.sendall(piece)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            to.close()


def engines(options: argparse.Namespace) -> dict[str, Any]:
    """Pull one image on real engines, through Fallow and directly."""
    from testbed import images, noise
    from testbed.cluster import Cluster
    from testbed.engines import PodmanNode
    from testbed.fabric import Fabric
    from testbed.ports import free_port
    from testbed.registry import Registry

    names = [f"n{number}" for number in range(options.nodes)]
    with Fabric() as fabric:
        registry = Registry(fabric)
        host, _, port = registry.address.rpartition(":")
        gate = Gate(fabric.host_address, (host, int(port)))
        gate.start()
        cluster = Cluster(fabric, port=free_port(17643))
        try:
            made = [noise.image(seed, options.size // LAYERS, LAYERS) for seed in (1, 2)]
            shared, direct = (images.push(registry.address, f"noise:{n}", each) for n, each in enumerate(made))
            size = sum(len(layer.blob) for layer in made[0].layers)
            cluster.start_server()
            place = f"{gate.host}:{gate.port}"
            cluster.fallow("registry", "add", place, "--insecure")
            for name in names:
                cluster.nodes[name] = PodmanNode(fabric, name)
                cluster.nodes[name].power_on(wait=False)
            for name in names:
                cluster.nodes[name].wait_ready()
                cluster.join(name, "--name", name, token=cluster.token("node"))
            cluster.wait_ready(*names, seconds=120)
            gate.given, begun = 0, time.monotonic()
            cluster.fallow(
                "image", "pull", shared.replace(registry.address, place), "--on", "all", "--parallel", "100%",
                timeout=options.timeout,
            )  # fmt: skip
            fanned = {"seconds": time.monotonic() - begun, "egress_images": gate.given / size}
            sys.stderr.write(f"{fanned}\n")
            gate.given, begun = 0, time.monotonic()
            with ThreadPoolExecutor(options.nodes) as pool:
                list(
                    pool.map(
                        lambda name: _pull(cluster, name, direct.replace(registry.address, place), options.timeout),
                        names,
                    )
                )
            alone = {"seconds": time.monotonic() - begun, "egress_images": gate.given / size}
        finally:
            cluster.close()
            gate.stop()
    return {"nodes": options.nodes, "image_bytes": size, "fallow": fanned, "direct": alone}


def _pull(cluster: Any, name: str, reference: str, seconds: float) -> None:
    """Have an engine pull by itself."""
    node = cluster.nodes[name]
    url = f"http://d/v4.0.0/libpod/images/pull?reference={reference}&tlsVerify=false"
    words = ["curl", "-s", "-X", "POST", "--max-time", str(seconds), "--unix-socket", str(node.socket), url]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if '"id"' not in told:
        raise RuntimeError(told[-500:])


# hollow agents


class Members:
    """Stands where the control plane's cache does."""

    def __init__(self, nodes: int) -> None:
        self.known = {f"n-x{n}": member(f"x{n}", lease=Lease(address="127.0.0.1")) for n in range(nodes)}

    def get(self, _kind: str, id_: str) -> Member | None:
        """Return a member."""
        return self.known.get(id_)


class Line:
    """Stands where a session does."""

    def __init__(self, id_: str) -> None:
        self.member_id = id_


class Told(Node):
    """A node whose news reach the plan."""

    plan: Plan
    line: Line

    async def _send(self, frame: BlobsChanged) -> None:
        await super()._send(frame)
        self.plan.heard(self.line, frame)


@dataclass
class Linked(Origin):
    """A registry with one link, which all who pull share."""

    link: Throttle = field(default_factory=Throttle)

    async def _chunks(self, body: bytes, offset: int) -> Any:
        for start in range(offset, len(body), SAMPLE_BYTES):
            chunk = body[start : start + SAMPLE_BYTES]
            await self.link.take(len(chunk))
            self.sent += len(chunk)
            yield chunk


async def _drain(node: Node, name: str, made: MadeImage) -> None:
    """Read everything from a node's endpoint, as its engine would."""
    host, _, path = name.partition("/")
    repository = path.partition("@")[0]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        for layer in made.image.layers:
            async with session.get(f"http://{host}/v2/{repository}/blobs/{layer.digest}", raise_for_status=True) as got:
                async for _ in got.content.iter_any():
                    pass


async def hollow(options: argparse.Namespace) -> dict[str, Any]:
    """Pull one image on agents without engines, all at once."""
    made = made_image(*[options.size // LAYERS] * LAYERS)
    members = Members(options.nodes)
    plan = Plan(members)  # type: ignore[arg-type]
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="fallow-fanout-") as folder:
        async with Neighbourhood(Path(folder)) as place:
            origin = Linked(made.blobs, link=Throttle(options.registry_link), silence_seconds=120.0)
            nodes = []
            for id_ in members.known:
                node = Told(place, id_, origin, Settings(address="127.0.0.1", bytes_per_second=options.link))
                node.plan, node.line = plan, Line(id_)
                await node.start()
                nodes.append(node)
            begun = time.monotonic()

            async def one(node: Node) -> None:
                await asyncio.sleep(random.random() * 0.2)  # answers do not arrive at one instant
                mirror, sources = plan.sources(members.known[node.id], made.image)
                grant = PullGrant(reference=made.reference, image=made.image, mirror=mirror, sources=sources)
                name = await node.blobs.source(grant, made.image)
                if name is None:
                    raise RuntimeError(f"{node.id} was sent to the registry")
                await _drain(node, name, made)
                seconds.append(time.monotonic() - begun)

            await asyncio.gather(*(one(node) for node in nodes))
            await asyncio.gather(*(node.stop() for node in nodes))
    size, link = made.size, options.link
    seconds.sort()
    return {
        "nodes": options.nodes,
        "image_bytes": size,
        "link_bytes_per_second": link,
        "registry_bytes_per_second": options.registry_link,
        "egress_images": origin.sent / size,
        "seconds_median": seconds[len(seconds) // 2],
        "seconds_last": seconds[-1],
        "bound_direct_seconds": options.nodes * size / options.registry_link,
        "bound_whole_image_seconds": size / link * math.log2(options.nodes),
        "bound_pieces_seconds": size / link,
    }


def main() -> None:
    """Measure."""
    parser = options_of(__doc__)
    parser.add_argument("run", choices=("engines", "hollow"))
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--size", type=parse_bytes, default=0)
    parser.add_argument("--link", type=parse_bytes, default=parse_bytes("1MiB"))
    parser.add_argument("--registry-link", type=parse_bytes, default=parse_bytes("10MiB"))
    parser.add_argument("--timeout", type=float, default=3600.0)
    options = parser.parse_args()
    real = options.run == "engines"
    options.nodes = options.nodes or (16 if real else 200)
    options.size = options.size or parse_bytes("1GiB" if real else "16MiB")
    figures = engines(options) if real else asyncio.run(hollow(options))
    write({"machine": describe(), options.run: msgspec.to_builtins(figures)}, options)


if __name__ == "__main__":
    main()
