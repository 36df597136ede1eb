"""Virtual machines on a fabric: libvirt in its network, addresses by DHCP, and an image of this machine's programs."""

import asyncio
import fcntl
import hashlib
import ipaddress
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from fallow.drivers.machine import images
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.imaging import build
from fallow.drivers.machine.imaging import kernel as kernels
from fallow.drivers.packages import own_package
from testbed import parts, processes
from testbed.fabric import Fabric, NodeNetwork
from testbed.libvirt import Libvirt
from testbed.processes import TestbedError

CACHE = Path("/var/cache/fallow/testbed-images")
PARTS = ("namespaces", "podman", "libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "mke2fs", "depmod", "busybox")
BRIDGE, BEHIND = "virbr7", ipaddress.IPv4Network("192.168.177.0/24")
NETWORK = f"""\
<network><name>lent</name><forward mode='nat'/><bridge name='{BRIDGE}'/><dns enable='no'/>
<ip address='{BEHIND[1]}' netmask='{BEHIND.netmask}'/></network>
"""
_FIRST, _LAST = 200, 250  # of the fabric's addresses, those of virtual machines
_KEPT = 3  # images of former states of the program


def missing() -> str | None:
    """Return why there can be no virtual machines here, None when there can."""
    reason = next((found for part in PARTS if (found := parts.missing(part)) is not None), None)
    if reason is not None:
        return reason
    try:
        asyncio.run(kernels.fetched(build.KERNELS))
    except MachineError as error:
        return f"no kernel for virtual machines: {error}"
    return None


class VmGround:
    """Where a server's virtual machines run; closing it ends them. `options` are for `fallow join --role server`.

    They are on the fabric's own network; with `behind` on one of libvirt's behind NAT, on that very server.
    """

    def __init__(self, fabric: Fabric, accelerator: str = "tcg", behind: NodeNetwork | None = None) -> None:
        """Start libvirt and DHCP, with the image `default` built or taken from a run before. Raises TestbedError."""
        self.fabric, self.behind = fabric, behind
        self.folder = fabric.folder / "vms"
        self.folder.mkdir(mode=0o711)
        self.libvirt = Libvirt(fabric, behind)
        try:
            attached = self._network() if behind is not None else ("--vm-bridge", "br0")
            self._dhcp = self._serve_addresses()
            image_to(self.folder / "images")
        except BaseException:
            self.libvirt.close()
            raise
        self.options = (
            *("--libvirt", self.libvirt.uri, *attached),
            *("--vm-accelerator", accelerator, "--vm-folder", str(self.folder)),
        )

    def consoles(self) -> str:
        """Return what every machine wrote on its console."""
        found = sorted(self.folder.glob("machines/*/*/console.log"))
        return "\n".join(f"== {path.parent.name}\n{path.read_text(errors='replace')}" for path in found)

    def close(self) -> None:
        """End every machine, libvirt and DHCP."""
        self.libvirt.close()
        processes.stop(self._dhcp)

    def _network(self) -> tuple[str, str]:
        """Make a network as libvirt's usual one, but without its DHCP, which would need dnsmasq."""
        file = self.folder / "network.xml"
        file.write_text(NETWORK)
        self.libvirt.virsh("net-create", str(file))
        return "--vm-network", "lent"

    def _serve_addresses(self) -> "subprocess.Popen[bytes]":
        subnet, leases = (BEHIND if self.behind is not None else self.fabric.subnet), self.folder / "leases"
        interface = BRIDGE if self.behind is not None else self.fabric.namespace
        leases.touch()
        (self.folder / "udhcpd.conf").write_text(
            f"interface {interface}\nstart {subnet[_FIRST]}\nend {subnet[_LAST]}\n"
            f"opt subnet 255.255.255.0\nopt router {subnet[1]}\nopt dns {self.fabric.host_address}\n"
            f"lease_file {leases}\npidfile {self.folder / 'udhcpd.pid'}\n"
        )
        enter = ["nsenter", f"--net={self.behind.path}"] if self.behind is not None else []
        argv = [*enter, "busybox", "udhcpd", "-f", str(self.folder / "udhcpd.conf")]
        process = processes.start(argv, self.folder / "udhcpd.log")
        self.fabric.remember(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def image_to(folder: Path) -> None:
    """Put the image of this machine's programs and of this very agent into a folder of images, as `default`.

    It is kept for the next run; another state of the program makes another. Raises TestbedError.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # two runs build it once, and take nothing away from each other
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = CACHE / hashlib.sha256(own_package().content + os.fsencode(Path(build.__file__))).hexdigest()[:16]
        if not (kept / images.MANIFEST).exists():
            _build(kept)
        _link(kept, folder / "default")


def _build(kept: Path) -> None:
    request = build.BuildRequest(name="default", base="host", images=CACHE, output=kept)
    try:
        asyncio.run(build.build(request, lambda _: None))
    except MachineError as error:
        raise TestbedError(f"no image for virtual machines: {error}") from error
    whole = [path.parent for path in CACHE.glob(f"[0-9a-f]*/{images.MANIFEST}")]
    for former in sorted(whole, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        shutil.rmtree(former, ignore_errors=True)


def _link(kept: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for entry in kept.iterdir():
        images.link(entry, target / entry.name)
