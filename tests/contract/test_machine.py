"""The contract of virtual machines, on machines in memory and on libvirt with QEMU."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from machine_rigs import MachineRig, cgroup_machines, fake_machines, libvirt_machines

from fallow.drivers.machine import libvirt
from fallow.drivers.machine.contract import FoundMachine, Machine, MachineError, MachineSpec, Seed
from fallow.drivers.machine.groups import MachineGroups
from fallow.drivers.machine.libvirt import LibvirtMachines

MIB = 2**20
SPEC = MachineSpec(vm_id="a1", name="vm1", cpus=0.5, memory_bytes=128 * MIB, disk_bytes=64 * MIB, image="tiny")
SEED = Seed(name="vm1", url="https://control:7443", token="fallow-join.ID.SECRET.HASH")


@pytest.fixture(scope="module")
def real() -> Iterator[MachineRig]:
    """libvirt, whose machines have a kernel and a disk."""
    with libvirt_machines() as rig:
        yield rig


REAL = [pytest.param(each, marks=pytest.mark.real) for each in ("libvirt", "cgroup")]


@pytest.fixture(scope="module", params=["fake", *REAL])
def rig(request: pytest.FixtureRequest) -> Iterator[MachineRig]:
    if request.param == "fake":
        yield fake_machines()
    elif request.param == "libvirt":
        yield request.getfixturevalue("real")
    else:
        with cgroup_machines() as rig:
            yield rig


@pytest.fixture
def machine(rig: MachineRig) -> Machine:
    return rig.machine


async def found(machine: Machine, vm_id: str = "a1") -> FoundMachine | None:
    return next((each for each in await machine.survey() if each.vm_id == vm_id), None)


BOOT_SECONDS = 120.0  # six alone; it is of the lowest priority, beside all else that is tested


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_the_life_of_a_machine(rig: MachineRig, machine: Machine):
    await machine.check()
    assert await machine.survey() == ()
    with pytest.raises(MachineError) as refused:
        await machine.start(SPEC, SEED)
    assert refused.value.kind == "not-found"

    await machine.prepare(SPEC)
    await machine.prepare(SPEC)
    assert await machine.survey() == (FoundMachine(vm_id="a1"),)

    await machine.start(SPEC, SEED)
    running = FoundMachine(vm_id="a1", status="running", seeded=rig.seeds, cpus=0.5, memory_bytes=128 * MIB)
    assert await machine.survey() == (running,)
    await machine.start(replace(SPEC, cpus=0.1))  # it runs: nothing changes
    assert await machine.survey() == (running,)

    await machine.clear_seed("a1", Seed(name="vm1"))
    assert await found(machine) == replace(running, seeded=False)

    assert await machine.resize(replace(SPEC, cpus=1.5, memory_bytes=96 * MIB)) == ""
    assert await found(machine) == replace(running, seeded=False, cpus=1.5, memory_bytes=96 * MIB)
    note = await machine.resize(replace(SPEC, cpus=1.0, memory_bytes=256 * MIB))
    assert ("start" in note) == rig.balloons
    grown = replace(running, seeded=False, cpus=1.0, memory_bytes=(128 if rig.balloons else 256) * MIB)
    assert await found(machine) == grown

    adopted = rig.again()
    assert await found(adopted) == grown
    assert adopted.use("a1") is not None
    await adopted.stop("a1", 0)
    assert await machine.survey() == (FoundMachine(vm_id="a1"),)
    await machine.stop("a1", 0)
    await machine.destroy("a1")
    await machine.destroy("a1")
    assert await machine.survey() == ()


@pytest.mark.real
async def test_a_guest_boots_obeys_its_button_and_gives_memory_back(real: MachineRig):
    machine, folder = real.machine, folder_of(real)
    await machine.prepare(SPEC)
    await machine.start(replace(SPEC, cpus=2.0), SEED)
    assert machine.use("a1") is not None
    try:
        await until(lambda: "READY" in (folder / "console.log").read_text(errors="replace"), BOOT_SECONDS)
        first = machine.use("a1") or pytest.fail("gone")
        assert first.cpu_seconds > 0
        assert first.memory_bytes > 16 * MIB
        await machine.hold("a1", 104 * MIB)
        async with asyncio.timeout(20):
            while balloon(real) > 104 * MIB:
                await asyncio.sleep(0.1)
        daemon = real.libvirt
        assert daemon is not None
        daemon.kill()
        with pytest.raises(MachineError) as away:
            await machine.survey()
        assert away.value.kind == "unreachable"
        assert (machine.use("a1") or first).cpu_seconds >= first.cpu_seconds
        daemon.start()
        assert (await found(machine) or pytest.fail("gone")).status == "running"
        before = asyncio.get_running_loop().time()
        await machine.stop("a1", 30)
        assert asyncio.get_running_loop().time() - before < 25  # the guest did it, not the plug
        assert await found(machine) == FoundMachine(vm_id="a1", seeded=True)
    finally:
        await machine.destroy("a1")
    assert not folder.exists()


@pytest.mark.real
async def test_a_guest_that_ignores_its_balloon_is_told(real: MachineRig, monkeypatch: pytest.MonkeyPatch):
    machine = real.machine
    await machine.prepare(replace(SPEC, image="deaf"))
    await machine.start(SPEC, SEED)
    try:
        console = folder_of(real) / "console.log"
        await until(lambda: "READY" in console.read_text(errors="replace"), BOOT_SECONDS)
        await machine.hold("a1", 104 * MIB)
        assert (await found(machine) or pytest.fail("gone")).problem == ""  # it has a while
        monkeypatch.setattr(libvirt, "BALLOON_SECONDS", 0.0)
        told = (await found(machine) or pytest.fail("gone")).problem
        assert told == "it keeps 128 MiB of memory, and should have given back all above 104 MiB"
        monkeypatch.undo()
        await machine.hold("a1", 128 * MIB)
        monkeypatch.setattr(libvirt, "BALLOON_SECONDS", 0.0)
        assert (await found(machine) or pytest.fail("gone")).problem == ""
    finally:
        await machine.destroy("a1")


@pytest.mark.real
async def test_limits_are_read_back_and_others_are_told(real: MachineRig):
    machine = real.machine
    await machine.prepare(SPEC)
    await machine.start(SPEC, SEED)
    try:
        group = group_of(real)
        if group is not None:
            assert (group / "cpu.shares").read_text() == "2\n"
            assert (group / "cpu.cfs_quota_us").read_text() == "50000\n"
            (group / "cpu.shares").write_text("1024")
            assert "1024" in (await found(machine) or pytest.fail("gone")).problem
            (group / "cpu.shares").write_text("2")
        memory = group_of(real, "memory")
        if memory is not None:
            limit = memory / "memory.limit_in_bytes"
            assert (await found(machine) or pytest.fail("gone")).problem == ""
            kept = limit.read_text()
            limit.write_text("-1")
            assert "limited to nothing of memory" in (await found(machine) or pytest.fail("gone")).problem
            limit.write_text(str(2 * int(kept)))
            assert "instead of" in (await found(machine) or pytest.fail("gone")).problem
            limit.write_text(kept)
            assert (await found(machine) or pytest.fail("gone")).problem == ""
        assert real.libvirt is not None
        real.libvirt.virsh("suspend", "fallow-a1")
        paused = await found(machine)
        assert paused is not None
        assert (paused.status, "paused" in paused.problem) == ("paused", True)
        await machine.start(SPEC)
        assert (await found(machine) or pytest.fail("gone")).status == "running"
    finally:
        await machine.destroy("a1")


@pytest.mark.real
async def test_a_machine_that_starts_while_it_is_suppressed_has_its_size_when_there_is_room(real: MachineRig):
    machine, parent = real.machine, Path("/sys/fs/cgroup/cpu") / real.group
    MachineGroups(real.group).make()
    if not (parent / "cpu.cfs_quota_us").exists():
        pytest.skip("control groups of version 2 let a group have a larger quota than the one above it")
    await until(lambda: limited(parent, 20000))
    await machine.prepare(SPEC)
    try:
        await machine.start(SPEC, SEED)
        seen = await found(machine)
        assert seen is not None
        assert (seen.cpus, seen.problem) == (0.5, "")
        group = group_of(real)
        assert group is not None
        assert (group / "cpu.cfs_quota_us").read_text() == "20000\n"
        await machine.resize(replace(SPEC, cpus=2.0))
        assert (await found(machine) or pytest.fail("gone")).cpus == 2.0
        (parent / "cpu.cfs_quota_us").write_text("-1")
        await machine.resize(SPEC)
        assert (group / "cpu.cfs_quota_us").read_text() == "50000\n"
    finally:
        (parent / "cpu.cfs_quota_us").write_text("-1")
        await machine.destroy("a1")


@pytest.mark.real
async def test_machines_of_others_are_not_seen_nor_touched(real: MachineRig):
    machine, options = real.machine, real.options
    assert options is not None
    other = LibvirtMachines(options, "m-2", real.group)
    await machine.prepare(SPEC)
    await machine.start(SPEC, SEED)
    try:
        assert await other.survey() == ()
        await other.stop("a1", 0)
        await other.destroy("a1")
        await other.prepare(SPEC)
        with pytest.raises(MachineError, match="already exists"):
            await other.start(SPEC, SEED)
        assert (await found(machine) or pytest.fail("gone")).status == "running"
        await other.destroy("a1")
    finally:
        await machine.destroy("a1")


@pytest.mark.real
async def test_secrets_are_readable_by_root_only_and_on_no_command_line(real: MachineRig):
    machine, folder = real.machine, folder_of(real)
    await machine.prepare(SPEC)
    await machine.start(SPEC, SEED)
    try:
        holding = [path for path in folder.iterdir() if SEED.token.encode() in path.read_bytes()]
        assert holding == [folder / "seed.iso"]
        assert (folder / "seed.iso").stat().st_mode & 0o077 == 0
        assert not any(b"SECRET" in line for line in command_lines())
        await machine.clear_seed("a1", SEED)
        assert not any(SEED.token.encode() in path.read_bytes() for path in folder.iterdir())
    finally:
        await machine.destroy("a1")


@pytest.mark.real
async def test_what_was_left_half_made_is_told_and_made_anew(real: MachineRig):
    machine, folder = real.machine, folder_of(real)
    draft = folder.with_name("a1.draft")
    draft.mkdir(parents=True)
    assert await machine.survey() == (FoundMachine(vm_id="a1", whole=False),)
    await machine.prepare(SPEC)
    assert not draft.exists()
    assert await machine.survey() == (FoundMachine(vm_id="a1"),)
    folder.rename(folder.with_name("a1.gone"))
    assert await machine.survey() == (FoundMachine(vm_id="a1", whole=False),)
    await machine.destroy("a1")
    assert await machine.survey() == ()


@pytest.mark.real
async def test_a_group_that_libvirt_would_call_otherwise_is_told(real: MachineRig):
    assert real.options is not None
    if systemd_runs():
        pytest.skip("systemd makes a slice of any name")
    with pytest.raises(MachineError, match="without a dot"):
        await LibvirtMachines(real.options, "m-1", f"plain/{real.group}").check()


@pytest.mark.real
async def test_an_image_that_is_not_there_is_told(real: MachineRig):
    with pytest.raises(MachineError, match="fallow vm image build"):
        await real.machine.prepare(replace(SPEC, image="nope"))
    assert await real.machine.survey() == ()


def folder_of(rig: MachineRig) -> Path:
    assert rig.options is not None
    return rig.options.folder / "machines" / rig.member_id / "a1"


def balloon(rig: MachineRig) -> int:
    assert rig.libvirt is not None
    said = rig.libvirt.virsh("domstats", "fallow-a1", "--balloon")
    return 1024 * int(next(line.partition("=")[2] for line in said.splitlines() if "balloon.current" in line))


def limited(group: Path, quota_us: int) -> bool:
    """Set a group's quota, if the kernel has forgotten the larger ones of groups that were in it."""
    try:
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    except OSError:
        return False
    return True


def group_of(rig: MachineRig, controller: str = "cpu") -> Path | None:
    """Return the machine's control group, where they are of version 1."""
    return next(Path("/sys/fs/cgroup", controller, rig.group).glob("qemu-*"), None)


def systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()
