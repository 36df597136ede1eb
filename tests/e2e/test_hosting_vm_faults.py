"""What can go wrong with real virtual machines: libvirt killed, a machine that hangs, is cut off, has no disk left.

The tests follow each other on one server, a control group of this machine, with one virtual machine (emulated, so that
they run anywhere), and on one node beside it.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from joined import no_request_fails
from lender import OTHER, VM, Lender, lending

from fallow.client.api import Client
from fallow.drivers.machine.domain import domain_name
from fallow.model.members import MemberState
from fallow.model.server_pools import VmPlanChange
from fallow.model.units import parse_bytes
from fallow.model.vms import VmState
from testbed import cgroups, processes, vms
from testbed.vms import VmGround

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
GIB = 2**30
BOOT_SECONDS = 400.0  # emulated, and beside others
SURVEY_SECONDS = 40.0  # until a machine is looked at again, when virsh had to be given up


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Lender, VmGround]]:
    if (reason := vms.missing()) is not None:
        pytest.skip(reason)
    with (
        small_disk() as disk,
        lending("--dead-after", "8s", memory_bytes=6 * GIB) as found,
        VmGround(found.cluster.fabric) as ground,
        found.cluster.client() as client,
    ):
        (disk / "images").symlink_to(ground.folder / "images")
        ground.options = (*ground.options, "--vm-folder", str(disk))
        ground.folder = disk
        found.lend_patiently(client, vms=VmPlanChange(cpus=1, memory_bytes=GIB, disk_bytes=GIB))
        try:
            found.serve(client, *ground.options, seconds=BOOT_SECONDS)
        except processes.TestbedError as error:
            told = found.cluster.fallow("vm", "list"), ground.consoles()[-3000:], found.told()
            raise processes.TestbedError("\n".join((str(error), *told))) from None
        yield found, ground


@pytest.fixture
def lender(pair: tuple[Lender, VmGround]) -> Lender:
    return pair[0]


@pytest.fixture
def ground(pair: tuple[Lender, VmGround]) -> VmGround:
    return pair[1]


@contextmanager
def small_disk() -> Iterator[Path]:
    """Make a disk for machines that a test can fill; before any machine is on, so that all of them see it."""
    disk = Path(tempfile.mkdtemp(prefix="fallow-disk-"))
    processes.run("mount", "-t", "tmpfs", "-o", "size=1500m,mode=711", "none", str(disk))
    try:
        yield disk
    finally:
        processes.run("umount", "--lazy", str(disk))
        disk.rmdir()


def domain(lender: Lender, client: Client) -> str:
    vm = lender.vm(client)
    assert vm is not None
    return domain_name(vm.id)


def emulator(lender: Lender) -> int:
    """Return the id of the process that is the machine."""
    found = [pid for pid in lender.lent_processes() if b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1
    return found[0]


def settled(lender: Lender, client: Client) -> None:
    """Wait until all is as at the beginning."""
    lender.cluster.wait(lambda: lender.lends(client) and lender.runs(client), BOOT_SECONDS, "all well again")
    lender.cluster.wait_ready(VM, OTHER, seconds=60)
    lender.cluster.wait(lambda: "-" not in lender.where(client) and len(lender.where(client)) == 2, 90, "two replicas")


def test_libvirt_that_is_killed_and_comes_back_changes_nothing(
    lender: Lender, ground: VmGround, client: Client
) -> None:
    node, machine, held = client.member(VM), emulator(lender), lender.limit()
    with no_request_fails(lender.cluster.http_port):
        ground.libvirt.kill()
        lender.cluster.wait(lambda: told(lender, client) != "", SURVEY_SECONDS, "the agent tells that libvirt is away")
        assert lender.lends(client)
        assert lender.limit() == pytest.approx(held, abs=0.3)
        lender.spike()
        processes.wait_until(lambda: lender.limit() < held - 0.5, 3, "the limit falls without libvirt")
        lender.calm()
        ground.libvirt.start()
        lender.cluster.wait(lambda: told(lender, client) == "", SURVEY_SECONDS, "libvirt is back")
    assert emulator(lender) == machine
    assert client.member(VM).state_since == node.state_since


def told(lender: Lender, client: Client) -> str:
    """Return what is wrong with the machine, as its server told last."""
    vm = lender.vm(client)
    return vm.use.problem if vm is not None and vm.use is not None else "nothing was told"


def found_running(lender: Lender, client: Client) -> bool:
    """Say whether the agent itself tells that its machine runs, and nothing is wrong with it."""
    vm = lender.vm(client)
    return vm is not None and vm.use is not None and vm.use.state is VmState.RUNNING and not vm.use.problem


def test_an_agent_that_is_killed_finds_its_machine_again(lender: Lender, ground: VmGround, client: Client) -> None:
    node, machine, held = client.member(VM), emulator(lender), lender.limit()
    with no_request_fails(lender.cluster.http_port):
        lender.kill_agent()
        assert lender.limit() == held
        lender.join(*ground.options)
        lender.cluster.wait(lambda: lender.lends(client), 30, "the next agent lends")
        lender.cluster.wait(lambda: found_running(lender, client), SURVEY_SECONDS, "it has found its machine")
    assert emulator(lender) == machine
    assert client.member(VM).state_since == node.state_since


def test_a_machine_that_somebody_paused_goes_on(lender: Lender, ground: VmGround, client: Client) -> None:
    ground.libvirt.virsh("suspend", domain(lender, client))
    state = ("domstate", domain(lender, client))
    lender.cluster.wait(lambda: "running" in ground.libvirt.virsh(*state), SURVEY_SECONDS, "the machine to go on")
    settled(lender, client)


def test_what_is_on_a_machine_that_hangs_is_replaced(lender: Lender, client: Client) -> None:
    machine = emulator(lender)
    assert VM in lender.where(client)
    os.kill(machine, signal.SIGSTOP)
    try:
        lender.wait_where_serving(client, OTHER, OTHER, seconds=60)
        lender.cluster.wait(lambda: lender.lends(client), 10, "the server still reports")
        assert lender.view(client).age_seconds is not None
        lender.spike()
        processes.wait_until(lambda: lender.limit() < 1.2, 3, "the limit falls")
        lender.calm()
    finally:
        os.kill(machine, signal.SIGCONT)
    settled(lender, client)


def test_what_is_on_a_machine_that_is_cut_off_is_replaced(lender: Lender, ground: VmGround, client: Client) -> None:
    lender.restart(client, *ground.options)
    lender.home(client)
    cable = ground.libvirt.virsh("domiflist", domain(lender, client)).split()[0]
    namespace = lender.cluster.fabric.namespace
    processes.run("ip", "-n", namespace, "link", "set", cable, "down")
    try:
        lender.wait_where_serving(client, OTHER, OTHER, seconds=60)
        assert client.member(VM).state is MemberState.DEAD
        assert lender.runs(client), "its server still says that it runs"
    finally:
        processes.run("ip", "-n", namespace, "link", "set", cable, "up")
    settled(lender, client)


def test_a_machine_whose_server_has_no_disk_left_goes_on_when_there_is(
    lender: Lender, ground: VmGround, client: Client
) -> None:
    filler = ground.folder / "machines" / "filler"
    with filler.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    try:
        client.restart_deployment("test", "web")  # so that it has something to write: containers
        lender.cluster.wait(lambda: "disk" in told(lender, client), 120, "the server tells that its disk is full")
    finally:
        filler.unlink()
    settled(lender, client)


def test_a_container_that_fills_its_machines_disk_harms_nobody_else(
    lender: Lender, ground: VmGround, client: Client
) -> None:
    lender.home(client)
    node, machine = client.member(VM), emulator(lender)
    with no_request_fails(lender.cluster.http_port):
        on_machine(lender, "full", FILLS)
        lender.cluster.wait(lambda: disk_free(client) == 0, 120, "the disk is full")
        warned = lambda: "NodeDiskFull" in lender.cluster.fallow("events", "--since", "5m")  # noqa: E731
        lender.cluster.wait(warned, 120, "its node tells it")
        on_machine(lender, "late", RESTS)
        full = lambda: "space" in " ".join(client.explain("late/it").lines)  # noqa: E731
        lender.cluster.wait(full, 60, "what is placed there next cannot begin, and tells why")
        assert client.member(VM).state_since == node.state_since
        assert lender.lends(client)
        assert (told(lender, client), emulator(lender)) == ("", machine)
        assert shutil.disk_usage(ground.folder).free > 100 * 2**20
        lender.cluster.fallow("deployment", "delete", "full/it", "--wait")
        lender.cluster.wait(lambda: disk_free(client) > 100 * 2**20, 60, "room on the disk")
        lender.cluster.healthy("late/it", 1)
    lender.cluster.fallow("deployment", "delete", "late/it", "--wait")
    settled(lender, client)


FILLS = "trap 'exit 0' TERM; cat /dev/zero >/full; while :; do sleep 1; done"
RESTS = "trap 'exit 0' TERM; while :; do sleep 1; done"


def on_machine(lender: Lender, project: str, script: str) -> None:
    """Deploy a container to the machine, and nowhere else."""
    service = {
        "image": lender.cluster.image,
        "command": ["/bin/sh", "-c", script],
        "stop_grace_period": "5s",
        "x-fallow": {"class": "harvest", "selector": "fallow.vm"},
    }
    text = yaml.safe_dump({"services": {"it": service}})
    lender.cluster.deploy(text, "--no-wait", project=project)


def disk_free(client: Client) -> int:
    """Return the bytes that the machine's node told to be free on its disk."""
    found = {each.name: each.value for each in client.member(VM).measured}
    return parse_bytes(found["disk.free"])


def test_a_server_that_was_switched_off_has_the_same_node_back(
    lender: Lender, ground: VmGround, client: Client
) -> None:
    node, vm = client.member(VM), lender.vm(client)
    lender.kill_agent()
    ground.libvirt.reboot()
    cgroups.remove(lender.lent)  # after a boot there are no groups
    lender.cluster.wait(lambda: client.member(VM).state is MemberState.DEAD, 30, "a node that is silent")
    lender.wait_where_serving(client, OTHER, OTHER, seconds=60)
    lender.join(*ground.options)
    lender.cluster.wait(lambda: client.member(VM).state is MemberState.READY, BOOT_SECONDS, "the node back")
    settled(lender, client)
    after = lender.vm(client)
    assert vm is not None
    assert after is not None
    assert (client.member(VM).id, after.id, after.problem) == (node.id, vm.id, "")
    assert emulator(lender)


def test_a_machine_that_was_ended_starts_again(lender: Lender, client: Client) -> None:
    os.kill(emulator(lender), signal.SIGKILL)
    lender.cluster.wait(
        lambda: (vm := lender.vm(client)) is not None and vm.state is not VmState.RUNNING, SURVEY_SECONDS, "its end"
    )
    settled(lender, client)
