"""The root of an image made of Debian's packages, with systemd, an engine and this agent; from a mirror, in minutes."""

import shutil
from collections.abc import Callable
from pathlib import Path

from fallow.drivers.machine import commands
from fallow.drivers.machine.imaging.agent import agent_tree
from fallow.drivers.machine.imaging.kernel import PACKAGE, Kernel, unpacked

PROGRAMS = {"mmdebstrap": "mmdebstrap"}
SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv", "systemd-resolved", "dbus", "udev", "kmod", "iproute2", "iptables", "ca-certificates", "e2fsprogs",
    "podman", "runc", "netavark", "aardvark-dns", "tini", "wireguard-tools", "python3-venv", PACKAGE,
)  # fmt: skip
SECONDS = 3600.0
FILES = Path(__file__).parent / "debian_skeleton"
UNIT = "fallow-first-boot.service"
UNITS = (UNIT, "podman.socket", "systemd-networkd.service", "systemd-resolved.service")
_VENV = "/opt/fallow"


async def fill(root: Path, tell: Callable[[str], None]) -> Kernel:
    """Fill an empty folder, and return the kernel in it. Raises MachineError."""
    tell(f"bootstrapping Debian {SUITE} with {len(PACKAGES)} packages: this takes minutes")
    include = ",".join(PACKAGES)
    await commands.run("mmdebstrap", "--variant=minbase", f"--include={include}", SUITE, str(root), seconds=SECONDS)
    tell("installing the agent")
    shutil.copytree(FILES, root, dirs_exist_ok=True)
    (root / "usr/local/sbin/fallow-first-boot").chmod(0o755)
    await _install_agent(root)
    for unit in UNITS:
        await commands.run("chroot", str(root), "systemctl", "enable", unit)
    (root / "usr/local/bin/fallow").symlink_to(f"{_VENV}/bin/fallow")
    return unpacked(root)


async def _install_agent(root: Path) -> None:
    """Put this very agent, and the packages that it needs, into an environment of the image's own Python."""
    said = await commands.run("chroot", str(root), "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    version = said.strip()
    await commands.run("chroot", str(root), "python3", "-m", "venv", _VENV)
    target = root / _VENV.lstrip("/") / "lib" / f"python{version}" / "site-packages"
    await agent_tree(target, version)
    program = root / _VENV.lstrip("/") / "bin/fallow"
    program.write_text(f'#!/bin/sh\nexec {_VENV}/bin/python3 -P -m fallow "$@"\n')
    program.chmod(0o755)
