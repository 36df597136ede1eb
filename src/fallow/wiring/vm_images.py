"""Images of virtual machines on this machine: built, added, listed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from fallow.cli.failures import Failure, sentence
from fallow.cli.launchers import AddVmImage, BuildVmImage, ListVmImages, VmImageTask, VmImageView


def run_vm_image(task: VmImageTask) -> Sequence[VmImageView]:
    """Do what was asked, and return the images that it is about. Raises Failure."""
    from fallow.drivers.machine.contract import MachineError

    try:
        return asyncio.run(_do(task))
    except MachineError as error:
        raise Failure(sentence(str(error))) from error
    except OSError as error:
        raise Failure(f"{error.filename or task.folder}: {error.strerror or error}") from error


async def _do(task: VmImageTask) -> Sequence[VmImageView]:
    from fallow.drivers.machine.imaging.build import AddRequest, BuildRequest, add, build

    images = task.folder / "images"
    match task:
        case BuildVmImage():
            request = BuildRequest(name=task.name, base=task.base, images=images, output=task.output)
            made = await build(request, task.tell)
        case AddVmImage():
            added = AddRequest(name=task.name, file=task.file, images=images, pythons=task.pythons)
            made = await add(added, task.tell)
        case ListVmImages():
            return _list(images)
    return [each for each in _list(made.parent) if each.folder == str(made)]


def _list(folder: Path) -> Sequence[VmImageView]:
    from fallow.drivers.machine.images import Images

    return [
        VmImageView(
            name=image.name,
            base=image.base,
            agent=image.agent,
            created_at=image.created_at,
            size_bytes=size,
            folder=str(folder / image.name),
        )
        for image, size in Images(folder).list()
    ]
