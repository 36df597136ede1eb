"""The kernel that our own images boot: Debian's for clouds, from its package, which is unpacked and not installed."""

import asyncio
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fallow.drivers.machine import commands
from fallow.drivers.machine.contract import MachineError

PACKAGE = "linux-image-cloud-amd64"
DOWNLOAD_SECONDS = 600.0
_DEPENDS = re.compile(r"^\s*Depends: (linux-image-\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel that lies unpacked: the file to boot, and `tree` with its modules below `lib/modules/VERSION`."""

    version: str
    file: Path
    tree: Path

    @property
    def modules(self) -> Path:
        """Return the folder of its modules."""
        return self.tree / "lib/modules" / self.version


async def fetched(cache: Path) -> Kernel:
    """Return the newest kernel that apt knows, from `cache` where it lies there already. Raises MachineError."""
    said = await commands.run("apt-cache", "depends", PACKAGE)
    found = _DEPENDS.search(said)
    if found is None:
        raise MachineError("failed", f"apt knows no package {PACKAGE}: apt-get update")
    place = cache / found[1]
    if not await asyncio.to_thread(place.exists):
        await asyncio.to_thread(cache.mkdir, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".draft-") as folder:
            draft = Path(folder)
            await _download(draft, found[1])
            await unpack(next(iter(draft.glob("*.deb"))), draft / "tree")  # noqa: ASYNC240 - one entry
            (draft / "tree").rename(place)
    return unpacked(place)


async def unpack(package: Path, target: Path) -> None:
    """Unpack a Debian package with a kernel. Raises MachineError."""
    await commands.run("dpkg-deb", "-x", str(package), str(target), seconds=DOWNLOAD_SECONDS)


def unpacked(tree: Path) -> Kernel:
    """Return the kernel in a tree. Raises MachineError."""
    files = sorted(tree.glob("boot/vmlinuz-*"))
    if not files:
        raise MachineError("failed", f"{tree} holds no kernel")
    return Kernel(version=files[-1].name.removeprefix("vmlinuz-"), file=files[-1], tree=tree)


async def _download(folder: Path, package: str) -> None:
    # Not into `folder` itself: apt would warn that its own user cannot enter it.
    try:
        await commands.run(
            "sh", "-c", 'cd "$1" && exec apt-get -q download "$2"', "sh", str(folder), package, seconds=DOWNLOAD_SECONDS
        )
    except MachineError as error:
        raise MachineError("failed", f"the kernel could not be fetched: {error}") from error


def copy_modules(kernel: Kernel, root: Path, wanted: tuple[str, ...]) -> None:
    """Copy folders and files of modules, named from `kernel/`, with what depmod needs, into a tree. Raises OSError."""
    target = root / "lib/modules" / kernel.version
    for name in wanted:
        source = kernel.modules / "kernel" / name
        place = target / "kernel" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, place)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy2(kernel.modules / name, target / name)
