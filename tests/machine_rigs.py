"""Back-ends for machines under test: in memory, and libvirt with a guest of one megabyte."""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fallow.drivers.cgroups import Groups
from fallow.drivers.machine import images
from fallow.drivers.machine.cgroup import CgroupMachines, CgroupOptions
from fallow.drivers.machine.commands import run
from fallow.drivers.machine.contract import Machine
from fallow.drivers.machine.domain import Attachment
from fallow.drivers.machine.fake import FakeMachines
from fallow.drivers.machine.images import Image
from fallow.drivers.machine.imaging import kernel as kernels
from fallow.drivers.machine.imaging.initrd import make_initrd
from fallow.drivers.machine.libvirt import LibvirtMachines, LibvirtOptions
from testbed import parts
from testbed.libvirt import Libvirt, remove_group

KERNELS = Path("/var/cache/fallow/kernels")
TINY_INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk virtio_balloon evdev button; do modprobe $module; done
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\\npoweroff -f\\n' >/etc/acpi/PWRF/00000080
chmod 755 /etc/acpi/PWRF/00000080
acpid -f -l /dev/null -c /etc/acpi &
echo "READY with $(cat /dev/vdb | head -c 40000 | tail -c 2 | wc -c)"
while :; do sleep 1000; done
"""
TINY_MODULES = ("drivers/acpi/button.ko", "drivers/input/evdev.ko")


@dataclass
class MachineRig:
    """One back-end; `again` makes another for the same member, as after a restart of the agent."""

    again: Callable[[], Machine]
    real: bool = False
    libvirt: Libvirt | None = None
    options: LibvirtOptions | None = None
    group: str = ""
    member_id: str = "m-1"
    seeds: bool = True  # a token lies on a seed
    balloons: bool = True  # memory above that of the start has to wait

    def __post_init__(self) -> None:
        self.machine = self.again()


def fake_machines() -> MachineRig:
    fake = FakeMachines()
    return MachineRig(again=lambda: fake)


async def tiny_image(folder: Path, name: str = "tiny", init: str = TINY_INIT) -> None:
    """Put an image into a folder of images that boots in seconds and obeys its power button."""
    kernel = await kernels.fetched(KERNELS)
    store = images.Images(folder)
    draft = store.draft()
    shutil.copy2(kernel.file, draft / images.KERNEL)
    await make_initrd(kernel, draft / images.INITRD, init, TINY_MODULES)
    await run("qemu-img", "create", "-q", "-f", "qcow2", str(draft / images.DISK), "16M")
    line = "console=ttyS0 panic=-1 quiet"
    store.keep(draft, Image(name=name, base="test", created_at=0.0, kernel=True, command_line=line))


@contextmanager
def libvirt_machines() -> Iterator[MachineRig]:
    """libvirt with a bridge that leads nowhere, and a lent group of its own."""
    parts.require("namespaces", "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "depmod", "busybox")
    run_id = secrets.token_hex(3)
    bridge, group = f"fv{run_id}", f"fallow{run_id}.slice"
    folder = Path(tempfile.mkdtemp(prefix="fallow-vms-"))
    options = LibvirtOptions(folder=folder, attachment=Attachment(bridge=bridge), accelerator="tcg")
    try:
        asyncio.run(tiny_image(folder / "images"))
        asyncio.run(tiny_image(folder / "images", "deaf", TINY_INIT.replace("virtio_balloon ", "")))
        _ip("add", bridge, "type", "bridge")
        _ip("set", bridge, "up")
        with Libvirt() as libvirt:
            options = LibvirtOptions(uri=libvirt.uri, folder=folder, attachment=options.attachment, accelerator="tcg")
            yield MachineRig(
                again=lambda: LibvirtMachines(options, "m-1", group),
                real=True,
                libvirt=libvirt,
                options=options,
                group=group,
            )
    finally:
        os.system(f"ip link del {bridge} 2>/dev/null")
        remove_group(group)
        shutil.rmtree(folder)


@contextmanager
def cgroup_machines() -> Iterator[MachineRig]:
    """Control groups of this machine; the agent is a shell that sleeps."""
    if os.geteuid() != 0 or Groups().version == 0:
        pytest.skip("control groups need root, and a kernel with them")
    group = f"fallow{secrets.token_hex(3)}.slice"
    folder = Path(tempfile.mkdtemp(prefix="fallow-vms-"))
    options = CgroupOptions(folder=folder, program=("/bin/sh", "-c", "sleep 1000 & wait", "agent"))
    try:
        yield MachineRig(again=lambda: CgroupMachines(options, group), group=group, seeds=False, balloons=False)
    finally:
        for pid in Groups().processes(f"/{group}"):
            os.kill(pid, 9)
        remove_group(group)
        shutil.rmtree(folder)


def _ip(*words: str) -> None:
    asyncio.run(run("ip", "link", *words))
