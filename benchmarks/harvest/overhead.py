"""What a server's agent costs: its own processor time, beside so many containers and primaries.

Containers are control groups of their own with a process that sleeps and wakes; the primaries are a control group and a
process with children. The agent measures, decides, holds the limit and makes a report each second, without a session.
Aim: less than 1 % of a processor beside 50 containers.

    python benchmarks/harvest/overhead.py [--containers 50] [--seconds 30] [--json FILE]      (as root)
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
# ruff: noqa: E402 - the folders above have to be found first
from machine import describe

from fallow.agent.lending import Lending
from fallow.agent.measuring import Measuring
from fallow.agent.primaries import GroupSource, source
from fallow.agent.server import NoMachines
from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.frames import Frame
from fallow.model.server_frames import ServerReported, SetLending
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import Primary
from fallow.model.wire import encode_frame
from testbed import cgroups

WAKES = "import time\nwhile True: time.sleep(0.2)"
FAMILY = (
    "import subprocess, sys, time\n"
    "kept = [subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(3600)']) for _ in range(8)]\n"
    "time.sleep(3600)"
)


async def measured(lending: Lending, seconds: float) -> dict[str, Any]:
    """Run the agent for so long, and return what that took."""
    task = asyncio.create_task(lending.run())
    try:
        await asyncio.sleep(3)
        cpu, wall, sizes = time.process_time(), time.perf_counter(), []
        while time.perf_counter() - wall < seconds:
            await asyncio.sleep(1)
            frame: Frame = ServerReported(report=lending.report())
            sizes.append(len(encode_frame(frame)))
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return {"share_of_a_processor": round(share, 5), "report_bytes": max(sizes)}


def run(containers: int, seconds: float) -> dict[str, Any]:
    """Measure beside so many containers."""
    groups = Groups()
    with cgroups.groups(2) as (primary, lent), tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
        limits = KernelLimits(lent, groups)
        limits.prepare()
        cgroups.make(primary)
        children: list[subprocess.Popen[bytes]] = [cgroups.burn(primary, WAKES)]
        for number in range(containers):
            name = f"{lent}/pod-{number}"
            cgroups.make(name)
            children.append(cgroups.burn(name, WAKES))
        program = Path(folder) / "family"
        program.symlink_to(sys.executable)
        children.append(subprocess.Popen([str(program), "-I", "-S", "-c", FAMILY], start_new_session=True))
        for child in children:
            ends.callback(child.wait)
            ends.callback(child.kill)
        primaries = [Primary(kind="cgroup", name=primary), Primary(kind="process", name="family")]
        waits = GroupSource(Primary(kind="cgroup", name=lent), groups)
        measuring = Measuring(
            limits,
            [source(each, groups, lent) for each in primaries],
            lent=waits,
        )
        lending = Lending(measuring, limits, NoMachines("none"), Path(folder))
        lending.told(SetLending(policy=LendingPolicy()))
        found = asyncio.run(measured(lending, seconds))
        report = lending.report()
        found["primaries_found"] = [row.found for row in report.primaries]
        found["processes_on_the_machine"] = sum(1 for place in Path("/proc").iterdir() if place.name.isdigit())
        found["parts_ms"] = parts(measuring, limits)
        for pid in measuring_family(program):
            subprocess.run(["kill", "-9", str(pid)], check=False)
        return found


def measuring_family(program: Path) -> list[int]:
    """Return the children of the primary by name."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                first = (Path("/proc") / str(parent) / "cmdline").read_bytes().split(b"\0", 1)[0].decode()
            except (OSError, ValueError, IndexError):
                continue
            if first == str(program):
                found.append(int(place.name))
    return found


def parts(measuring: Measuring, limits: KernelLimits) -> dict[str, float]:
    """Return milliseconds of single steps."""
    found = {}
    for name, part in (
        ("measure", measuring.measure),
        ("set_a_limit", lambda: limits.hold_cpus(1.0 + time.perf_counter() % 1)),
        ("use", limits.use),
        ("check_weights", limits.prepare),
    ):
        cpu = time.process_time()
        for _ in range(20):
            part()
        found[name] = round((time.process_time() - cpu) / 20 * 1000, 3)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if (reason := cgroups.missing()) is not None:
        sys.exit(reason)
    rows = {str(count): run(count, asked.seconds) for count in (0, asked.containers)}
    text = json.dumps({"machine": describe(), "containers": rows, "aim": 0.01}, indent=1)
    print(text)
    if asked.json is not None:
        asked.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
