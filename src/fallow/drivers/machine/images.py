"""Images that machines start from: folders by name, each with a disk and perhaps a kernel to boot it with.

A machine links what it uses into a folder of its own, so that an image can be replaced or deleted at any time.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from fallow.drivers.machine.contract import MachineError
from fallow.model.meta import is_name

MANIFEST = "image.json"
DISK, KERNEL, INITRD, AGENT = "disk.qcow2", "vmlinuz", "initrd", "agent.iso"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is. Without `kernel` its disk has a boot loader. `agent`: the version of Fallow in or beside it."""

    name: str
    base: str  # what it was made from
    created_at: float
    command_line: str = ""
    kernel: bool = False
    agent: str = ""


class Images:
    """The images in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def list(self) -> tuple[tuple[Image, int], ...]:
        """Return all images with their sizes in bytes, by name; what is no image is passed over."""
        found = []
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            image = _read(path.parent)
            if image is not None and is_name(path.parent.name):
                size = sum(entry.stat().st_size for entry in path.parent.iterdir())
                found.append((msgspec.structs.replace(image, name=path.parent.name), size))
        return tuple(found)

    def find(self, wish: str) -> tuple[Path, Image]:
        """Return the folder of an image, by its name or by the path of a folder, and what it is; or of a disk alone.

        For a disk alone the path is the disk's. Raises MachineError.
        """
        if wish.startswith("/"):
            path = Path(wish)
            if path.is_file():
                return path, Image(name=path.name, base=wish, created_at=0.0)
        elif is_name(wish):
            path = self.folder / wish
        else:
            raise MachineError("failed", f"{wish!r} is neither the name of an image nor an absolute path")
        image = _read(path)
        if image is None:
            what = f"no image {wish} here" if path.parent == self.folder else f"no image at {wish}"
            raise MachineError("failed", f"there is {what}: `fallow vm image build --name {path.name}` on this server")
        return path, image

    def draft(self) -> Path:
        """Return a new folder in which an image can be made."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        return Path(tempfile.mkdtemp(prefix=".draft-", dir=self.folder))

    def keep(self, draft: Path, image: Image) -> Path:
        """Let a draft be the image of its name, in place of the one before; return its folder. Raises OSError."""
        return keep(draft, image, self.folder / image.name)


def keep(draft: Path, image: Image, target: Path) -> Path:
    """Make a folder with a disk an image, and put it in the place of `target`. Raises OSError."""
    (draft / MANIFEST).write_bytes(msgspec.json.encode(image))
    draft.chmod(0o711)
    for entry in draft.iterdir():
        entry.chmod(0o644)
    former = Path(tempfile.mkdtemp(prefix=".former-", dir=target.parent))
    if target.exists():
        target.rename(former / target.name)
    draft.rename(target)
    shutil.rmtree(former)
    return target


def link(source: Path, target: Path) -> Path:
    """Give a file of an image a second name that outlives the first; where that cannot be, return the first."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        return source.resolve()
    return target


def now() -> float:
    """Return UTC seconds."""
    return time.time()


def _read(folder: Path) -> Image | None:
    try:
        image = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Image)
    except (OSError, msgspec.DecodeError):
        return None
    return image if (folder / DISK).is_file() else None
