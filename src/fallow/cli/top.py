"""`fallow top`: what servers use, lend and expect, second by second."""

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fallow.cli import output
from fallow.cli.options import Json
from fallow.cli.servers import fresh, percent
from fallow.cli.session import session_of
from fallow.cli.vms import cpus, memory
from fallow.cli.vms import state as vm_state
from fallow.cli.watching import PATIENCE_SECONDS, Display
from fallow.client.errors import ApiError, Unreachable
from fallow.model.servers import ServerReport, ServerView
from fallow.model.units import format_bytes, format_duration
from fallow.model.vms import VmView

LOOK_SECONDS = 1.0
NAME_COLUMNS = 18  # a longer name is cut on a terminal, so that a row fits 100 columns
_COLUMNS = ("PRIM", "SYS", "LENT", "USED", "LIMIT", "THRES", "PEAK")  # shares of a server's capacity


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is shown at one moment, as --json prints it; servers closest to a ceiling first."""

    servers: tuple[ServerView, ...]
    vms: tuple[VmView, ...] = ()


def top(
    ctx: typer.Context,
    with_vms: Annotated[bool, typer.Option("--vms", help="Also each virtual machine.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end, on a terminal too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what servers use, lend and expect, those closest to a ceiling first; on a terminal anew every second.

    PRIM is the primary, LENT what containers use, LIMIT what they may use now, THRES how far the server may fill up,
    PEAK what the primary may need soon, all as shares of the server. OFFER is what containers may ask for, WAIT how
    long the primary waits, THROT how long containers wait for their limit.
    """
    with ExitStack() as stack:
        client = stack.enter_context(session_of(ctx).client())

        def look() -> Seen:
            servers = sorted(client.servers.all().items, key=lambda view: (-closeness(view), view.name))
            return Seen(servers=tuple(servers), vms=client.vms.all().items if with_vms else ())

        seen = look()
        if as_json:
            output.write_json(seen)
            return
        if once or not output.on_terminal(sys.stdout):
            output.show(picture(seen))
            return
        display, heard_at = Display(stack), time.monotonic()
        while True:
            display.draw(picture(seen) if not _late(heard_at) else _away(seen, heard_at))
            time.sleep(LOOK_SECONDS)
            try:
                seen, heard_at = look(), time.monotonic()
            except (Unreachable, ApiError) as error:
                if not _passes(error) or time.monotonic() - heard_at > PATIENCE_SECONDS:
                    raise


def _passes(error: Unreachable | ApiError) -> bool:
    """Say whether a failure may be over soon: the control plane is away, starts, or has too much to do."""
    return isinstance(error, Unreachable) or error.problem.status >= 500 or error.problem.status == 429


def _late(heard_at: float) -> bool:
    return time.monotonic() - heard_at > 2 * LOOK_SECONDS


def _away(seen: Seen, heard_at: float) -> RenderableType:
    silence = format_duration(time.monotonic() - heard_at)
    return Group(Text(f"the control plane does not answer for {silence}; this is older", style="yellow"), picture(seen))


def closeness(view: ServerView) -> float:
    """Return how close a server is to a ceiling, 1 at it; without a fresh report it is beyond."""
    report = fresh(view)
    if report is None or not report.cpus or not report.memory_bytes:
        return float("inf")
    return max(
        report.used_cpus / report.cpus / view.cpu_ceiling,
        report.used_memory_bytes / report.memory_bytes / view.memory_ceiling,
    )


def picture(seen: Seen) -> RenderableType:
    """Return everything as it is shown."""
    if not seen.servers:
        return Text("there are no servers; fallow server token create prints how one joins")
    made = Table(box=None, pad_edge=False, show_header=True, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("SERVER", no_wrap=True, overflow="ellipsis", max_width=NAME_COLUMNS)
    made.add_column("OF", justify="right", no_wrap=True)
    for name in (*_COLUMNS, "OFFER", "WAIT", "THROT", "VMS"):
        made.add_column(name, justify="right", no_wrap=True)
    lines: list[RenderableType] = [Text(_total(seen.servers)), made]
    notes: list[Text] = []
    by_server: dict[str, list[VmView]] = {}
    for vm in seen.vms:
        by_server.setdefault(vm.server, []).append(vm)
    for view in seen.servers:
        _rows(made, view)
        notes.extend(_notes(view))
    if notes:
        lines += [Text(""), *notes]
    if seen.vms:
        lines += [Text(""), _vm_table(vm for view in seen.servers for vm in by_server.get(view.name, ()))]
    return Group(*lines)


def _total(views: Sequence[ServerView]) -> str:
    told = [report for view in views if (report := fresh(view)) is not None]
    cores = sum(report.cpus for report in told)
    parts = [
        output.count(len(views), "server"),
        f"{cores:g} cpus",
        f"{percent(sum(report.used_cpus for report in told), cores) or '0%'} used",
        f"{sum(report.lent_cpus for report in told):.1f} lent",
        f"{sum(view.offered_cpus for view in views):.1f} offered",
        output.count(sum(view.replicas for view in views), "replica"),
    ]
    return ", ".join(parts) + (f", {len(views) - len(told)} silent" if len(told) < len(views) else "")


def _rows(made: Table, view: ServerView) -> None:
    """Add two rows: processors with the name, memory below."""
    report = fresh(view)
    name = Text(output.clean(view.name), style="" if report is not None else "red")
    if report is None:
        made.add_row(name, *(Text("-", style="dim") for _ in range(len(made.columns) - 2)), Text(str(len(view.vms))))
        return
    made.add_row(
        name,
        f"{report.cpus:g} cpu",
        *_shares(report, "cpus", report.cpus, (view.cpu_threshold, view.cpu_ceiling)),
        f"{view.offered_cpus:.1f}",
        _hot(max(report.cpu_waiting, report.io_waiting), 0.1),
        _hot(report.throttled, 0.5),
        str(len(view.vms)),
    )
    made.add_row(
        "",
        format_bytes(report.memory_bytes).replace(" ", "").replace("iB", ""),
        *_shares(report, "memory_bytes", report.memory_bytes, (view.memory_threshold, view.memory_ceiling)),
        format_bytes(view.offered_memory_bytes).replace(" ", "").replace("iB", ""),
        _hot(report.memory_waiting, 0.1),
        "",
        "",
    )


def _shares(report: ServerReport, of: str, whole: float, bounds: tuple[float, float]) -> list[Text]:
    """Return the columns of one resource as shares of `whole`; use above the threshold or ceiling is coloured."""
    threshold, ceiling = bounds
    used = getattr(report, f"used_{of}")
    colour = "red" if used > whole * ceiling else "yellow" if used > whole * threshold else ""
    told = [getattr(report, f"{name}_{of}") for name in ("primary", "system", "lent")]
    cells = [Text(percent(part, whole)) for part in told]
    return [
        *cells,
        Text(percent(used, whole), style=colour),
        Text(percent(getattr(report, f"limit_{of}"), whole)),
        Text(f"{threshold:.0%}"),
        Text(percent(getattr(report, f"predicted_{of}"), whole)),
    ]


def _hot(share: float, above: float) -> Text:
    return Text(f"{share:.0%}", style="yellow" if share > above else "")


def _notes(view: ServerView) -> Iterable[Text]:
    """Yield what a person should know beside the figures: why it gets nothing, what has to go, what is wrong."""
    name, report = (output.clean(view.name), "bold"), fresh(view)
    if view.why_not:
        yield Text.assemble(name, " ", (output.clean(view.why_not), "red" if report is None else "yellow"))
    if report is None:
        return
    if report.relief_cpus or report.relief_memory_bytes:
        much = f"{report.relief_cpus:.1f} cpus and {format_bytes(report.relief_memory_bytes)} have to go"
        yield Text.assemble(name, ": ", (much, "red"))
    for text in report.problems:
        yield Text.assemble(name, ": ", (output.clean(text), "yellow"))


def _vm_table(found: Iterable[VmView]) -> Table:
    made = Table(box=None, pad_edge=False, show_header=True, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("VM", no_wrap=True, overflow="ellipsis", max_width=NAME_COLUMNS)
    made.add_column("SERVER", no_wrap=True, overflow="ellipsis", max_width=NAME_COLUMNS)
    for name in ("STATE", "CPUS", "MEMORY", "THROT", "REPLICAS"):
        made.add_column(name, justify="left" if name == "STATE" else "right", no_wrap=True)
    for vm in found:
        made.add_row(
            output.cell(vm.name),
            output.cell(vm.server),
            vm_state(vm),
            cpus(vm),
            memory(vm),
            _hot(vm.use.throttled, 0.5) if vm.use is not None else output.cell(""),
            str(vm.replicas),
        )
    return made
