"""`fallow registry mirror`: pull-through caches of registries that Fallow runs on nodes you choose."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.image_targets import On, target_of
from fallow.cli.options import Json
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.mirrors import MIRROR_IMAGE, MIRRORS, MirrorRequest, MirrorView

app = typer.Typer(no_args_is_help=True, help="Run mirrors of registries on nodes; nodes ask them first.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The mirror.", show_default=False)]
Known = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The mirror.", show_default=False, autocompletion=completion.mirrors),
]


@app.command(
    epilog="""Examples:

  fallow registry mirror create hub --for docker.io --on role=mirror
  fallow registry mirror create shop --for registry.example:5000 --on web-1 --image registry.example:5000/registry:2"""
)
def create(
    ctx: typer.Context,
    name: Name,
    registry: Annotated[
        str,
        typer.Option("--for", metavar="HOST", help="The registry it is a mirror of.", show_default=False,
                     autocompletion=completion.registries),
    ],
    on: On = "",
    image: Annotated[
        str, typer.Option("--image", metavar="REFERENCE", help="An image of the CNCF distribution registry.")
    ] = MIRROR_IMAGE,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run a registry as a pull-through cache of another one, or move the one of this name.

    It is a deployment of one replica, on one of the nodes that --on means. Once it serves, nodes ask it before the
    registry; while it does not they go to the registry themselves. It has no login: private images come from there.
    """
    target = target_of(on)
    if target.percent != 100:
        raise usage("A mirror runs on one node, not on a share of them", "Say --on NAME or --on SELECTOR.")
    request = MirrorRequest(name=name, registry=registry, target=target, image=image)
    with session_of(ctx).client() as client:
        made = client.registries.create_mirror(request)
    if as_json:
        output.write_json(made)
        return
    output.write(f"{made.name}: a mirror of {made.registry}, {_where(made)}")
    output.note(f"To see how it is: fallow registry mirror list, fallow explain {MIRRORS}/{made.name}")


@app.command("list", epilog="Examples:\n\n  fallow registry mirror list\n  fallow registry mirror list --json")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List mirrors, with where each answers."""
    show_list(session_of(ctx), lambda client: client.registries.mirrors(), _table, as_json=as_json, watch=())


@app.command(epilog="Example:\n\n  fallow registry mirror delete hub")
def delete(ctx: typer.Context, name: Known) -> None:
    """Run a mirror no more, and throw away what it holds; nodes go to the registry itself."""
    with session_of(ctx).client() as client:
        client.registries.delete_mirror(name)
    output.write(f"{name}: being deleted")


def _table(found: Sequence[MirrorView]) -> Table:
    return output.rows(
        output.table("NAME", "MIRROR OF", "STATE", "NODE", "ADDRESS", "IMAGE"),
        ((each.name, each.registry, each.state, each.node, each.address, each.image) for each in found),
    )


def _where(found: MirrorView) -> str:
    return f"at {found.address}" if found.address else "which does not serve yet"
