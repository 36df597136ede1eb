"""A latency-sensitive primary beside lent work: nginx under an open-loop load with bursts.

Three times the same load: the primary alone; beside burners of the same weight that nothing limits; beside the same
burners in the group of what is lent, held by a server's agent. Told are response times from the moment a request was
due (not from when a slow server let it be sent) until its answer had come (not until the client, which shares these
processors, got to read it); how long nginx waited for processors; the share of the idle processor time that was lent;
and how long after the begin of a burst the limit was down. nginx compresses each answer anew, so that a request costs
milliseconds.

All of it runs in a control group that goes before everything else here, so that other work on the machine shows less;
still, figures count only from a machine at rest. Needs root, control groups and nginx (apt-get install nginx-light).

    python benchmarks/harvest/live.py [--seconds 60] [--ceiling 0.8] [--json FILE]
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
# ruff: noqa: E402 - the folders above have to be found first
import open_loop
from machine import describe

from fallow.agent.lending import Lending
from fallow.agent.measuring import Measuring
from fallow.agent.primaries import source
from fallow.agent.processes import Watched
from fallow.agent.server import NoMachines
from fallow.agent.whole import WholeGroup, WholeMachine
from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.server_frames import SetLending
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import Primary
from testbed import cgroups, parts

CPUS = os.cpu_count() or 1
PERIOD, BURST = 15.0, 3.0  # seconds; each period ends with a burst
CALM_RATE, BURST_RATE = 25.0, 130.0
PAGE_BYTES = 160 * 1024
LOOK_SECONDS = 0.02
WARM_SECONDS = 5.0
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
    """One load on one nginx, in groups of one parent."""

    parent: str
    folder: Path
    port: int
    groups: Groups = field(default_factory=Groups)
    _watched: Watched = field(default_factory=Watched, init=False)
    _began: tuple[float, float] = field(default=(0.0, 0.0), init=False)  # when the load did, and what others had used

    def __post_init__(self) -> None:
        """Make the groups."""
        self.primary, self.load, self.lent = (f"{self.parent}/{name}" for name in ("primary", "load", "lent"))
        for group in (self.parent, self.primary, self.load):
            cgroups.make(group)
        cgroups.favour(self.parent)
        cgroups.allow_first(self.load)

    def used(self, *names: str) -> float:
        """Return the processor time of groups so far."""
        return sum(self.groups.cpu_seconds(name) or 0.0 for name in names)

    @contextmanager
    def nginx(self) -> Iterator[None]:
        """Run nginx in its group."""
        text = CONFIG.format(folder=self.folder, port=self.port, workers=CPUS)
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")
        words = [f"line {number}: {number * 2654435761 % 2**32:x}" for number in range(PAGE_BYTES // 20)]
        (self.folder / "page.txt").write_text("\n".join(words), encoding="utf-8")
        self.folder.chmod(0o755)
        program = parts.program("nginx") or "nginx"
        server = subprocess.Popen(
            [program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")],
            preexec_fn=lambda: cgroups.enter(self.primary),  # noqa: PLW1509
        )
        try:
            time.sleep(1)
            yield
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()

    def start_load(self, seconds: float) -> subprocess.Popen[bytes]:
        """Start the load in its group, in a process of its own; it prints what it found."""
        self._watched.use(self.groups.processes(self.primary))
        self._began = time.monotonic(), self._others()
        return subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--load", str(self.port), "--seconds", str(seconds)],
            stdout=subprocess.PIPE,
            preexec_fn=lambda: cgroups.enter(self.load),  # noqa: PLW1509
            env=dict(os.environ),
        )

    def seen(self) -> dict[str, float]:
        """Return how long nginx waited for processors since the load began, and what others used meanwhile.

        Others are all but these groups: the agent and this program, what else runs here, and what the host took away.
        """
        waited = self._watched.use(self.groups.processes(self.primary)).waited_seconds
        others = (self._others() - self._began[1]) / (time.monotonic() - self._began[0])
        return {"primary_waited_seconds": round(waited, 3), "others_cpus": round(others, 3)}

    def _others(self) -> float:
        return WholeMachine().use().busy_seconds - self.used(self.parent)


async def looks(limits: KernelLimits, child: subprocess.Popen[bytes]) -> tuple[bytes, list[tuple[float, float]]]:
    """Wait for the load to end; return what it printed, and the limit at moments since it began."""
    began, found = time.monotonic(), []
    done = asyncio.create_task(asyncio.to_thread(child.communicate))
    while not done.done():
        found.append((time.monotonic() - began, limits.cpus() or float(CPUS)))
        await asyncio.sleep(LOOK_SECONDS)
    return done.result()[0], found


async def held(bench: Bench, seconds: float, ceiling: float) -> tuple[bytes, list[tuple[float, float]], float]:
    """Run the load beside lent work that an agent holds; the limit has `WARM_SECONDS` to grow first."""
    limits = KernelLimits(bench.lent, bench.groups)
    problems = limits.prepare()
    if problems:
        sys.exit("; ".join(problems))
    primaries = [source(Primary(kind="cgroup", name=bench.primary), bench.groups, bench.lent)]
    measuring = Measuring(limits, primaries, whole=WholeGroup(bench.parent, bench.groups))
    with tempfile.TemporaryDirectory() as folder:
        lending = Lending(measuring, limits, NoMachines("none"), Path(folder))
        lending.told(SetLending(policy=LendingPolicy(cpu_threshold=ceiling - 0.1, cpu_ceiling=ceiling)))
        task = asyncio.create_task(lending.run())
        burners = [cgroups.burn(bench.lent) for _ in range(CPUS)]
        try:
            await asyncio.sleep(WARM_SECONDS)
            before = bench.used(bench.lent)
            text, found = await looks(limits, bench.start_load(seconds))
            return text, found, bench.used(bench.lent) - before
        finally:
            _end(burners)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def unlimited(bench: Bench, seconds: float) -> tuple[bytes, float]:
    """Run the load beside the same work with a weight like the primary's."""
    name = f"{bench.parent}/greedy"
    cgroups.make(name)
    burners = [cgroups.burn(name) for _ in range(CPUS)]
    try:
        child = bench.start_load(seconds)
        text, _ = await asyncio.to_thread(child.communicate)
        return text, bench.used(name)
    finally:
        _end(burners)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            child.kill()
        child.wait()


def row(text: bytes, idle: float, lent: float) -> dict[str, Any]:
    """Return response times in milliseconds, and what was lent of the idle time."""
    answers = [open_loop.Answer(*each) for each in json.loads(text)]
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
        "lent_core_seconds": round(lent, 1),
        "lent_share_of_idle": round(lent / idle, 3),
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


def run(seconds: float, ceiling: float) -> dict[str, Any]:
    """Run all three."""
    with cgroups.groups(1) as (parent,), tempfile.TemporaryDirectory() as folder:
        bench = Bench(parent, Path(folder), 20000 + os.getpid() % 20000)
        with bench.nginx():
            before = bench.used(bench.primary, bench.load)
            alone = bench.start_load(seconds).communicate()[0]
            beside = [bench.seen()]
            idle = seconds * CPUS - (bench.used(bench.primary, bench.load) - before)
            free, taken = asyncio.run(unlimited(bench, seconds))
            beside.append(bench.seen())
            text, seen, lent = asyncio.run(held(bench, seconds, ceiling))
            beside.append(bench.seen())
    begin = max(0.0, seen[-1][0] - seconds)  # the load's process takes a moment to start
    times = reactions(seen, seconds, begin)
    rows = {"alone": row(alone, idle, 0.0), "unlimited": row(free, idle, taken), "fallow": row(text, idle, lent)}
    allowed = statistics.fmean(min(limit, CPUS) for at, limit in seen if at >= begin) * seconds
    for told, more in zip(rows.values(), beside, strict=True):
        told.update(more)
    rows["fallow"]["allowed_share_of_idle"] = round(allowed / idle, 3)  # other work on this machine may have taken it
    return {
        "seconds": seconds,
        "ceiling": ceiling,
        "idle_core_seconds": round(idle, 1),
        "rows": rows,
        "p99_against_alone": round(rows["fallow"]["p99_ms"] / rows["alone"]["p99_ms"], 3),
        "reaction_seconds": {"median": statistics.median(times), "max": max(times)} if times else {},
        "aims": {"p99_against_alone": 1.05, "lent_share_of_idle": 0.7, "reaction_seconds": 1.5},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ceiling", type=float, default=LendingPolicy().cpu_ceiling)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load is not None:
        open_loop.go_first()
        print(json.dumps([astuple(answer) for answer in open_loop.load(asked.load, asked.seconds, due)]))
        return
    reason = cgroups.missing() or parts.missing("nginx")
    if reason is not None:
        sys.exit(f"{reason} (nginx: apt-get install nginx-light)")
    text = json.dumps({"machine": describe(), **run(asked.seconds, asked.ceiling)}, indent=1)
    print(text)
    if asked.json is not None:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
