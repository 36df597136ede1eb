"""`fallow vm image`: what virtual machines on this server start from. No control plane is asked."""

import re
from pathlib import Path
from typing import Annotated

import typer

from fallow.cli import output
from fallow.cli.failures import usage
from fallow.cli.launchers import (
    VM_IMAGE_PYTHONS,
    AddVmImage,
    BuildVmImage,
    ListVmImages,
    MachineOptions,
    VmImageBase,
    VmImageTask,
    VmImageView,
)
from fallow.cli.options import Json
from fallow.cli.session import session_of
from fallow.model.meta import is_name
from fallow.model.units import format_bytes

VM_FOLDER = MachineOptions().folder
_PYTHON = re.compile(r"3\.(1[1-9]|[2-9][0-9])")

app = typer.Typer(
    no_args_is_help=True,
    help="Build, add and list what virtual machines on this server start from. These commands work on this machine.",
)


def register(group: typer.Typer) -> None:
    """Add these commands to `fallow vm`."""
    group.add_typer(app, name="image")


Folder = Annotated[
    Path,
    typer.Option(
        "--vm-folder", metavar="FOLDER", help="Where disks and images are, as `fallow join --role server` is told."
    ),
]


@app.command(
    epilog="""Examples:

  fallow vm image build
  fallow vm image build --base host
  fallow vm image build --name big --output /srv/images/big"""
)
def build(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call it.")] = "default",
    to: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FOLDER",
            help="Where to put it, for another server, instead of among this one's images.",
            show_default=False,
        ),
    ] = None,
    base: Annotated[
        VmImageBase,
        typer.Option(
            "--base",
            help="debian: from a mirror, in minutes; host: of this machine's own programs, in seconds.",
        ),
    ] = "debian",
    folder: Folder = VM_FOLDER,
    as_json: Json = False,
) -> None:
    """Build an image with an engine and this agent, which joins by itself.

    Virtual machines that run keep what they were made from; those made from now on get this one.
    """
    target = to.absolute() if to is not None else None
    if target is not None and target.exists() and not (target / "image.json").exists():
        raise usage(f"{target} is there already, and is no image", "Name a folder that is not there yet.")
    _run(ctx, BuildVmImage(folder=folder.absolute(), name=_name(name), base=base, output=target, tell=_tell), as_json)


@app.command(
    epilog="""Examples:

  fallow vm image add bookworm debian-12-genericcloud-amd64.qcow2
  fallow vm image add bookworm debian-12-genericcloud-amd64.qcow2 --python 3.11
  fallow vm image add ours ours.qcow2 --has-fallow"""
)
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Its disk, of any format that QEMU knows.", show_default=False)
    ],
    python: Annotated[
        list[str],
        typer.Option(
            "--python",
            metavar="VERSION",
            help="A version of Python that may be in it: Fallow is put beside it for each. May be given several times.",
            show_default="3.11, 3.12, 3.13",
        ),
    ] = list(VM_IMAGE_PYTHONS),  # noqa: B006 - never changed
    has_fallow: Annotated[
        bool, typer.Option("--has-fallow", help="Fallow is in it already: nothing is put beside it.")
    ] = False,
    folder: Folder = VM_FOLDER,
    as_json: Json = False,
) -> None:
    """Add somebody else's image: any with systemd and cloud-init in it.

    What it lacks is brought with its first start: Fallow by this server, for the Python that is in it, and
    Podman from the repositories of its distribution.
    """
    for version in python:
        if not _PYTHON.fullmatch(version):
            raise usage(f"{version!r} is not a version of Python that Fallow runs on", "Say 3.11 or a newer one.")
    pythons = () if has_fallow else tuple(dict.fromkeys(python))
    task = AddVmImage(folder=folder.absolute(), name=_name(name), file=file.absolute(), pythons=pythons, tell=_tell)
    _run(ctx, task, as_json)


@app.command(
    "list",
    epilog="""Examples:

  fallow vm image list
  fallow vm image list --json""",
)
def list_(ctx: typer.Context, folder: Folder = VM_FOLDER, as_json: Json = False) -> None:
    """List the images on this machine."""
    _run(ctx, ListVmImages(folder=folder.absolute()), as_json)


def _run(ctx: typer.Context, task: VmImageTask, as_json: bool) -> None:
    found = session_of(ctx).launchers.vm_image(task)
    if as_json:
        output.write_json({"items": found} if isinstance(task, ListVmImages) else found[0])
        return
    if not isinstance(task, ListVmImages):
        output.write(f"{found[0].name}: {format_bytes(found[0].size_bytes)} in {found[0].folder}")
        return
    if not found:
        output.write("There is no image here yet: fallow vm image build")
        return
    rows = ((each.name, each.base, each.agent, format_bytes(each.size_bytes), _age(each)) for each in found)
    output.show(output.rows(output.table("NAME", "BASE", "FALLOW", "SIZE", "AGE"), rows))


def _age(image: VmImageView) -> str:
    return output.age(image.created_at) if image.created_at else ""


def _tell(text: str) -> None:
    output.stderr().print(f"{text} ...", style="dim")


def _name(text: str) -> str:
    if not is_name(text):
        raise usage(f"{text!r} cannot be a name", "Use at most 40 of a-z, 0-9 and -, beginning with a letter.")
    return text
