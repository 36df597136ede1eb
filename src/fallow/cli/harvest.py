"""`fallow harvest report`: what servers lent over a time, and what it was worth."""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fallow.cli import output
from fallow.cli.options import Json, moment
from fallow.cli.session import session_of
from fallow.model.servers import HarvestReport, HarvestRow
from fallow.model.units import format_duration

app = typer.Typer(no_args_is_help=True, help="See what was made of the capacity that servers left idle.")


@app.command(
    epilog="""Examples:

  fallow harvest report
  fallow harvest report --since 30d --price 0.04
  fallow harvest report --since 2026-11-01 --json"""
)
def report(
    ctx: typer.Context,
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="From then on: 7d, or 2026-01-31T08:00.")
    ] = "7d",
    price: Annotated[
        float,
        typer.Option(
            "--price", min=0, max=1e6, metavar="AMOUNT", help="What a core-hour costs elsewhere.", show_default=False
        ),
    ] = 0.0,
    as_json: Json = False,
) -> None:
    """Show core-hours lent and used, evictions, and seconds above a ceiling, of each server and of all.

    Lent is what replicas could have used, used what they did, evicted how many had to go, a day how many that is for
    each replica and day there, over how long the server was above a ceiling while something was lent. With --price
    also what was used would have cost elsewhere.
    """
    begin = max(0.0, moment(since))
    with session_of(ctx).client() as client:
        found = client.servers.harvest(begin, price)
    if as_json:
        output.write_json(found)
    else:
        output.show(_shown(found))


def _shown(found: HarvestReport) -> Group:
    head = Text(f"{output.clock(found.since)} to {output.clock(found.until)}", style="dim")
    if not found.servers:
        return Group(head, Text("nothing was heard of any server in this time"))
    lines: list[RenderableType] = [head, _table(found)]
    if found.price_per_core_hour:
        used, price = found.total.used_core_hours, found.price_per_core_hour
        lines.append(Text(f"saved: {found.saved:,.2f} ({used:,.1f} core-hours at {price:g})", style="bold"))
    return Group(*lines)


def _table(found: HarvestReport) -> Table:
    made = output.table(
        "SERVER", "HOURS", "CORE-HOURS", "PRIMARY", "LENT", "USED", "OF LENT", "EVICTED", "A DAY", "OVER"
    )
    for column in made.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for row in found.servers:
        made.add_row(*_cells(row))
    if len(found.servers) > 1:
        made.add_row(*_cells(found.total), style="bold")
    return made


def _cells(row: HarvestRow) -> list[Text]:
    return [
        output.cell(row.server or "all"),
        Text(f"{row.hours:,.0f}"),
        Text(f"{row.capacity_core_hours:,.1f}"),
        Text(_of(row.primary_core_hours, row.capacity_core_hours)),
        Text(_of(row.lent_core_hours, row.capacity_core_hours)),
        Text(f"{row.used_core_hours:,.1f}"),
        output.cell(f"{row.used_core_hours / row.lent_core_hours:.0%}" if row.lent_core_hours else ""),
        Text(f"{row.evictions:,}"),
        output.cell(f"{row.evictions / row.replica_days:.2f}" if row.replica_days else ""),
        output.cell(format_duration(row.over_seconds) if row.over_seconds >= 1 else ""),
    ]


def _of(part: float, whole: float) -> str:
    return f"{part:,.1f} ({part / whole:.0%})" if whole else f"{part:,.1f}"
