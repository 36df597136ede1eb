"""`fallow label-set`: named groups of members, usable wherever a selector is."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.options import Json, Watch
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.labels import LabelSetChange, LabelSetRequest, LabelSetView

app = typer.Typer(no_args_is_help=True, help="Name groups of members by a selector, and use them as @NAME in others.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The label set.", autocompletion=completion.label_sets)]
Picks = Annotated[str, typer.Option("--selector", "-l", metavar="SELECTOR", help="Whom it picks.", show_default=False)]
Description = Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.", show_default=False)]


@app.command(
    epilog="""Examples:

  fallow label-set create web-east --selector 'role=web,region=east'
  fallow label-set create big -l '@web-east,cpu.count>=16' --description "for the nightly build\""""
)
def create(
    ctx: typer.Context, name: Name, selector: Picks, description: Description = "", as_json: Json = False
) -> None:
    """Name the members that a selector picks, now and later."""
    with session_of(ctx).client() as client:
        found = client.create_label_set(LabelSetRequest(name=name, selector=selector, description=description))
    _tell(found, as_json=as_json)


@app.command(
    "list",
    epilog="""Examples:

  fallow label-set list
  fallow label-set list --json""",
)
def list_(ctx: typer.Context, watch: Watch = False, as_json: Json = False) -> None:
    """List label sets and how many members each picks now."""
    show_list(
        session_of(ctx),
        lambda client: client.label_sets(),
        _table,
        as_json=as_json,
        watch=("label-sets", "members", "deployments") if watch else (),
    )


def _table(found: Sequence[LabelSetView]) -> Table:
    return output.rows(
        output.table("NAME", "SELECTOR", "MEMBERS", "USED BY", "DESCRIPTION"),
        ((each.name, each.selector, len(each.members), len(each.used_by), each.description) for each in found),
    )


@app.command(epilog="Example:\n\n  fallow label-set show web-east")
def show(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show one label set, the members it picks now, and what uses it."""
    with session_of(ctx).client() as client:
        found = client.label_set(name)
    if as_json:
        output.write_json(found)
        return
    output.show(
        output.facts(
            (
                ("name", found.name),
                ("selector", found.selector),
                ("description", found.description),
                ("members", f"{len(found.members)}: {', '.join(found.members)}" if found.members else "none"),
                ("used by", ", ".join(found.used_by) or "nothing"),
                ("made", output.clock(found.created_at)),
                ("made by", found.created_by),
            )
        )
    )


@app.command(epilog="Example:\n\n  fallow label-set update web-east --selector 'role=web,region in (east,north)'")
def update(
    ctx: typer.Context, name: Name, selector: Picks = "", description: Description = "", as_json: Json = False
) -> None:
    """Change whom a label set picks; deployments that use it follow at once."""
    if not selector and not description:
        raise usage("Nothing is to be changed", "Give --selector, --description, or both.")
    change = LabelSetChange(selector=selector or None, description=description or None)
    with session_of(ctx).client() as client:
        found = client.change_label_set(name, change)
    _tell(found, as_json=as_json)


@app.command(epilog="Example:\n\n  fallow label-set delete web-east")
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a label set that nothing uses."""
    with session_of(ctx).client() as client:
        client.delete_label_set(name)
    output.write(f"{name}: deleted")


def _tell(found: LabelSetView, *, as_json: bool) -> None:
    if as_json:
        output.write_json(found)
    else:
        output.write(f"@{found.name}: {output.clean(found.selector)} ({len(found.members)} members now)")
