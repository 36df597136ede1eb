"""`fallow image schedule`: image jobs that begin by themselves."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.image_targets import On, target_of
from fallow.cli.options import Json, seconds
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.image_jobs import CleanRules, ImageAction
from fallow.model.image_requests import ImageJobRequest
from fallow.model.image_schedules import ImageScheduleRequest, ImageScheduleView
from fallow.model.units import parse_bytes

app = typer.Typer(no_args_is_help=True, help="Begin image jobs at the times a cron expression names.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.", autocompletion=completion.image_schedules)]


@app.command(
    epilog="""Examples:

  fallow image schedule create nightly --cron '30 3 * * *' --update shop/api:prod --on zone=a
  fallow image schedule create tidy --cron '0 4 * * sun' --clean --on all --keep 'shop/*' --until-free 40GiB"""
)
def create(
    ctx: typer.Context,
    name: Name,
    cron: Annotated[
        str, typer.Option("--cron", metavar="EXPRESSION", help="When: five fields, in UTC.", show_default=False)
    ],
    on: On = "",
    pull: Annotated[str, typer.Option("--pull", metavar="REFERENCE", help="Pull this.", show_default=False)] = "",
    update: Annotated[
        str, typer.Option("--update", metavar="REFERENCE", help="Pull this where its tag moved.", show_default=False)
    ] = "",
    clean: Annotated[bool, typer.Option("--clean", help="Delete what nobody needs.")] = False,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="PATTERN", help="With --clean: images that stay.")
    ] = None,
    unused_for: Annotated[
        str, typer.Option("--unused-for", metavar="DURATION", help="With --clean: only what was not needed so long.")
    ] = "24h",
    until_free: Annotated[
        str, typer.Option("--until-free", metavar="BYTES", help="With --clean: stop once so much is free.")
    ] = "0",
    as_json: Json = False,
) -> None:
    """Make an image job at every time that --cron names."""
    if sum(map(bool, (pull, update, clean))) != 1:
        raise usage("What is to be done?", "Give one of --pull REFERENCE, --update REFERENCE and --clean.")
    action = ImageAction.CLEAN if clean else ImageAction.PULL if pull else ImageAction.UPDATE
    try:
        free = parse_bytes(until_free)
    except ValueError as error:
        raise usage(str(error)) from None
    rules = CleanRules(keep=tuple(keep or ()), unused_for_seconds=seconds(unused_for), until_free_bytes=free)
    request = ImageJobRequest(
        action=action, reference=pull or update, target=target_of(on), rules=rules if clean else None
    )
    with session_of(ctx).client() as client:
        made = client.images.create_schedule(ImageScheduleRequest(name=name, cron=cron, request=request))
    if as_json:
        output.write_json(made)
    else:
        output.write(f"{made.name}: first at {output.clock(made.next_at)}")


@app.command("list", epilog="Example:\n\n  fallow image schedule list")
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the schedules of image jobs."""
    show_list(session_of(ctx), lambda client: client.images.schedules(), _table, as_json=as_json)


def _table(found: Sequence[ImageScheduleView]) -> Table:
    return output.rows(
        output.table("NAME", "CRON", "ACTION", "IMAGE", "NEXT", "LAST JOB", "PROBLEM"),
        (
            (each.name, each.cron, each.request.action, each.request.reference, output.clock(each.next_at),
             each.last_job, each.problem)
            for each in found
        ),
    )  # fmt: skip


@app.command(epilog="Example:\n\n  fallow image schedule delete nightly")
def delete(ctx: typer.Context, name: Name) -> None:
    """Delete a schedule; jobs that it has begun go on."""
    with session_of(ctx).client() as client:
        client.images.delete_schedule(name)
    output.write(f"{name}: deleted")
