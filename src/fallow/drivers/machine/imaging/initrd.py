"""The small system that finds the disk, as an archive that the kernel unpacks into memory."""

import gzip
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from fallow.drivers.machine import commands
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.imaging.kernel import Kernel, copy_modules

MODULES = ("drivers/virtio", "drivers/block/virtio_blk.ko")
APPLETS = ("sh", "mount", "modprobe", "switch_root", "mkdir", "sleep", "echo", "cat", "ls", "poweroff", "acpid")
INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci virtio_blk; do modprobe $module; done
tries=0
until [ -b /dev/vda ] || [ $tries -ge 100 ]; do tries=$((tries + 1)); sleep 0.1; done
mkdir /disk
mount -o rw,noatime /dev/vda /disk || exec sh
mount --move /dev /disk/dev
mount --move /proc /disk/proc
mount --move /sys /disk/sys
exec switch_root /disk /sbin/init
"""


async def make_initrd(kernel: Kernel, target: Path, init: str = INIT, modules: Sequence[str] = ()) -> None:
    """Write an initrd of busybox, the modules for a disk and further ones, and `init`. Raises MachineError."""
    with tempfile.TemporaryDirectory(prefix="fallow-initrd-") as name:
        root = Path(name)
        for folder in ("bin", "dev", "proc", "sys", "lib"):
            (root / folder).mkdir()
        shutil.copy2(busybox(), root / "bin/busybox")
        for applet in APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        copy_modules(kernel, root, (*MODULES, *modules))
        await commands.run("depmod", "-b", str(root), kernel.version)
        (root / "init").write_text(init)
        (root / "init").chmod(0o755)
        (root / "sbin").symlink_to("bin")
        with gzip.open(target, "wb", compresslevel=1) as out:
            for piece in archive(root):
                out.write(piece)


def busybox() -> Path:
    """Return a busybox that needs no library. Raises MachineError."""
    for place in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(place).exists():
            return Path(place)
    raise MachineError("failed", "busybox is not installed: apt-get install busybox-static")


def archive(root: Path) -> Iterator[bytes]:
    """Yield a tree as a cpio archive of the format `newc`: what the kernel's buffer-format.txt describes."""
    for number, path in enumerate(sorted(root.rglob("*")), start=1):
        found = path.lstat()
        content = _content(path, found)
        yield _entry(str(path.relative_to(root)), number, found.st_mode, content)
    yield _entry("TRAILER!!!", 0, 0, b"")


def _content(path: Path, found: os.stat_result) -> bytes:
    if stat.S_ISLNK(found.st_mode):
        return os.fsencode(os.readlink(path))
    return path.read_bytes() if stat.S_ISREG(found.st_mode) else b""


def _entry(name: str, number: int, mode: int, content: bytes) -> bytes:
    """Return one entry: thirteen numbers in hexadecimal, the name, the content, each part padded to four bytes."""
    encoded = os.fsencode(name) + b"\0"
    numbers = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % each for each in numbers) + encoded
    return _padded(head) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
