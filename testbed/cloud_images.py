"""A disk as the clouds' images of Debian are: cloud-init, systemd and GRUB, and nothing that has to do with Fallow.

Made of Debian's packages from a mirror, since the images themselves are not on mirrors. An SSH server and tools for
people are left out: an emulated processor would have to start them.
"""

import asyncio
import fcntl
import hashlib
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fallow.drivers.machine.commands import run
from testbed import parts, processes
from testbed.processes import TestbedError

CACHE = Path("/var/cache/fallow/testbed-cloud-images")
PARTS = ("mmdebstrap", "mke2fs", "qemu-img", "dpkg-deb")
SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv", "systemd-resolved", "dbus", "udev", "kmod", "iproute2", "ca-certificates", "e2fsprogs", "sudo",
    "initramfs-tools", "linux-image-cloud-amd64", "cloud-init", "cloud-guest-utils", "netplan.io", "libnss-myhostname",
    "grub-pc-bin",
)  # fmt: skip
MIRRORED = "podman"  # can be installed in it, with what it recommends
SPARE_BYTES = 256 * 2**20
BUILD_SECONDS = 1500.0
_GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "configfile", "linux", "boot")
_GRUB = """\
set timeout=0
menuentry Debian {
  linux /vmlinuz root=LABEL=cloudroot ro console=tty0 console=ttyS0,115200
  initrd /initrd.img
}
"""
MIRROR_PORT = 8096
# As on a site with a mirror of its own; every network's gateway has this name.
_APT = {
    "etc/apt/sources.list": f"deb [trusted=yes] http://_gateway:{MIRROR_PORT} ./\n",
    "etc/cloud/cloud.cfg.d/90_mirror.cfg": "apt: {preserve_sources_list: true}\n",
}
_SECTOR, _PARTITION_SECTOR = 512, 2048


def missing() -> str | None:
    """Return why no such disk can be made here, None when it can."""
    return next((found for part in PARTS if (found := parts.missing(part)) is not None), None)


@dataclass(frozen=True)
class CloudImage:
    """A disk (qcow2), and a folder with the packages that can be installed in it: to be served on MIRROR_PORT."""

    disk: Path
    mirror: Path


def image() -> CloudImage:
    """Return an image that was made now, or kept from a run before. Raises MachineError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    recipe = repr((SUITE, PACKAGES, MIRRORED, _GRUB, _GRUB_MODULES, _APT))
    kept = CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=CACHE, prefix=".draft-") as name:
                made = Path(name) / "made"
                (made / "mirror").mkdir(parents=True)
                asyncio.run(_make(Path(name), made))
                made.rename(kept)
    return CloudImage(kept / "disk.qcow2", kept / "mirror")


async def _make(folder: Path, made: Path) -> None:
    root, raw = folder / "root", folder / "disk.raw"
    options = ["--variant=minbase", "--aptopt=Acquire::Languages none", "--dpkgopt=path-exclude=/usr/share/locale/*"]
    fetch = 'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only -o APT::Install-Recommends=true'
    options.append(f"--customize-hook={fetch} -o Dir::Cache::Archives={made}/mirror install {MIRRORED}")
    # What it mounts ends with it, even if it is killed.
    words = ("unshare", "--mount", "mmdebstrap", *options, f"--include={','.join(PACKAGES)}", SUITE, str(root))
    await run(*words, seconds=BUILD_SECONDS)
    _index(made / "mirror")
    # As the image's own build leaves it: no name and no id yet, and networks are cloud-init's to set up.
    (root / "etc/hostname").write_text("localhost\n")
    (root / "etc/machine-id").write_text("uninitialized\n")
    (root / "etc/fstab").write_text("LABEL=cloudroot / ext4 rw,discard,errors=remount-ro 0 1\n")
    for unit in ("systemd-networkd.service", "systemd-resolved.service"):
        await run("chroot", str(root), "systemctl", "enable", unit)
    for name, text in _APT.items():
        (root / name).write_text(text)
    grub = root / "boot/grub"
    grub.mkdir(exist_ok=True)
    (grub / "grub.cfg").write_text(_GRUB)
    core = ("grub-mkimage", "-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", "/boot/grub/core.img")
    await run("chroot", str(root), *core, *_GRUB_MODULES)
    await _write(root, raw)
    await run("qemu-img", "convert", "-O", "qcow2", str(raw), str(made / "disk.qcow2"), seconds=BUILD_SECONDS)


def _index(mirror: Path) -> None:
    """Write what apt reads of a folder of packages."""
    entries = []
    for found in sorted(mirror.glob("*.deb")):
        package = found.rename(found.with_name(found.name.replace("%3a", ".")))  # an epoch's colon
        content, fields = package.read_bytes(), processes.run("dpkg-deb", "-f", str(package)).rstrip()
        digest = hashlib.sha256(content).hexdigest()
        entries.append(f"{fields}\nFilename: ./{package.name}\nSize: {len(content)}\nSHA256: {digest}\n")
    (mirror / "Packages").write_text("\n".join(entries))


async def _write(root: Path, raw: Path) -> None:
    """Write a disk with one partition, and GRUB where its own defaults look for it: from the second sector on."""
    size = int((await run("du", "-s", "--block-size=1", str(root))).split()[0]) * 5 // 4 + SPARE_BYTES
    blocks = size // 4096
    boot = bytearray((root / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:_SECTOR])
    core = (root / "boot/grub/core.img").read_bytes()
    if len(core) > (_PARTITION_SECTOR - 1) * _SECTOR:
        raise TestbedError("GRUB does not fit in front of the partition")
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _PARTITION_SECTOR, blocks * 8)
    boot[0x1BE:] = entry.ljust(4 * len(entry), b"\0") + b"\x55\xaa"
    with raw.open("wb") as file:
        file.write(boot + core)
        file.truncate(_PARTITION_SECTOR * _SECTOR + blocks * 4096)
    offset = f"offset={_PARTITION_SECTOR * _SECTOR}"
    words = ("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "cloudroot", "-E", offset, "-d", str(root), str(raw))
    await run(*words, str(blocks), seconds=BUILD_SECONDS)
