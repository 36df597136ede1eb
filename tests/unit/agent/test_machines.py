"""The shell around the virtual machines of a server, on machines in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from fallow.agent import machines as shell
from fallow.agent.machines import Machines
from fallow.decide.agent import vms
from fallow.drivers.machine.contract import MachineError, MachineUse
from fallow.drivers.machine.fake import FakeMachines
from fallow.model.frames import Frame
from fallow.model.pools import PortRange
from fallow.model.server_frames import VmTokenAsked, VmTokenGranted
from fallow.model.vms import VmOrder, VmState, VmWish

GIB = 2**30
ORDER = VmOrder(
    vm_id="a", name="vm1", cpus=1.0, memory_bytes=GIB, disk_bytes=GIB, image="default", wanted=VmWish.RUNNING
)


def changed(**fields: object) -> VmOrder:
    return msgspec.structs.replace(ORDER, **fields)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shell, "SURVEY_SECONDS", 0.01)
    monkeypatch.setattr(shell, "STEP_SECONDS", 0.01)
    monkeypatch.setattr(shell, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(vms, "RETRY_SECONDS", 0.01)


class Rig:
    def __init__(self, folder: Path, driver: FakeMachines) -> None:
        self.driver = driver
        self.asked: list[Frame] = []
        self.task: asyncio.Task[None]
        self.grants = True
        self.machines = Machines({"vm": driver}, folder, self.send)

    async def send(self, frame: Frame) -> None:
        self.asked.append(frame)
        assert isinstance(frame, VmTokenAsked)
        if self.grants:
            self.machines.granted(VmTokenGranted(vm_id=frame.vm_id, token="secret", url="https://c:7443"))

    def state(self) -> VmState:
        return self.machines.uses()[0].state

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                assert not self.task.done()
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(folder: Path, driver: FakeMachines) -> AsyncIterator[Rig]:
    rig = Rig(folder, driver)
    task = rig.task = asyncio.create_task(rig.machines.run())
    try:
        yield rig
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_an_order_becomes_a_machine_that_joins(tmp_path: Path):
    driver = FakeMachines()
    async with running(tmp_path, driver) as rig:
        rig.machines.ordered((ORDER,))
        await rig.until(lambda: rig.state() is VmState.STARTING and "a" in driver.machines)
        await rig.until(lambda: driver.machines["a"].found.status == "running")
        seed = driver.machines["a"].seed
        assert seed is not None
        assert (seed.token, seed.url, seed.name) == ("secret", "https://c:7443", "vm1")
        rig.machines.ordered((changed(joined=True),))
        await rig.until(lambda: not driver.machines["a"].found.seeded)
        await rig.until(lambda: rig.state() is VmState.RUNNING)
        assert driver.machines["a"].boots == 1


async def test_ports_lead_to_a_machine_for_as_long_as_it_runs(tmp_path: Path):
    driver, ports = FakeMachines(), (PortRange(first=20000, last=20999),)
    async with running(tmp_path, driver) as rig:
        rig.machines.ordered((changed(ports=ports), changed(vm_id="b", name="vm2")))
        await rig.until(lambda: driver.machines.keys() == {"a", "b"})
        await rig.until(lambda: driver.ports == {"a": ports})
        rig.machines.ordered((changed(ports=ports, wanted=VmWish.STOPPED),))
        await rig.until(lambda: driver.ports == {})


async def test_the_next_process_adopts_what_runs_without_a_control_plane(tmp_path: Path):
    driver = FakeMachines()
    async with running(tmp_path, driver) as rig:
        rig.machines.ordered((changed(joined=False),))
        await rig.until(lambda: "a" in driver.machines and driver.machines["a"].found.status == "running")
        rig.machines.ordered((changed(joined=True),))
        await rig.until(lambda: rig.state() is VmState.RUNNING)
        await rig.until(lambda: b'"joined":["a"]' in (tmp_path / shell.FILE).read_bytes())
    assert driver.machines["a"].found.status == "running"
    async with running(tmp_path, driver) as rig:
        await rig.until(lambda: rig.state() is VmState.RUNNING)
        driver.end("a")
        await rig.until(lambda: driver.machines["a"].found.status == "running")
        assert rig.asked == []
    assert b"secret" not in (tmp_path / shell.FILE).read_bytes()


async def test_a_journal_that_cannot_be_read_is_set_aside_and_nothing_is_touched(tmp_path: Path):
    driver = FakeMachines()
    (tmp_path / shell.FILE).write_bytes(b"{")
    async with running(tmp_path, driver) as rig:
        await rig.until(lambda: ("survey", "") in driver.calls)
        assert rig.machines.uses() == ()
    assert (tmp_path / f"{shell.FILE}.1").exists()


async def test_a_hypervisor_that_goes_and_comes_back(tmp_path: Path):
    gone = False

    def fail(call: str, _: str) -> None:
        if gone:
            raise MachineError("unreachable", "libvirt does not answer")

    driver = FakeMachines(fail=fail)
    async with running(tmp_path, driver) as rig:
        rig.machines.ordered((changed(joined=False),))
        await rig.until(lambda: "a" in driver.machines and driver.machines["a"].found.status == "running")
        rig.machines.ordered((changed(joined=True),))
        await rig.until(lambda: rig.state() is VmState.RUNNING)
        gone = True
        await rig.until(lambda: "does not answer" in rig.machines.uses()[0].problem)
        assert rig.state() is VmState.RUNNING
        gone = False
        await rig.until(lambda: rig.machines.uses()[0].problem == "")


async def test_a_failure_that_nobody_thought_of_is_told_and_tried_again(tmp_path: Path):
    tries = 0

    def fail(call: str, _: str) -> None:
        nonlocal tries
        if call == "prepare":
            tries += 1
            raise RuntimeError("boom")

    async with running(tmp_path, FakeMachines(fail=fail)) as rig:
        rig.machines.ordered((ORDER,))
        await rig.until(lambda: rig.state() is VmState.FAILED)
        assert rig.machines.uses()[0].problem == "RuntimeError: boom"
        await rig.until(lambda: tries > 1)


async def test_memory_is_held_back_and_given_back(tmp_path: Path):
    driver = FakeMachines()
    async with running(tmp_path, driver) as rig:
        rig.machines.ordered((ORDER, changed(vm_id="b", memory_bytes=3 * GIB)))
        await rig.until(lambda: len(driver.machines) == 2)
        await rig.until(lambda: all(each.found.status == "running" for each in driver.machines.values()))
        await rig.until(lambda: len(rig.machines._machine.running) == 2)
        rig.machines.hold(2 * GIB)
        await rig.until(lambda: [each.held_bytes for each in driver.machines.values()] == [GIB // 2, 3 * GIB // 2])
        assert [use.memory_limit_bytes for use in rig.machines.uses()] == [GIB // 2, 3 * GIB // 2]
        rig.machines.hold(0)
        await rig.until(lambda: [each.held_bytes for each in driver.machines.values()] == [GIB // 4, 3 * GIB // 4])
        rig.machines.hold(8 * GIB)
        await rig.until(lambda: [each.held_bytes for each in driver.machines.values()] == [GIB, 3 * GIB])


async def test_an_emergency_stops_one_and_closing_all(tmp_path: Path):
    driver = FakeMachines()
    async with running(tmp_path, driver) as rig:
        assert rig.machines.stop_lowest() == ""
        rig.machines.ordered((changed(rank=2), changed(vm_id="b", name="vm2", rank=1)))
        await rig.until(lambda: len(rig.machines._machine.running) == 2)
        rig.machines.ordered((changed(rank=2, joined=True), changed(vm_id="b", name="vm2", rank=1, joined=True)))
        assert rig.machines.stop_lowest() == "vm2"
        await rig.until(lambda: driver.machines["b"].found.status == "stopped")
        assert driver.machines["a"].found.status == "running"
        rig.machines.stop_all()
        await rig.until(lambda: rig.machines.stopped)
        rig.machines.resume()
        await rig.until(lambda: driver.machines["a"].found.status == "running")


async def test_use_is_what_was_used_between_two_looks(tmp_path: Path):
    driver = FakeMachines()
    async with running(tmp_path, driver) as rig:
        rig.machines.ordered((ORDER,))
        await rig.until(lambda: len(rig.machines._machine.running) == 1)
        rig.machines.uses()
        driver.machines["a"].use = MachineUse(cpu_seconds=1000.0, memory_bytes=5, throttled_seconds=1000.0)
        (use,) = rig.machines.uses()
        assert use.cpus > 1.0
        assert (use.memory_bytes, use.throttled) == (5, 1.0)
        assert rig.machines.uses()[0].cpus == 0.0


async def test_an_isolation_that_this_server_has_not_is_told(tmp_path: Path):
    async with running(tmp_path, FakeMachines()) as rig:
        rig.machines.ordered((changed(isolation="cgroup"),))
        (use,) = rig.machines.uses()
        assert use.state is VmState.FAILED
        assert "cgroup" in use.problem
