"""What a server measures, from a /proc and control groups that a test writes: version 1, version 2, and both."""

import subprocess

import pytest

from fallow.agent.measuring import Measuring, Ring
from fallow.agent.primaries import ASK_SECONDS, GroupSource, source
from fallow.agent.whole import MeasureError
from fallow.decide.harvest.measured import Measured
from fallow.drivers.cgroups import Groups
from fallow.drivers.limits.contract import LentUse
from fallow.drivers.limits.fake import FakeLimits
from fallow.drivers.limits.kernel import KernelLimits
from fallow.model.servers import Primary, parse_primaries
from fallow.model.vms import LENT_GROUP

GIB = 2**30
LENT = Primary(kind="cgroup", name=f"/{LENT_GROUP}")


class World:
    """One machine of four processors: its /proc, its control groups, and a clock that a test moves."""

    def __init__(self, folder, kind):
        self.root, self.proc, self.cgroup, self.kind = folder, folder / "proc", folder / "cgroup", kind
        self.now, self.idle, self.limits = 100.0, 0.0, FakeLimits()
        for place in (self.proc, self.cgroup, folder / "sys" / "block" / "sda"):
            place.mkdir(parents=True)
        if kind == "v2":
            (self.cgroup / "cgroup.controllers").write_text("cpu memory io\n")
        else:
            for name in ("cpu", "cpuacct", "memory", "blkio"):
                (self.cgroup / name).mkdir()
        if kind == "hybrid":
            (self.cgroup / "unified").mkdir()
            (self.cgroup / "unified" / "cgroup.controllers").write_text("")
        self.machine(0)
        (self.proc / "meminfo").write_text(f"MemTotal: {32 * 2**20} kB\nMemAvailable: {24 * 2**20} kB\n")

    def machine(self, busy_seconds, sectors=0):
        self.busy = int(busy_seconds * 100)
        idle = int((self.now - 100) * 400) - self.busy + 10**6
        rows = "".join(f"cpu{number} 0 0 0 0 0 0 0 0 0 0\n" for number in range(4))
        (self.proc / "stat").write_text(f"cpu {self.busy} 0 0 {idle} 0 0 0 0 0 0\n{rows}intr 1\n")
        (self.proc / "diskstats").write_text(
            f"8 0 sda 1 0 {sectors} 0 1 0 {sectors} 0 0 0 0\n8 1 sda1 1 0 {sectors} 0 1 0 {sectors} 0 0 0 0\n"
            f"253 0 dm-0 1 0 {sectors} 0 1 0 {sectors} 0 0 0 0\n"
        )

    def group(self, name, cpu=0.0, memory=GIB, waited=0.0, io=0, populated=True):
        pids = "4711\n" if populated else ""

        def put(tree, **files):
            place = tree / name.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                (place / file.replace("__", ".", 1)).write_text(content)

        pressure = f"some avg10=0.00 avg60=0.00 avg300=0.00 total={int(waited * 1e6)}\nfull avg10=0 total=0\n"
        version2 = {
            "cgroup__procs": pids, "cgroup__events": f"populated {int(populated)}\nfrozen 0\n",
            "cpu__stat": f"usage_usec {int(cpu * 1e6)}\n", "cpu__pressure": pressure, "memory__pressure": pressure,
            "io__pressure": pressure,
        }  # fmt: skip
        if self.kind == "v2":
            put(
                self.cgroup, **version2, memory__current=f"{memory + 5000}\n", memory__stat="inactive_file 5000\n",
                io__stat=f"8:0 rbytes={io} wbytes=0 rios=1\n",
            )  # fmt: skip
            return
        put(self.cgroup / "cpuacct", cgroup__procs=pids, cpuacct__usage=f"{int(cpu * 1e9)}\n")
        put(self.cgroup / "cpu", cgroup__procs=pids)
        put(
            self.cgroup / "memory", cgroup__procs=pids, memory__usage_in_bytes=f"{memory + 5000}\n",
            memory__stat="total_inactive_file 5000\n",
        )  # fmt: skip
        put(
            self.cgroup / "blkio", cgroup__procs=pids,
            blkio__throttle_io_service_bytes_recursive="",
        )  # fmt: skip
        (self.cgroup / "blkio" / name.strip("/") / "blkio.throttle.io_service_bytes_recursive").write_text(
            f"8:0 Read {io}\n8:0 Write 0\n8:0 Total {io}\nTotal {io}\n"
        )
        if self.kind == "hybrid":
            put(self.cgroup / "unified", **version2)

    def measuring(self, *texts):
        groups = Groups(root=self.cgroup)
        sources = [source(each, groups, "/fallow.slice", self.proc) for text in texts for each in parse_primaries(text)]
        return Measuring(
            self.limits, sources, lent=GroupSource(LENT, groups, self.proc), root=self.root, clock=lambda: self.now
        )


@pytest.fixture(params=["v1", "hybrid", "v2"])
def world(request, tmp_path):
    return World(tmp_path, request.param)


def test_a_second_is_the_difference_of_two_looks(world):
    world.group("/shop", cpu=50.0, waited=3.0, io=1000)
    measuring = world.measuring("cgroup:/shop")
    assert measuring.measure() is None
    world.now += 2.0
    world.machine(4.0, sectors=100)
    world.group("/shop", cpu=53.0, waited=3.5, io=5000)
    world.limits.used = LentUse(cpu_seconds=0.5, memory_bytes=2 * GIB, periods=20, throttled_periods=5)
    found = measuring.measure()
    assert (found.cpus, found.memory_bytes, found.seconds) == (4, 32 * GIB, 2.0)
    assert found.used_cpus == pytest.approx(2.0)
    assert found.used_memory_bytes == 8 * GIB
    assert found.primary_cpus == pytest.approx(1.5)
    assert found.primary_memory_bytes == GIB
    assert found.lent_cpus == pytest.approx(0.25)
    assert found.own_cpus == pytest.approx(1.75)
    assert found.lent_memory_bytes == 2 * GIB
    assert found.throttled == 0.25
    assert found.io_bytes_per_second == 100 * 512  # parts of disks and what lies above them do not count again
    assert found.primaries[0].io_bytes_per_second == 2000
    if world.kind != "v1":  # version 1 alone tells of no pressure; there processes are asked
        assert found.cpu_waiting == pytest.approx(0.25)


def test_what_is_lent_waits_whoever_keeps_it_from_processors(world):
    measuring = world.measuring()
    world.group(f"/{LENT_GROUP}", waited=1.0)
    task = world.proc / "4711" / "task" / "4711"
    task.mkdir(parents=True)
    (world.proc / "4711" / "stat").write_text(f"4711 (work) R {' '.join(['1'] * 49)}\n")
    (task / "schedstat").write_text("5 1000000000 7\n")
    measuring.measure()
    world.now += 2.0
    world.group(f"/{LENT_GROUP}", waited=2.5)
    (task / "schedstat").write_text("5 2500000000 7\n")
    assert measuring.measure().lent_waiting == pytest.approx(0.75)


def test_a_primary_that_is_missing_or_empty_is_not_found(world):
    world.group("/empty", populated=False)
    measuring = world.measuring("cgroup:/nothing,cgroup:/empty")
    measuring.measure()
    world.now += 1
    found = measuring.measure()
    assert found.missing == ("cgroup:/nothing", "cgroup:/empty")
    assert "no control group /nothing" in found.primaries[0].problem
    assert "nothing runs" in found.primaries[1].problem
    world.group("/nothing", cpu=1000.0)
    world.now += 1
    assert measuring.measure().primaries[0].cpus == 0  # what it used before counts for nothing
    world.group("/nothing", cpu=1001.0)
    world.now += 1
    assert measuring.measure().primaries[0].cpus == pytest.approx(1.0)


def test_a_unit_is_found_where_units_are_and_elsewhere_by_asking_systemd(world, monkeypatch):
    asked = []

    def systemctl(words, **_):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0, stdout="/machine.slice/web.scope\n", stderr="")

    monkeypatch.setattr(subprocess, "run", systemctl)
    world.group("/system.slice/db.service", cpu=1.0)
    measuring = world.measuring("systemd:db,systemd:web.scope")
    for _ in range(3):
        world.now += 1
        found = measuring.measure()
    assert [row.found for row in found.primaries] == [True, False]
    assert len(asked) == 1 and asked[0][-1] == "web.scope"
    world.group("/machine.slice/web.scope")
    world.now += ASK_SECONDS
    assert [row.found for row in measuring.measure().primaries] == [True, True]


def test_without_systemd_a_unit_that_does_not_run_is_told(world, monkeypatch):
    def systemctl(words, **_):
        raise FileNotFoundError(words[0])

    monkeypatch.setattr(subprocess, "run", systemctl)
    measuring = world.measuring("systemd:db.service")
    measuring.measure()
    world.now += 1
    assert measuring.measure().primaries[0].problem == "no unit db.service runs here"


@pytest.mark.parametrize("file", ["stat", "meminfo"])
def test_what_cannot_be_read_is_an_error_and_never_idleness(world, file):
    measuring = world.measuring()
    measuring.measure()
    kept = (world.proc / file).read_text()
    for broken in ("", "garbage\n"):
        (world.proc / file).write_text(broken)
        world.now += 1
        with pytest.raises(MeasureError):
            measuring.measure()
    (world.proc / file).write_text(kept)
    world.now += 1
    assert measuring.measure() is not None


def test_without_primaries_all_that_is_not_lent_is_theirs(world):
    measuring = world.measuring()
    measuring.measure()
    world.now += 1
    world.machine(2.0)
    world.limits.used = LentUse(cpu_seconds=0.5)
    found = measuring.measure()
    assert found.primary_cpus == found.own_cpus == pytest.approx(1.5)


def test_a_counter_that_falls_begins_anew(world):
    world.limits.used = LentUse(cpu_seconds=100.0, periods=100, throttled_periods=50)
    measuring = world.measuring()
    measuring.measure()
    world.now += 1
    world.limits.used = LentUse(cpu_seconds=0.0)  # the group was made anew
    found = measuring.measure()
    assert (found.lent_cpus, found.throttled) == (0.0, 0.0)


def test_a_ring_keeps_the_newest():
    ring = Ring(length=3)
    for own in range(5):
        ring.add(Measured(at=own, seconds=1, cpus=8, memory_bytes=1, used_cpus=own, used_memory_bytes=0))
    assert len(ring) == 3
    assert ring.newest(10)[:, 0].tolist() == [2, 3, 4]
    assert ring.newest(2)[:, 0].tolist() == [3, 4]


def test_a_ring_tells_means_that_stay_as_they_were_told():
    ring, told = Ring(length=50), []
    for second in range(45):
        own = 8.0 if second < 10 else 2.0
        ring.add(Measured(at=second, seconds=1, cpus=8, memory_bytes=1, used_cpus=own, used_memory_bytes=0))
        told.append(ring.shares("own_cpus", 8.0, 10, 3))
    assert told[8:10] == [(), (100,)]
    assert told[29] == (100, 25, 25)
    assert told[39:] == [(25, 25, 25)] * 6
    assert ring.shares("own_cpus", 1.0, 10, 3) == (100, 100, 100), "never above all there is"
    assert ring.shares("lent_cpus", 0.0, 10, 3) == ()


def test_version_2_gets_its_controllers_weights_and_limits(tmp_path):
    place = tmp_path / "fallow.slice"
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    place.mkdir()
    for name, content in {
        "cgroup.controllers": "cpu io memory", "cgroup.subtree_control": "", "cpu.weight": "100",
        "cpu.max": "max 100000",
        "io.weight": "default 100", "memory.high": "max", "memory.max": "max", "memory.current": str(GIB),
        "cpu.stat": "usage_usec 2500000\nnr_periods 10\nnr_throttled 4\n", "memory.stat": "inactive_file 0\n",
    }.items():  # fmt: skip
        (place / name).write_text(content + "\n")
    limits = KernelLimits("/fallow.slice", Groups(root=tmp_path))
    assert limits.prepare() == ()
    assert (place / "cpu.weight").read_text() == "1" and (place / "io.weight").read_text() == "1"
    assert limits.cpus() is None
    assert limits.hold_cpus(1.5) == ()
    assert (place / "cpu.max").read_text() == "150000 100000" and limits.cpus() == 1.5
    assert limits.hold_memory(2 * GIB, 3 * GIB) == ()
    assert (place / "memory.high").read_text() == str(2 * GIB)
    assert limits.hold_memory(0, 0) == ()
    assert int((place / "memory.max").read_text()) >= GIB  # never below what is used
    use = limits.use()
    assert (use.cpu_seconds, use.periods, use.throttled_periods, use.memory_bytes) == (2.5, 10, 4, GIB)


def test_what_the_kernel_makes_of_a_limit_is_told(tmp_path, monkeypatch):
    place = tmp_path / "fallow.slice"
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    place.mkdir()
    (place / "cpu.max").write_text("max 100000")
    (place / "cpu.weight").write_text("1")
    limits = KernelLimits("/fallow.slice", Groups(root=tmp_path))
    monkeypatch.setattr("fallow.drivers.limits.kernel.write", lambda path, text: None)  # taken, and not done
    assert limits.hold_cpus(0.5) == ("the processor limit of /fallow.slice is none instead of 0.50",)
    assert any("memory" in problem for problem in limits.hold_memory(0, 0))
    (place / "cpu.weight").write_text("100")
    assert any("cpu.weight" in problem for problem in limits.prepare())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "db",
        "systemd:",
        "cgroup:/",
        "cgroup:shop",
        "cgroup:/a/../b",
        f"cgroup:/{LENT_GROUP}/x",
        "process:a/b",
        "java:x",
    ],
)
def test_what_cannot_be_a_primary_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_primaries(text)


def test_primaries_are_read_as_people_write_them():
    assert parse_primaries("systemd:postgresql, cgroup:/shop/,process:java,process:java") == (
        Primary(kind="systemd", name="postgresql.service"),
        Primary(kind="cgroup", name="/shop"),
        Primary(kind="process", name="java"),
    )
