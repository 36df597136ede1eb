"""What is lent gets out of the way of a real primary: real processes in real control groups, measured and held."""

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from fallow.agent.lending import Lending
from fallow.agent.measuring import Measuring
from fallow.agent.primaries import source
from fallow.agent.server import NoMachines
from fallow.agent.whole import WholeUse
from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.server_frames import SetLending
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import Primary
from testbed import cgroups, processes

pytestmark = pytest.mark.real
LOW_CPUS = 0.06  # the floor, as the kernel rounds it
TOLD = """
import mmap, os, signal, time
told = False
def tell(*_):
    global told
    told = True
signal.signal(signal.SIGUSR1, tell)
"""
# Uses a twentieth of a processor until it is told, and all of it from then on.
JUMPS = f"""{TOLD}
while not told:
    until = time.monotonic() + 0.005
    while time.monotonic() < until: pass
    time.sleep(0.095)
while True: pass
"""
# Rests until it is told; from then on it reads a file past all caches: as a whole, so that it waits for the disk much
# longer than for a processor afterwards, however many others want one.
READS = """
file = os.open({path!r}, os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, os.fstat(file).st_size)
buffer.write(bytes(len(buffer)))
while not told: time.sleep(0.02)
while True: os.preadv(file, [buffer], 0)
"""
FILE_BYTES = 2**27


class OneCpu:
    """A machine of one processor, on which nothing runs but the primary and what is lent."""

    def __init__(self, *names):
        self.groups, self.names = Groups(), names

    def use(self):
        busy = sum(self.groups.cpu_seconds(name) or 0.0 for name in self.names)
        return WholeUse(cpus=1.0, busy_seconds=busy, memory_bytes=2**34, used_memory_bytes=2**30)


def measuring(limits, primary, lent):
    sources = [source(Primary(kind="cgroup", name=primary), Groups(), lent)]
    return Measuring(limits, sources, whole=OneCpu(primary, lent))


class Steps:
    """Measures, and keeps what was measured."""

    def __init__(self, measuring):
        self.measuring, self.seen = measuring, []

    def measure(self):
        found = self.measuring.measure()
        if found is not None:
            self.seen.append(found)
        return found


@pytest.fixture
def pair():
    if (reason := cgroups.missing()) is not None:
        pytest.skip(reason)
    with cgroups.groups(2) as names:
        primary, lent = names
        cgroups.make(primary)
        cgroups.favour(primary)
        yield primary, lent


@pytest.fixture
def disk():
    """Return a folder that is on a disk."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        if processes.run("stat", "-f", "-c", "%T", name).strip() == "tmpfs":
            pytest.skip("/var/tmp is in memory: nobody waits for a disk there")
        yield Path(name)


def listens(child):
    """Say whether a child has come so far that it may be told."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    return int(status.partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGUSR1 - 1) & 1


async def come_true(condition, seconds):
    """Return how long it took; fails after `seconds`."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come true"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_a_jump_from_a_twentieth_to_all_is_met_in_the_step_that_sees_it(pair, tmp_path):
    primary, lent = pair
    limits = KernelLimits(lent)
    limits.prepare()
    limits.hold_cpus(0.6)  # what an agent before this one left: the next goes on from there
    steps, policy = Steps(measuring(limits, primary, lent)), LendingPolicy()
    lending = Lending(steps, limits, NoMachines(""), tmp_path)
    lending.told(SetLending(policy=policy))
    child = cgroups.burn(primary, JUMPS)
    burner = cgroups.burn(lent)
    task = asyncio.create_task(lending.run())
    try:
        await come_true(lambda: lending.report().lends and lending.report().primary_cpus > 0.02, 10)
        await come_true(lambda: (limits.cpus() or 0) > 0.5 and listens(child), 10)
        before = len(steps.seen)
        child.send_signal(signal.SIGUSR1)
        await come_true(lambda: (limits.cpus() or 1) <= LOW_CPUS, 30)
        enough = [found.own_cpus >= policy.cpu_ceiling - LOW_CPUS for found in steps.seen[before:]]
        assert sum(enough) >= 1
        assert len(enough) - enough.index(True) <= 2, "not in that step, nor while the next one was measured"
        await come_true(lambda: lending.report().primary_cpus > 0.5, 10)
        assert not lending.report().problems
    finally:
        for process in (child, burner):
            process.kill()
            process.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert limits.cpus() is not None  # ending leaves the limit as it is


async def test_a_primary_that_waits_for_its_disk_shrinks_what_is_lent(pair, disk, tmp_path):
    primary, lent = pair
    if Groups().waited_seconds(primary, "io") is None:
        pytest.skip("this kernel does not tell how long a control group waits (PSI)")
    path = disk / "file"
    path.write_bytes(os.urandom(FILE_BYTES))
    limits = KernelLimits(lent)
    limits.prepare()
    limits.hold_cpus(0.6)
    lending = Lending(measuring(limits, primary, lent), limits, NoMachines(""), tmp_path)
    lending.told(SetLending(policy=LendingPolicy()))
    child, burner = cgroups.burn(primary, TOLD + READS.format(path=str(path))), cgroups.burn(lent)
    task = asyncio.create_task(lending.run())
    try:
        await come_true(lambda: (limits.cpus() or 0) > 0.5 and listens(child), 20)
        before = limits.cpus() or 1
        child.send_signal(signal.SIGUSR1)
        await come_true(lambda: lending.report().io_waiting > 0.2, 20)
        # How far it falls depends on how much of it is used: what others on this machine take from it is not its doing.
        shrunk = before * 2 / 3
        await come_true(
            lambda: (limits.cpus() or 1) < shrunk and lending.report().used_cpus < 0.7, 20
        )  # with room left
    finally:
        for process in (child, burner):
            process.kill()
            process.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_primary_that_ends_means_nothing_new(pair, tmp_path):
    primary, lent = pair
    limits = KernelLimits(lent)
    lending = Lending(measuring(limits, primary, lent), limits, NoMachines(""), tmp_path)
    lending.told(SetLending(policy=LendingPolicy()))
    child = cgroups.burn(primary, JUMPS)
    task = asyncio.create_task(lending.run())
    try:
        await come_true(lambda: lending.report().lends, 10)
        child.kill()
        child.wait()
        await come_true(lambda: not lending.report().lends, 5)
        assert f"not found: cgroup:{primary}" in lending.report().why_not
    finally:
        child.kill()
        child.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
