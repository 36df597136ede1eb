"""A latency-sensitive primary beside lent work: nginx under an open-loop load with bursts, and containers.

Three times the same load on a machine with a real engine: the primary alone; beside containers that `podman run` has
started and nothing limits; beside the same containers as replicas of a deployment, on what the machine lends: the real
command joins it as a server, and the control plane places them. Each container uses all it gets. Told are response
times from the moment a request was due (not from when a slow server let it be sent) until its answer had come (not
until the client, which shares these processors, got to read it); how long nginx waited for processors; the share of the
idle processor time that what is lent used; and how long after the begin of a burst the limit was down. nginx compresses
each answer anew, so that a request costs milliseconds.

The machine is a control group with all processors that goes before everything else here, so that other work shows less,
such as that of the control plane; still, figures count only from a machine at rest. Needs root, control groups, Podman,
docker-registry, busybox and nginx (apt-get install nginx-light).

    python benchmarks/harvest/live.py [--seconds 60] [--ceiling 0.8] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
# ruff: noqa: E402 - the folders above have to be found first
import open_loop
import yaml
from figures import options_of, write
from ground import whole
from machine import describe

from fallow.agent.processes import Watched
from fallow.agent.whole import WholeMachine
from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.server_pools import LendingPolicy
from fallow.model.vms import LENT_GROUP
from testbed import cgroups, images, parts
from testbed.processes import wait_until
from testbed.servers import LendingServer

CPUS = os.cpu_count() or 1
PERIOD, BURST = 15.0, 3.0  # seconds; each period ends with a burst
CALM_RATE, BURST_RATE = 25.0, 130.0
PAGE_BYTES = 160 * 1024
PORT = 8080  # of nginx, on a machine of its own
SERVER, VM = "srv1", "srv1-vm"
MEMORY_BYTES = 4 * 2**30
BUSY = ("sh", "-c", "while :; do :; done")
RESERVED = {"cpus": "0.05", "memory": "16M"}
LOOK_SECONDS = 0.02
WARM_SECONDS = 5.0
THRESHOLD_BELOW = 0.1
CONFIG = """
daemon off; master_process on; worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  gzip on; gzip_http_version 1.0; gzip_comp_level 6; gzip_types text/plain;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


def due(now: float) -> float:
    """Return the rate of requests at a moment of the load."""
    return (BURST_RATE if now % PERIOD >= PERIOD - BURST else CALM_RATE) * CPUS / 2


@dataclass
class Bench:
    """One load on one nginx, both in groups of a server."""

    server: LendingServer
    image: str
    groups: Groups = field(default_factory=Groups)
    _watched: Watched = field(default_factory=Watched, init=False)

    def __post_init__(self) -> None:
        """Make the groups of the load and of what nothing limits."""
        self.primary, self.load, self.greedy = self.server.primary, self.server.make("load"), self.server.make("greedy")
        self.lent = f"{self.server.within}/{LENT_GROUP}"
        cgroups.favour(self.server.within)
        cgroups.allow_first(self.load)

    def used(self, *names: str) -> float:
        """Return the processor time of groups so far."""
        return sum(self.groups.cpu_seconds(name) or 0.0 for name in names)

    def start_nginx(self) -> None:
        """Start nginx in its group; it ends with the server."""
        folder = self.server.node.folder / "nginx"
        folder.mkdir()
        folder.chmod(0o755)
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=PORT, workers=CPUS), encoding="utf-8")
        words = [f"line {number}: {number * 2654435761 % 2**32:x}" for number in range(PAGE_BYTES // 20)]
        (folder / "page.txt").write_text("\n".join(words), encoding="utf-8")
        program = parts.program("nginx") or "nginx"
        self.server.run("primary", [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], folder / "log")
        wait_until((folder / "pid").exists, 10, "nginx")

    def under_load(self, name: str, seconds: float, lent: str) -> "Case":
        """Run the load in its group, in a process of its own, and return what it found; what is lent is in `lent`."""
        self._watched.use(self.groups.processes(self.primary))
        began, others, used = time.monotonic(), self._others(), self.used(lent)
        before = self.used(self.primary, self.load)
        log = self.server.node.folder / f"{name}.json"
        words = [sys.executable, str(Path(__file__)), "--load", str(PORT), "--seconds", str(seconds)]
        child, seen = self.server.run("load", words, log), []
        limits = KernelLimits(self.lent, self.groups)
        while child.poll() is None:
            seen.append((time.monotonic() - began, limits.cpus() or float(CPUS)))
            time.sleep(LOOK_SECONDS)
        waited = self._watched.use(self.groups.processes(self.primary)).waited_seconds
        return Case(
            seconds=seconds,
            text=log.read_bytes(),
            seen=seen,
            own_seconds=self.used(self.primary, self.load) - before,
            lent_seconds=self.used(lent) - used,
            beside={
                "primary_waited_seconds": round(waited, 3),
                "others_cpus": round((self._others() - others) / (time.monotonic() - began), 3),
            },
        )

    @contextmanager
    def greedy_containers(self) -> Iterator[None]:
        """Run containers that nothing limits, with a weight like the primary's."""
        podman = ("podman", "--url", self.server.node.url)
        run = ("run", "--detach", "--quiet", "--cgroup-parent", self.greedy, self.image, *BUSY)
        for _ in range(CPUS):
            subprocess.run((*podman, *run), check=True, stdout=subprocess.DEVNULL)
        yield
        subprocess.run((*podman, "rm", "--force", "--time", "0", "--all"), check=True, stdout=subprocess.DEVNULL)

    def lend(self, ceiling: float) -> None:
        """Let the machine join as a server, and deploy the same containers to what it lends; then let limits grow."""
        cluster = self.server.cluster
        shares = ("--cpu-threshold", f"{ceiling - THRESHOLD_BELOW:.0%}", "--cpu-ceiling", f"{ceiling:.0%}")
        cluster.fallow("server-pool", "policy", "set", "--isolation", "cgroup", "--vm-memory", "1GiB", *shares)
        self.server.join(token=cluster.token("server"))
        cluster.wait(lambda: cluster.members().get(VM, {}).get("state") == "ready", 60, "a node on lent capacity")
        service = {
            "image": self.image,
            "command": list(BUSY),
            "deploy": {"replicas": CPUS, "resources": {"reservations": RESERVED}},
            "x-fallow": {"class": "harvest"},
        }
        file = cluster.fabric.folder / "busy.yaml"
        file.write_text(yaml.safe_dump({"services": {"busy": service}}), encoding="utf-8")
        cluster.fallow("deploy", str(file), "--project", "lent", "--timeout", "90s")
        time.sleep(WARM_SECONDS)

    def running(self) -> int:
        """Return how many replicas run."""
        return [replica["state"] for replica in self.server.cluster.replicas()].count("running")

    def _others(self) -> float:
        """Return what all else here used: the control plane, this program, and what the host took away."""
        return WholeMachine().use().busy_seconds - self.used(self.server.within)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one load came to: what it printed, and the limit at moments since it was started."""

    seconds: float
    text: bytes
    seen: list[tuple[float, float]]
    own_seconds: float  # of processor, by the primary and its load
    lent_seconds: float
    beside: dict[str, float]


def row(case: Case, idle: float) -> dict[str, Any]:
    """Return response times in milliseconds, and what was lent of the idle time."""
    answers = [open_loop.Answer(*each) for each in json.loads(case.text)]
    found = [(answer.due, answer.took * 1000) for answer in answers]
    late = sorted(answer.late * 1000 for answer in answers)
    times = sorted(took for _, took in found)
    return {
        "requests": len(times),
        "failed": sum(1 for took in times if took >= 60_000),
        "p50_ms": round(times[len(times) // 2], 2),
        "p99_ms": round(times[int(len(times) * 0.99)], 2),
        "max_ms": round(times[-1], 2),
        "sent_late_p99_ms": round(late[int(len(late) * 0.99)], 2),
        "p99_ms_by_second_of_a_period": p99_by_second(found),
        "lent_core_seconds": round(case.lent_seconds, 1),
        "lent_share_of_idle": round(case.lent_seconds / idle, 3),
        **case.beside,
    }


def p99_by_second(found: list[tuple[float, float]]) -> list[float]:
    """Return the p99 of requests that were due in each second of a period, over all periods."""
    seconds: list[list[float]] = [[] for _ in range(int(PERIOD))]
    for at, took in found:
        seconds[int(at % PERIOD)].append(took)
    return [round(sorted(each)[int(len(each) * 0.99)], 1) for each in seconds if each]


def reactions(seen: list[tuple[float, float]], seconds: float, start: float) -> list[float]:
    """Return for each burst how long it took until the limit had made three quarters of its way down."""
    found = []
    for number in range(int(seconds // PERIOD)):
        begin = start + number * PERIOD + PERIOD - BURST
        before = [limit for at, limit in seen if begin - 1 <= at < begin]
        during = [(at, limit) for at, limit in seen if begin <= at < begin + BURST]
        if not before or not during:
            continue
        low = min(limit for _, limit in during)
        line = low + 0.25 * (before[-1] - low)
        found.append(round(next(at for at, limit in during if limit <= line) - begin, 2))
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run all three."""
    with ExitStack() as stack:
        cluster, image = stack.enter_context(whole(SERVER, "busybox:1", images.busybox()))
        server = LendingServer(cluster, SERVER, None, MEMORY_BYTES)
        stack.callback(server.close)
        bench = Bench(server, image)
        bench.start_nginx()
        cases = {"alone": bench.under_load("alone", options.seconds, bench.greedy)}
        with bench.greedy_containers():
            cases["unlimited"] = bench.under_load("unlimited", options.seconds, bench.greedy)
        bench.lend(options.ceiling)
        cases["fallow"] = bench.under_load("fallow", options.seconds, bench.lent)
        replicas = bench.running()
    figures = {"benchmark": "harvest-live", "machine": describe(), "seconds": options.seconds}
    return figures | {"ceiling": options.ceiling, "containers": CPUS, "replicas_at_the_end": replicas} | told(cases)


def told(cases: dict[str, Case]) -> dict[str, Any]:
    """Return what the three cases came to."""
    held, seconds = cases["fallow"], cases["alone"].seconds
    idle = seconds * CPUS - cases["alone"].own_seconds
    rows = {name: row(case, idle) for name, case in cases.items()}
    begin = max(0.0, held.seen[-1][0] - seconds)  # the load's process takes a moment to start
    times = reactions(held.seen, seconds, begin)
    allowed = statistics.fmean(min(limit, CPUS) for at, limit in held.seen if at >= begin) * seconds
    rows["fallow"]["allowed_share_of_idle"] = round(allowed / idle, 3)  # other work on this machine may have taken it
    return {
        "idle_core_seconds": round(idle, 1),
        "rows": rows,
        "p99_against_alone": round(rows["fallow"]["p99_ms"] / rows["alone"]["p99_ms"], 3),
        "reaction_seconds": {"median": statistics.median(times), "max": max(times)} if times else {},
        "aims": {"p99_against_alone": 1.05, "lent_share_of_idle": 0.7, "reaction_seconds": 1.5},
    }


def main() -> None:
    """Measure and write."""
    parser = options_of(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ceiling", type=float, default=LendingPolicy().cpu_ceiling)
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load is not None:
        open_loop.go_first()
        print(json.dumps([astuple(answer) for answer in open_loop.load(options.load, options.seconds, due)]))
        return
    missing = (cgroups.missing(), *(parts.missing(part) for part in ("podman", "registry", "busybox", "nginx")))
    if (reason := next((found for found in missing if found is not None), None)) is not None:
        parser.error(reason)
    write(run(options), options)


if __name__ == "__main__":
    main()
