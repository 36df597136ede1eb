"""What lies on the disk for each machine: a folder with its own disk, its seed, and what it was made from.

A folder without a manifest does not exist by its name: it is made under another one and renamed at the end.
"""

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from fallow.drivers.folders import write_whole
from fallow.drivers.machine import commands, images
from fallow.drivers.machine.contract import MachineError, MachineSpec, Seed
from fallow.drivers.machine.domain import domain_name
from fallow.drivers.machine.images import Images
from fallow.drivers.machine.seed import problem_told, seed_image

MANIFEST, DISK, BASE, SEED, MARK, CONSOLE = (
    "machine.json",
    "disk.qcow2",
    "base.qcow2",
    "seed.iso",
    "seeded",
    "console.log",
)
_DRAFT, _GONE = ".draft", ".gone"
CONSOLE_BYTES = 64 * 1024  # of its end, that are read


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest of a machine's folder: what of an image it boots with, and what it was granted last."""

    kernel: str = ""
    initrd: str = ""
    command_line: str = ""
    agent: str = ""  # a disk with Fallow, for an image that has none
    memory_bytes: int = 0


class Folders:
    """The folders of one member's machines. Paths are open to nobody but root and, file by file, to the hypervisor."""

    def __init__(self, folder: Path, images: Images) -> None:
        self._folder = folder
        self._images = images

    def of(self, vm_id: str) -> Path:
        """Return a machine's folder, which may not be there. Raises ValueError for what is no id."""
        domain_name(vm_id)
        return self._folder / vm_id

    def list(self) -> dict[str, bool]:
        """Return the ids of all machines with something on the disk, and whether they are whole."""
        found: dict[str, bool] = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                vm_id, mark, _ = entry.name.partition(".")
                with contextlib.suppress(ValueError):
                    whole = not mark and (self.of(vm_id) / MANIFEST).exists()
                    found[vm_id] = found.get(vm_id, False) or whole
        return found

    def made(self, vm_id: str) -> Made:
        """Return the manifest. Raises MachineError."""
        try:
            return msgspec.json.decode((self.of(vm_id) / MANIFEST).read_bytes(), type=Made)
        except FileNotFoundError as error:
            raise MachineError("not-found", f"there is no disk of {vm_id}") from error
        except (OSError, msgspec.DecodeError) as error:
            raise MachineError("failed", f"{self.of(vm_id) / MANIFEST} cannot be read: {error}") from error

    def granted(self, vm_id: str, memory_bytes: int) -> None:
        """Note how much memory a machine was granted. Raises MachineError."""
        made = self.made(vm_id)
        if made.memory_bytes != memory_bytes:
            with _told():
                manifest = msgspec.json.encode(msgspec.structs.replace(made, memory_bytes=memory_bytes))
                write_whole(self.of(vm_id) / MANIFEST, manifest, durable=True)

    async def make(self, spec: MachineSpec) -> None:
        """Make a machine's folder with an empty layer above its image, unless it is there. Raises MachineError."""
        folder = self.of(spec.vm_id)
        if (folder / MANIFEST).exists():
            return
        with _told():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            for path in (folder, draft := folder.with_name(spec.vm_id + _DRAFT)):
                shutil.rmtree(path, ignore_errors=True)
            draft.mkdir(mode=0o711)
        try:
            made = await self._fill(draft, folder, spec)
            with _told():
                write_whole(draft / MANIFEST, msgspec.json.encode(made), durable=True)
                draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    async def _fill(self, draft: Path, folder: Path, spec: MachineSpec) -> Made:
        path, image = self._images.find(spec.image)
        alone = path.is_file()
        base = images.link(path if alone else path / images.DISK, draft / BASE)
        size, kind = await describe(base)
        backing = base.name if base.parent == draft else str(base)
        await commands.run(
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", kind,
            str(draft / DISK), str(max(size, spec.disk_bytes)),
        )  # fmt: skip
        found = {}
        agent = (images.AGENT,) if (path / images.AGENT).exists() else ()
        for name in (*((images.KERNEL, images.INITRD) if image.kernel else ()), *agent):
            linked = images.link(path / name, draft / name)
            found[name] = str(folder / name if linked.parent == draft else linked)
        for name in (DISK, SEED, CONSOLE):
            (draft / name).touch(mode=0o600)
            (draft / name).chmod(0o600)
        os.truncate(draft / SEED, len(seed_image(spec.vm_id, Seed(name=spec.name))))
        return Made(
            kernel=found.get(images.KERNEL, ""),
            initrd=found.get(images.INITRD, ""),
            command_line=image.command_line,
            agent=found.get(images.AGENT, ""),
            memory_bytes=spec.memory_bytes,
        )

    def remove(self, vm_id: str) -> None:
        """Remove everything of a machine. Raises MachineError."""
        folder = self.of(vm_id)
        gone = folder.with_name(vm_id + _GONE)
        with _told():
            shutil.rmtree(gone, ignore_errors=True)
            if folder.exists():
                folder.rename(gone)
            for path in (gone, folder.with_name(vm_id + _DRAFT)):
                if path.exists():
                    shutil.rmtree(path)

    def seeded(self, vm_id: str) -> bool:
        """Say whether a token may lie on a machine's seed."""
        return (self.of(vm_id) / MARK).exists()

    def problem_told(self, vm_id: str) -> str:
        """Return why a machine says on its console that it cannot join, empty when it does not."""
        with contextlib.suppress(OSError), (self.of(vm_id) / CONSOLE).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - CONSOLE_BYTES))
            return problem_told(file.read().decode(errors="replace"))
        return ""

    def write_seed(self, vm_id: str, seed: Seed) -> None:
        """Write a machine's seed in place, since a running one may have it open. Raises MachineError."""
        folder = self.of(vm_id)
        with _told():
            if seed.token:
                (folder / MARK).touch()
            with (folder / SEED).open("r+b") as file:
                file.write(seed_image(vm_id, seed))
                file.flush()
                os.fsync(file.fileno())
            if not seed.token:
                (folder / MARK).unlink(missing_ok=True)


async def describe(disk: Path) -> tuple[int, str]:
    """Return the size in bytes that a machine sees of a disk, and its format. Raises MachineError."""
    text = await commands.run("qemu-img", "info", "--force-share", "--output=json", str(disk))
    try:
        found = msgspec.json.decode(text)
        return int(found["virtual-size"]), str(found["format"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise MachineError("failed", f"{disk} is no disk that qemu-img knows: {error}") from error


@contextlib.contextmanager
def _told():  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError as error:
        kind = "no-space" if error.errno in (28, 122) else "failed"
        raise MachineError(kind, f"{error.filename or 'the disk'}: {error.strerror or error}") from error  # type: ignore[arg-type]
