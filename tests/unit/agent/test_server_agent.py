"""A whole server agent: a real TLS session with a scripted control plane, measurements and limits as a test says."""

import asyncio
import contextlib
import datetime

import msgspec
import pytest
from session_peer import Peer, TestCa, until

from fallow.agent import lending as lending_module
from fallow.agent import server as server_module
from fallow.agent.peaks import Peaks
from fallow.agent.server import NoMachines, Parts, ServerAgent
from fallow.agent.whole import MeasureError
from fallow.decide.harvest.lending import stopped_if_empty
from fallow.decide.harvest.measured import Measured
from fallow.decide.harvest.suppress import FLOOR_CPUS
from fallow.drivers.limits.contract import LentUse
from fallow.drivers.limits.fake import FakeLimits
from fallow.model import wire
from fallow.model.members import Role
from fallow.model.server_frames import ServerLeaving, ServerReported, SetLending, VmTokenGranted
from fallow.model.server_pools import LendingPolicy
from fallow.model.servers import PrimaryUse
from fallow.model.vms import VmOrder, VmState, VmUse, VmWish

GIB = 2**30
ORDER = VmOrder(
    vm_id="v-1", name="lent-1", cpus=4, memory_bytes=8 * GIB, disk_bytes=GIB, image="default", wanted=VmWish.RUNNING
)
LENDS = SetLending(policy=LendingPolicy(evict_after_seconds=0), vms=(ORDER,))


class Scripted:
    """Measures what a test says: `own` and `lent` in cores, memory in bytes; may fail, or hang until `freed`."""

    def __init__(self):
        self.own, self.lent, self.memory, self.lent_memory = 1.0, 0.0, 4 * GIB, 0
        self.primaries = ()
        self.fails = ""
        self.at = 0.0

    def measure(self):
        if self.fails:
            raise MeasureError(self.fails)
        self.at += 0.5
        return Measured(
            at=self.at, seconds=0.5, cpus=8, memory_bytes=32 * GIB, used_cpus=self.own + self.lent,
            used_memory_bytes=self.memory, lent_cpus=self.lent, lent_memory_bytes=self.lent_memory,
            primaries=self.primaries,
        )  # fmt: skip


class ScriptedMachines(NoMachines):
    """Remembers what it was told; one machine runs until it is stopped."""

    def __init__(self):
        super().__init__("")
        self.orders = None
        self.grants = []
        self.held = []
        self.runs = False
        self.stops = 0

    @property
    def stopped(self):
        return not self.runs

    def ordered(self, orders):
        self.orders = orders
        if not any(order.wanted is VmWish.RUNNING for order in orders):
            self.runs = False

    def granted(self, frame):
        self.grants.append(frame)

    def uses(self):
        return (VmUse(vm_id="v-1", state=VmState.RUNNING, cpus=1.0),) if self.runs else ()

    def hold(self, memory_limit_bytes):
        self.held.append(memory_limit_bytes)

    def stop_lowest(self):
        self.stops += 1
        return "lent-1"

    def stop_all(self):
        self.runs = False


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lending_module, "STEP_SECONDS", 0.01)
    monkeypatch.setattr(lending_module, "MEMORY_SECONDS", 0.02)
    monkeypatch.setattr(lending_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(lending_module, "BLIND_SECONDS", 0.3)
    monkeypatch.setattr(lending_module, "SETTLE_SECONDS", 0.1)
    for name in ("REPORT_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(server_module, name, 0.02)


class Setting:
    """One server, and the other end of its session."""

    def __init__(self, folder, ca, peer, store):
        self.folder, self.peer, self.store = folder, peer, store
        self.measuring, self.limits, self.machines = Scripted(), FakeLimits(), ScriptedMachines()
        self.stop, self.tasks, self.stopping = asyncio.Event(), [], False
        self.agent = None

    def go(self):
        parts = Parts(
            measuring=self.measuring, limits=self.limits, machines=lambda _: self.machines, peaks=Peaks(),
            stopping=lambda: self.stopping,
        )  # fmt: skip
        self.agent = ServerAgent(parts, self.folder, self.store)
        self.tasks.append(asyncio.create_task(self.agent.run(self.stop)))
        return self.tasks[-1]

    @property
    def report(self):
        told = self.peer.of(ServerReported)
        return told[-1].report if told else None

    async def until(self, met):
        await self.peer.until(lambda: self.report is not None and met(self.report))


@pytest.fixture
async def setting(tmp_path, quick):
    ca = TestCa(tmp_path)
    peer = Peer(ca)
    found = Setting(tmp_path / "data", ca, peer, ca.store(tmp_path / "data", await peer.start(), Role.SERVER))
    yield found
    for task in found.tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
    await peer.stop()


async def test_a_server_lends_as_it_is_told(setting):
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: report.lends and report.limit_cpus > 5)
    report = setting.report
    assert setting.peer.hellos[0].protocol >= wire.SERVERS_PROTOCOL
    assert setting.machines.orders == (ORDER,)
    assert report.limit_cpus <= 8 * 0.8 - 1 and report.cpus == 8 and report.primary_cpus == 1
    assert 0 < report.offer_cpus <= 8 * 0.65 - 1
    assert setting.limits.prepared and setting.limits.cpus() == pytest.approx(report.limit_cpus, abs=0.5)
    await until(lambda: setting.machines.held and setting.limits.memory is not None)
    assert setting.machines.held[-1] == int(32 * GIB * 0.9) - 4 * GIB


async def test_what_is_lent_has_a_limit_before_anything_is_measured_or_started(setting):
    limits = []
    setting.measuring.fails = "nothing can be read"
    setting.machines.ordered = lambda orders: limits.append(setting.limits.cpus())
    setting.peer.greet_with = [LENDS]
    setting.go()
    await until(lambda: limits)
    assert limits[0] == FLOOR_CPUS


async def test_outside_its_hours_only_machines_that_hold_something_run(setting):
    empty = msgspec.structs.replace(ORDER, vm_id="v-2", asked_cpus=0.0)
    holds = msgspec.structs.replace(ORDER, asked_cpus=0.5, rank=2)
    setting.go()
    await setting.until(lambda report: report.why_not)
    now = datetime.datetime.now(datetime.UTC)
    began, ended = now - datetime.timedelta(hours=4), now - datetime.timedelta(hours=3)
    policy = LendingPolicy(hours=(f"{began:%H:%M}-{ended:%H:%M}",))
    setting.peer.send(SetLending(policy=policy, vms=(holds, empty)))
    await setting.peer.until(lambda: setting.machines.orders == (holds, stopped_if_empty(empty)))
    assert stopped_if_empty(empty).wanted is VmWish.STOPPED
    setting.peer.send(SetLending(policy=LendingPolicy(), vms=(holds, empty)))
    await setting.peer.until(lambda: setting.machines.orders == (holds, empty))


async def test_before_it_is_told_anything_a_server_lends_nothing_and_nothing_has_to_go(setting):
    setting.measuring.lent, setting.measuring.lent_memory = 1.0, GIB
    setting.go()
    await setting.until(lambda report: report.cpus > 0)
    assert not setting.report.lends and "has not said yet" in setting.report.why_not
    assert setting.report.relief_cpus == 0 and setting.report.relief_memory_bytes == 0


async def test_a_jump_of_the_primary_shrinks_the_limit_at_the_next_measurement(setting):
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: report.limit_cpus > 5)
    setting.measuring.own = 8.0
    await setting.until(lambda report: report.primary_cpus == 8)
    assert setting.limits.cpus() == 0.05


async def test_relief_is_told_with_what_has_to_go(setting):
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: report.lends)
    setting.measuring.own, setting.measuring.lent = 6.0, 0.4
    await setting.until(lambda report: report.relief_cpus > 0)
    assert setting.report.relief_cpus == pytest.approx(4 - 0.4 / 0.8, abs=0.2)


async def test_relief_is_told_at_once(setting, monkeypatch):
    monkeypatch.setattr(server_module, "REPORT_SECONDS", 3600.0)
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: report.lends)
    setting.measuring.own, setting.measuring.lent = 6.0, 0.4
    await setting.until(lambda report: report.relief_cpus > 0)


async def test_without_measurements_a_server_is_full(setting):
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: report.limit_cpus > 3)
    setting.measuring.fails = "the kernel is silent"
    await setting.until(lambda report: not report.lends)
    assert "could be measured" in setting.report.why_not
    assert any("the kernel is silent" in problem for problem in setting.report.problems)
    assert setting.limits.cpus() == 0.05 and setting.report.offer_cpus == 0
    setting.measuring.fails = ""
    await setting.until(lambda report: report.lends and not report.problems)


async def test_a_primary_that_is_missing_is_told(setting):
    setting.measuring.primaries = (PrimaryUse(name="process:db", found=False, problem="no process db runs here"),)
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: "not found: process:db" in report.why_not)
    assert not setting.report.lends and setting.report.relief_cpus == 0
    assert "process:db: no process db runs here" in setting.report.problems


async def test_a_limit_that_reads_back_as_another_is_told(setting):
    setting.limits.lies = 7.5
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: any("instead of" in problem for problem in report.problems))


async def test_where_nothing_can_be_limited_nothing_is_lent_nor_started(setting):
    setting.limits.impossible = "no control groups here"
    setting.peer.greet_with = [LENDS]
    setting.go()
    await setting.until(lambda report: report.cpus > 0 and report.problems)
    assert "no control groups here" in setting.report.problems and not setting.report.lends
    assert setting.machines.orders is None
    setting.limits.impossible = ""
    await setting.until(lambda report: report.lends)
    assert setting.machines.orders == (ORDER,)


async def test_a_restart_goes_on_without_a_control_plane_and_without_a_gap(setting):
    setting.peer.greet_with = [LENDS]
    first = setting.go()
    await setting.until(lambda report: report.limit_cpus > 5)
    await until((setting.folder / "lending.json").exists)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await setting.peer.stop()
    kept = setting.limits.cpus()
    assert kept > 5
    setting.limits.writes.clear()
    setting.machines = ScriptedMachines()
    setting.go()
    await until(lambda: setting.agent.lending.report().lends)
    assert setting.machines.orders == (ORDER,)
    assert min(setting.limits.writes, default=kept) >= kept - 0.5
    setting.measuring.own = 8.0
    await until(lambda: setting.limits.cpus() == 0.05)


async def test_what_was_told_and_cannot_be_read_is_set_aside(setting):
    (setting.folder / "lending.json").write_text("{")
    setting.go()
    await setting.until(lambda report: "has not said yet" in report.why_not)
    assert (setting.folder / "lending.json.1").exists()


async def test_memory_far_above_its_ceiling_stops_the_lowest_machine(setting):
    setting.peer.greet_with = [LENDS]
    setting.measuring.memory, setting.measuring.lent_memory = 31 * GIB, 8 * GIB
    setting.go()
    await setting.until(lambda report: report.urgent and report.relief_memory_bytes > 0)
    await until(lambda: setting.machines.stops == 1)


async def test_tokens_reach_the_machines(setting):
    setting.go()
    await setting.peer.until(lambda: setting.peer.sessions == 1)
    setting.peer.send(VmTokenGranted(vm_id="v-1", token="t", url="https://x"))
    await until(lambda: setting.machines.grants)


async def test_a_host_that_shuts_down_lets_what_is_lent_leave_first(setting):
    setting.stopping = setting.machines.runs = True
    setting.peer.greet_with = [LENDS]
    task = setting.go()
    await setting.until(lambda report: report.lends)
    setting.stop.set()
    await setting.peer.until(lambda: setting.peer.of(ServerLeaving))
    assert not task.done()
    setting.peer.send(SetLending(policy=LENDS.policy, closed="the server shuts down", vms=()))
    await asyncio.wait_for(task, 5)


async def test_what_does_not_leave_in_time_is_stopped(setting, monkeypatch):
    monkeypatch.setattr(server_module, "LEAVE_SECONDS", 0.1)
    setting.stopping = setting.machines.runs = True
    setting.peer.greet_with = [LENDS]
    task = setting.go()
    await setting.until(lambda report: report.lends)
    setting.stop.set()
    await asyncio.wait_for(task, 5)
    assert setting.machines.stopped


async def test_an_agent_that_restarts_leaves_everything_as_it_is(setting):
    setting.machines.runs = True
    setting.peer.greet_with = [LENDS]
    task = setting.go()
    await setting.until(lambda report: report.lends)
    setting.stop.set()
    await asyncio.wait_for(task, 5)
    assert not setting.peer.of(ServerLeaving) and setting.machines.runs


async def test_a_server_that_was_removed_takes_its_machines_away(setting):
    setting.machines.runs = True
    setting.peer.refuse_with = wire.Reject(reason="removed", final=True, clean=True)
    with pytest.raises(server_module.SessionRefused):
        await asyncio.wait_for(setting.go(), 5)
    assert setting.machines.orders == () and not setting.store.exists


async def test_caches_and_bandwidth_are_held_as_told_until_lending_ends_for_good(setting):
    setting.peer.greet_with = [SetLending(policy=LendingPolicy(cache_share=0.2, memory_bandwidth_share=0.3))]
    task = setting.go()
    await setting.until(lambda report: report.classes == "20%, 30%")
    setting.limits.refuses = "no class is left"
    await setting.until(lambda report: "no class is left" in report.problems and not report.classes)
    assert setting.report.lends and setting.limits.classes == (0.2, 0.3)
    setting.peer.send(wire.Reject(reason="removed", final=True, clean=True))
    with pytest.raises(server_module.SessionRefused):
        await asyncio.wait_for(task, 5)
    assert setting.limits.classes is None


async def test_the_last_minutes_are_told(setting):
    setting.peer.greet_with = [LENDS]
    setting.measuring.lent = 2.0
    setting.go()
    await setting.until(lambda report: len(report.recent_own) > 1)
    assert set(setting.report.recent_own) == {12}
    assert set(setting.report.recent_lent) == {25}


async def counted(setting):
    """Return the seconds above a ceiling once they have stopped growing."""
    told = -1.0
    while setting.report.over_seconds != told:
        told, most = setting.report.over_seconds, len(setting.peer.of(ServerReported)) + 5
        await setting.until(lambda _, most=most: len(setting.peer.of(ServerReported)) > most)
    return told


async def test_sums_grow_while_something_is_lent(setting):
    setting.peer.greet_with = [LENDS]
    setting.measuring.lent = 2.0
    setting.limits.used = LentUse(cpu_seconds=1.0, memory_bytes=0)
    setting.go()
    await setting.until(lambda report: report.lent_core_seconds > 1 and report.used_core_seconds > 1)
    assert setting.report.over_seconds == 0
    setting.measuring.own = 7.0
    await setting.until(lambda report: report.over_seconds > 0)
    setting.measuring.own, setting.measuring.lent = 1.0, 0.0
    setting.measuring.memory = 31 * GIB
    before = await counted(setting)
    setting.measuring.lent_memory = 4 * GIB  # of a machine that does nothing
    await setting.until(lambda report: report.over_seconds > before + 1)
    assert len({told.report.run for told in setting.peer.of(ServerReported)}) == 1
