"""What is lent is held within its limits: the fake and the kernel's control groups say and do the same."""

import os
from pathlib import Path

import pytest

from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.contract import LimitsError
from fallow.drivers.limits.fake import FakeLimits
from fallow.drivers.limits.kernel import PERIOD_US, KernelLimits
from fallow.drivers.machine.groups import MachineGroups, quota_us
from testbed import cgroups, processes

MIB = 2**20


@pytest.fixture
def lent():
    with cgroups.groups(1) as names:
        yield names[0]


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.real)])
def limits(request):
    if request.param == "fake":
        yield FakeLimits()
        return
    if (reason := cgroups.missing()) is not None:
        pytest.skip(reason)
    with cgroups.groups(1) as names:
        yield KernelLimits(names[0])


@pytest.fixture
def kernel(lent):
    if (reason := cgroups.missing()) is not None:
        pytest.skip(reason)
    made = KernelLimits(lent)
    assert made.prepare() == ()
    return made


def test_a_group_is_made_once_and_has_no_limit_at_first(limits):
    assert limits.prepare() == ()
    assert limits.cpus() is None
    assert limits.hold_cpus(0.5) == ()
    assert limits.prepare() == ()  # again, as after a restart
    assert limits.cpus() == 0.5


@pytest.mark.parametrize("cpus", [0.05, 0.5, 1.0, 1.73, 64.0])
def test_a_limit_reads_back(limits, cpus):
    limits.prepare()
    assert limits.hold_cpus(cpus) == ()
    assert limits.cpus() == pytest.approx(cpus, abs=0.01)


def test_limits_follow_each_other(limits):
    limits.prepare()
    for cpus in (2.0, 0.3, 1.9, 0.05, 0.06):
        assert limits.hold_cpus(cpus) == ()
        assert limits.cpus() == pytest.approx(cpus, abs=0.01)


def test_memory_is_held(limits):
    limits.prepare()
    assert limits.hold_memory(64 * MIB, 128 * MIB) == ()
    assert limits.hold_memory(0, 0) == ()


def test_use_begins_at_nothing(limits):
    limits.prepare()
    use = limits.use()
    assert (use.cpu_seconds, use.memory_bytes, use.throttled_periods) == (0, 0, 0)


@pytest.mark.real
def test_a_second_agent_finds_the_limit_of_the_first(kernel):
    kernel.hold_cpus(0.4)
    assert KernelLimits(kernel.group).cpus() == 0.4


@pytest.mark.real
def test_the_kernel_holds_what_is_lent(kernel):
    kernel.hold_cpus(0.2)
    cgroups.favour(kernel.group)
    began = kernel.use()
    children = [cgroups.burn(kernel.group) for _ in range(2)]
    try:
        processes.wait_until(lambda: kernel.use().periods - began.periods >= 12, 10, "twelve periods")
        use = kernel.use()
        assert use.throttled_periods > began.throttled_periods
        seconds = (use.periods - began.periods) * PERIOD_US / 1e6
        assert 0 < use.cpu_seconds - began.cpu_seconds <= 0.2 * seconds + 0.1
        assert use.memory_bytes > 0
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.real
def test_a_very_small_limit_is_for_sure_and_a_larger_one_is_not(kernel):
    groups = Groups()
    folder = groups.folder("cpu", kernel.group)
    weight = folder / ("cpu.weight" if groups.version == 2 else "cpu.shares")
    lowest = kernel_weight(folder, weight)
    for _ in range(2):
        assert kernel.hold_cpus(0.05) == ()
        assert kernel_weight(folder, weight) in ((0, 100), (0, 1024))
        assert KernelLimits(kernel.group).prepare() == ()  # as after a restart
        assert kernel_weight(folder, weight) in ((0, 100), (0, 1024))
        assert kernel.hold_cpus(0.5) == ()
        assert kernel_weight(folder, weight) == lowest


def kernel_weight(folder, weight):
    """Return (cpu.idle, weight) of a group; one that is idle has none."""
    idle = folder / "cpu.idle"
    is_idle = int(idle.read_text()) if idle.is_file() else 0
    return is_idle, 0 if is_idle else int(weight.read_text())


@pytest.mark.real
def test_what_is_lent_runs_when_nothing_else_wants_to(kernel):
    groups = Groups()
    folder = groups.folder("cpu", kernel.group)
    idle = folder / "cpu.idle"
    weight = folder / ("cpu.weight" if groups.version == 2 else "cpu.shares")
    assert (idle.is_file() and idle.read_text().strip() == "1") or weight.read_text().strip() in ("1", "2")


@pytest.mark.real
def test_memory_above_the_limit_is_not_taken_by_ending_processes(kernel):
    cgroups.favour(kernel.group)
    child = cgroups.burn(kernel.group, "kept = bytearray(96 << 20)\nwhile True: pass")
    try:
        processes.wait_until(lambda: (kernel.use().memory_bytes or 0) > 80 * MIB, 10, "memory in use")
        assert kernel.hold_memory(16 * MIB, 32 * MIB) == ()
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


@pytest.mark.real
def test_a_group_that_somebody_removed_comes_back_with_its_limit(kernel):
    kernel.hold_cpus(0.4)
    cgroups.remove(kernel.group)
    assert kernel.hold_cpus(0.4) != ()  # said, not raised
    assert kernel.prepare() == ()
    assert kernel.hold_cpus(0.4) == ()
    assert kernel.cpus() == 0.4


@pytest.mark.real
def test_a_larger_quota_below_makes_way_and_comes_back(kernel):
    if Groups().version != 1:
        pytest.skip("version 2 of control groups needs no help with this")
    folder = Groups().folder("cpu", kernel.group)
    inner = folder / "pod" / "container"
    inner.mkdir(parents=True)
    small = folder / "small"
    small.mkdir()

    def quota(place: Path) -> int:
        return int((place / "cpu.cfs_quota_us").read_text())

    kernel.hold_cpus(2.0)
    (folder / "pod" / "cpu.cfs_quota_us").write_text("180000")
    (inner / "cpu.cfs_quota_us").write_text("150000")
    (small / "cpu.cfs_quota_us").write_text("5000")
    for cpus in (1.6, 0.5, 0.3):
        assert kernel.hold_cpus(cpus) == ()
    assert (quota(folder / "pod"), quota(inner), quota(small)) == (30000, 30000, 5000)
    another = KernelLimits(kernel.group)  # as after a restart: what they had is kept with them
    assert another.hold_cpus(1.6) == ()
    assert (quota(folder / "pod"), quota(inner), quota(small)) == (160000, 150000, 5000)
    assert another.hold_cpus(2.0) == ()
    assert (quota(folder / "pod"), quota(inner), quota(small)) == (180000, 150000, 5000)
    assert not [name for name in os.listxattr(folder / "pod") if "fallow" in name]


@pytest.mark.real
@pytest.mark.parametrize("grown", [0.25, 1.6])  # before the wish is noted, or after it
def test_what_started_while_there_was_little_grows_with_the_limit(kernel, grown):
    if Groups().version != 1:
        pytest.skip("version 2 of control groups needs no help with this")
    for cpus in (0.2, 0.25):
        assert kernel.hold_cpus(cpus) == ()
    machines = MachineGroups(kernel.group.strip("/"))
    machines.make("vm.slice")
    quota = Groups().folder("cpu", kernel.group) / "vm.slice" / "cpu.cfs_quota_us"
    quota.write_text(str(quota_us(machines.room())))
    assert kernel.hold_cpus(grown) == ()
    machines.keep_quota("vm.slice", 1.0)
    assert kernel.hold_cpus(1.6) == ()
    assert quota.read_text() == "100000\n"
    assert [name for group in (quota.parent, quota.parents[1]) for name in os.listxattr(group)] == []


@pytest.mark.real
def test_groups_below_are_looked_at_only_while_one_has_made_way(kernel, monkeypatch):
    if Groups().version != 1:
        pytest.skip("version 2 of control groups needs no help with this")
    folder = Groups().folder("cpu", kernel.group)
    below = folder / "pod" / "cpu.cfs_quota_us"
    below.parent.mkdir()
    looks, walk = [], os.walk
    monkeypatch.setattr(os, "walk", lambda top: looks.append(top) or walk(top))
    assert kernel.hold_cpus(1.5) == ()
    assert looks == [folder]  # an agent before this one may have lowered something
    for cpus in (1.0, 1.4):
        assert kernel.hold_cpus(cpus) == ()
    assert looks == [folder]
    below.write_text("120000")
    assert kernel.hold_cpus(0.5) == ()
    assert below.read_text() == "50000\n"
    assert kernel.hold_cpus(1.3) == ()
    assert below.read_text() == "120000\n"
    looks.clear()
    assert kernel.hold_cpus(1.4) == ()
    assert looks == []


def test_where_there_are_no_control_groups_nothing_can_be_lent(tmp_path):
    with pytest.raises(LimitsError, match="no control groups"):
        KernelLimits("/lent", Groups(root=tmp_path)).prepare()
    impossible = FakeLimits()
    impossible.impossible = "no"
    with pytest.raises(LimitsError):
        impossible.prepare()
