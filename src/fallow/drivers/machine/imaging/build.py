"""Building an image: the folder with a root, a kernel and what is between them, put in the place of the one before."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fallow.drivers.machine import commands, images
from fallow.drivers.machine.contract import MachineError
from fallow.drivers.machine.folders import describe
from fallow.drivers.machine.images import Image, Images
from fallow.drivers.machine.imaging import debian, host, kernel
from fallow.drivers.machine.imaging.agent import agent_disk
from fallow.drivers.machine.imaging.initrd import make_initrd
from fallow.version import VERSION

Base = Literal["debian", "host"]
KERNELS = Path("/var/cache/fallow/kernels")
COMMAND_LINE = "console=ttyS0 panic=-1 quiet random.trust_cpu=on"
SPARE_BYTES = 256 * 2**20
COPY_SECONDS = 900.0
_PROGRAMS = {"mke2fs": "e2fsprogs", "qemu-img": "qemu-utils", "depmod": "kmod", "dpkg-deb": "dpkg", "ldd": "libc-bin"}

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """An image to be built. `output` is a folder of its own for it, instead of its name among `images`."""

    name: str
    base: Base
    images: Path
    output: Path | None = None
    kernels: Path = KERNELS


async def build(request: BuildRequest, tell: Tell) -> Path:
    """Build an image and return its folder; `tell` hears what is being done. Raises MachineError."""
    check_programs(request.base)
    store = Images(request.images)
    try:
        draft = _draft(store, request.output)
        try:
            await _fill(draft, request, tell)
            image = Image(
                name=request.name,
                base=request.base,
                created_at=images.now(),
                command_line=COMMAND_LINE,
                kernel=True,
                agent=VERSION,
            )
            return images.keep(draft, image, request.output or store.folder / request.name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise MachineError("failed", f"{error.filename or request.images}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class AddRequest:
    """Somebody else's disk with cloud-init that is to be an image; for each of `pythons` Fallow is put beside it."""

    name: str
    file: Path
    images: Path
    pythons: Sequence[str]


async def add(request: AddRequest, tell: Tell) -> Path:
    """Copy a disk among our images; return its folder. Raises MachineError."""
    file = request.file
    if shutil.which("qemu-img", path=commands.PATH) is None:
        raise MachineError("failed", "qemu-img is not installed: apt-get install qemu-utils")
    if not await asyncio.to_thread(file.is_file):
        raise MachineError("failed", f"there is no file {file}")
    _, kind = await describe(file)
    store = Images(request.images)
    try:
        draft = store.draft()
        try:
            words = ("qemu-img", "convert", "-f", kind, "-O", "qcow2", str(file), str(draft / images.DISK))
            await commands.run(*words, seconds=COPY_SECONDS)
            if request.pythons:
                await agent_disk(draft / images.AGENT, request.pythons, tell)
            agent = VERSION if request.pythons else ""
            return store.keep(draft, Image(name=request.name, base=file.name, created_at=images.now(), agent=agent))
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise MachineError("failed", f"{error.filename or request.images}: {error.strerror or error}") from error


def check_programs(base: Base) -> None:
    """Raise MachineError with everything that is missing, and how to get it."""
    if os.geteuid() != 0:
        raise MachineError("failed", "building an image needs root: its files belong to root")
    wanted = {**_PROGRAMS, **(debian.PROGRAMS if base == "debian" else {})}
    missing = [package for name, package in wanted.items() if shutil.which(name, path=commands.PATH) is None]
    if missing:
        raise MachineError("failed", f"programs are missing: apt-get install {' '.join(sorted(set(missing)))}")


async def _fill(draft: Path, request: BuildRequest, tell: Tell) -> None:
    with tempfile.TemporaryDirectory(prefix="fallow-image-") as name:
        root = Path(name) / "root"
        root.mkdir(mode=0o755)
        if request.base == "host":
            tell("fetching a kernel, unless it lies here from before")
            found = await kernel.fetched(request.kernels)
            tell("copying this machine's engine, Python and agent")
            await asyncio.to_thread(host.fill, root, found)
        else:
            found = await debian.fill(root, tell)
        await commands.run("depmod", "-b", str(root), found.version)
        tell("making an initrd and a disk")
        shutil.copy2(found.file, draft / images.KERNEL)
        await make_initrd(found, draft / images.INITRD)
        await _disk(root, Path(name) / "disk.raw", draft / images.DISK)


async def _disk(root: Path, raw: Path, target: Path) -> None:
    """Make a disk with a file system of everything in a folder."""
    said = await commands.run("du", "-s", "--block-size=1", str(root))
    size = int(said.split()[0]) * 5 // 4 + SPARE_BYTES
    await asyncio.to_thread(_sized, raw, size)
    await commands.run("mke2fs", "-q", "-t", "ext4", "-L", "fallow", "-d", str(root), str(raw), seconds=COPY_SECONDS)
    await commands.run("qemu-img", "convert", "-O", "qcow2", str(raw), str(target), seconds=COPY_SECONDS)


def _sized(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _draft(store: Images, output: Path | None) -> Path:
    if output is None:
        return store.draft()
    output.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".draft-", dir=output.parent))
