"""The root of an image made of Debian's packages, with systemd, an engine and this agent; from a mirror, in minutes."""

import io
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fallow.drivers.machine import commands
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.imaging.kernel import PACKAGE, Kernel, unpacked
from fallow.drivers.packages import own_package

PROGRAMS = {"mmdebstrap": "mmdebstrap"}
SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv", "systemd-resolved", "dbus", "udev", "kmod", "iproute2", "iptables", "ca-certificates", "e2fsprogs",
    "podman", "runc", "netavark", "aardvark-dns", "tini", "wireguard-tools", "python3-venv", PACKAGE,
)  # fmt: skip
SECONDS = 3600.0
FILES = Path(__file__).parent / "debian_skeleton"
UNITS = ("fallow-first-boot.service", "podman.socket", "systemd-networkd.service", "systemd-resolved.service")
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
    # By this machine's pip, which knows its index and how to reach it; for the image's Python.
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--upgrade"]
    words += ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *_needs()]
    try:
        await commands.run(*words, seconds=SECONDS)
    except MachineError as error:
        raise MachineError("failed", f"the agent's packages could not be installed: {error}") from error
    with zipfile.ZipFile(io.BytesIO(own_package().content)) as archive:
        archive.extractall(target)
    program = root / _VENV.lstrip("/") / "bin/fallow"
    program.write_text(f'#!/bin/sh\nexec {_VENV}/bin/python3 -P -m fallow "$@"\n')
    program.chmod(0o755)


def _needs() -> Iterator[str]:
    """Yield what this agent needs, as pip is told."""
    for text in metadata.requires("fallow") or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield text.partition(";")[0].strip()
