"""`fallow server`: by itself a control plane; with a command, the machines that lend what they do not use."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.explain import explained
from fallow.cli.options import Json, Watch
from fallow.cli.relabelling import read_labels
from fallow.cli.session import Session, session_of
from fallow.cli.watching import show_list
from fallow.model.hosts import REGION_LABEL, ZONE_LABEL
from fallow.model.members import MemberChange, Scheduling
from fallow.model.servers import RECENT_SECONDS, STALE_SECONDS, ServerReport, ServerView
from fallow.model.units import format_bytes, format_duration

_BARS = "▁▂▃▄▅▆▇█"

Server = Annotated[
    str, typer.Argument(metavar="NAME", help="The server's name or id.", autocompletion=completion.servers)
]
KINDS = ("members", "vms", "lendings", "server-pools", "replicas")  # whose records change what is shown

app = typer.Typer(subcommand_metavar="[COMMAND]")


def fresh(view: ServerView) -> ServerReport | None:
    """Return what a server says of itself, unless it is too old to be believed."""
    told = view.age_seconds is not None and view.age_seconds <= STALE_SECONDS
    return view.report if told else None


def server_table(found: Sequence[ServerView]) -> Table:
    """Return a table of servers, ordered by name."""
    made = output.table(
        "NAME",
        "STATE",
        "PLACE",
        "POOL",
        "CPUS",
        "LENT",
        "OFFERED",
        "MEMORY",
        "OFFERED",
        "VMS",
        "REPLICAS",
        "NOTHING NEW",
    )
    for each in sorted(found, key=lambda view: view.name):
        report = fresh(each)
        made.add_row(
            output.cell(each.name),
            state(each),
            output.cell(output.place(each.labels.get(REGION_LABEL, ""), each.labels.get(ZONE_LABEL, ""))),
            output.cell(each.pool),
            output.cell(f"{report.used_cpus:.1f}/{report.cpus:g}" if report else ""),
            output.cell(f"{report.lent_cpus:.1f}" if report else ""),
            output.cell(f"{each.offered_cpus:.1f}" if report else ""),
            output.cell(_memory(report) if report else ""),
            output.cell(format_bytes(each.offered_memory_bytes) if report else ""),
            output.cell(len(each.vms)),
            output.cell(each.replicas),
            output.cell(each.why_not),
        )
    return made


def _memory(report: ServerReport) -> str:
    return f"{format_bytes(report.used_memory_bytes)}/{format_bytes(report.memory_bytes)}"


def state(view: ServerView) -> Text:
    """Return how a server is, and what an operator wants of it."""
    found = output.cell(view.state.value)
    if view.scheduling is not Scheduling.ACTIVE:
        found = Text.assemble(found, ", ", output.cell(view.scheduling.value))
    return found


def percent(part: float, whole: float) -> str:
    """Return a share as people read it; nothing where there is no whole."""
    return f"{part / whole:.0%}" if whole > 0 else ""


@app.command(
    "list",
    epilog="""Examples:

  fallow server list
  fallow server list --watch
  fallow server list --json""",
)
def list_(ctx: typer.Context, watch: Watch = False, as_json: Json = False) -> None:
    """List the servers that lend what they do not use, and why one gets nothing new."""
    show_list(
        session_of(ctx),
        lambda client: client.servers.all(),
        server_table,
        as_json=as_json,
        watch=KINDS if watch else (),
    )


@app.command(
    epilog="""Examples:

  fallow server show srv1
  fallow server show srv1 --json"""
)
def show(ctx: typer.Context, name: Server, as_json: Json = False) -> None:
    """Show one server: what it runs, lends and expects, and why it lends so much and no more."""
    with session_of(ctx).client() as client:
        view = client.servers.one(name)
        if as_json:
            output.write_json(view)
            return
        told = client.explain(view.id)
    output.show(_described(view))
    output.write("")
    output.show(explained(told))


def _described(view: ServerView) -> Table:
    report, old = view.report, view.age_seconds
    return output.facts(
        (
            ("name", view.name),
            ("id", view.id),
            ("state", state(view)),
            ("nothing new", view.why_not),
            ("said", f"{format_duration(old)} ago" if old is not None and report is not None else "nothing yet"),
            ("address", view.address),
            ("labels", output.pairs(view.labels)),
            ("pool", view.pool),
            ("cpus", _line(report.cpus, report.used_cpus, f"{report.cpus:g}") if report else ""),
            (
                "memory",
                _line(report.memory_bytes, report.used_memory_bytes, format_bytes(report.memory_bytes))
                if report
                else "",
            ),
            ("not lent", _recent(report.recent_own) if report else ""),
            ("lent", _recent(report.recent_lent) if report else ""),
            ("threshold", f"{view.cpu_threshold:.0%} of the processors, {view.memory_threshold:.0%} of memory"),
            ("ceiling", f"{view.cpu_ceiling:.0%} of the processors, {view.memory_ceiling:.0%} of memory"),
            ("primaries", ", ".join(each.name for each in report.primaries) if report else ""),
            ("offers", f"{view.offered_cpus:.1f} processors, {format_bytes(view.offered_memory_bytes)}"),
            ("taken", f"{view.requested_cpus:g} processors, {format_bytes(view.requested_memory_bytes)}"),
            ("vms", ", ".join(view.vms)),
            ("replicas", view.replicas),
            ("evictions", _evictions(view)),
        )
    )


def _recent(shares: Sequence[int]) -> str:
    """Draw what used the processors in the last minutes, in eighths of all of them."""
    if not shares:
        return ""
    drawn = "".join(_BARS[min(len(_BARS) - 1, share * len(_BARS) // 100)] for share in shares)
    return f"{drawn} in {format_duration(len(shares) * RECENT_SECONDS)}, {shares[-1]}% of the processors at the end"


def _line(whole: float, used: float, text: str) -> str:
    return f"{text}, {percent(used, whole)} used"


def _evictions(view: ServerView) -> str:
    if not view.evictions:
        return ""
    last = f", last {output.age(view.evicted_at, time.time())} ago" if view.evicted_at else ""
    return f"{view.evictions}{last}" + (f": {view.evicted_why}" if view.evicted_why else "")


@app.command(
    epilog="""Examples:

  fallow server label srv1 rack=r7 hours=night
  fallow server label srv1 rack-"""
)
def label(
    ctx: typer.Context,
    name: Server,
    words: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="Labels to set, or KEY- to remove one.")
    ],
    as_json: Json = False,
) -> None:
    """Set or remove labels, by which server pools choose servers; it lends by its new pool at once."""
    change(session_of(ctx), name, MemberChange(labels=read_labels(words)), as_json)


@app.command(epilog="Example:\n\n  fallow server undrain srv1")
def undrain(ctx: typer.Context, name: Server, as_json: Json = False) -> None:
    """Let a server lend again; what has moved away stays where it is."""
    change(session_of(ctx), name, MemberChange(scheduling=Scheduling.ACTIVE), as_json)


def change(session: Session, name: str, wish: MemberChange, as_json: bool) -> None:
    """Change a server and say what it has become."""
    with session.client() as client:
        server = client.servers.one(name)  # a node of that name is not meant
        member = client.change_member(server.id, wish)
    if as_json:
        output.write_json(member)
    else:
        told = member.scheduling.value if wish.scheduling is not None else output.pairs(member.labels) or "no labels"
        output.write(f"{output.clean(member.name)}: {told}")
