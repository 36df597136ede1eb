"""`fallow cluster`: the clusters that a host divides deployments over."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.options import Json, Watch, seconds
from fallow.cli.relabelling import read_labels
from fallow.cli.session import Session, session_of
from fallow.cli.watching import show_list
from fallow.model.clusters import ClusterView
from fallow.model.members import MemberChange, MemberState, MemberView, Scheduling, Thresholds
from fallow.model.taints import Taint, taint_text
from fallow.model.units import format_bytes

Cluster = Annotated[
    str, typer.Argument(metavar="NAME", help="The cluster's name or id.", autocompletion=completion.clusters)
]

app = typer.Typer(no_args_is_help=True, help="Look after the clusters that deployments are divided over.")


_HAS = ("FREE CPUS", "FREE MEMORY")


def cluster_table(found: Sequence[ClusterView]) -> Table:
    """Return a table of clusters, ordered by name."""
    made = output.table("NAME", "STATE", "READY", "WANTED", "MOVING", "NODES", *_HAS, "VERSION", "LABELS", "SEEN")
    for each in sorted(found, key=lambda view: view.member.name):
        made.add_row(
            output.cell(each.member.name),
            _state(each),
            output.cell(each.ready),
            output.cell(each.wanted),
            output.cell(_moving(each)),
            output.cell(each.nodes or ""),
            *map(output.cell, _free(each)),
            output.cell(each.member.agent_version),
            output.cell(output.pairs(each.member.labels)),
            output.cell("here" if each.here else output.age(each.member.last_seen_at)),
        )
    return made


def _free(view: ClusterView) -> tuple[str, str]:
    """Return how much of its processors and of its memory is free; empty while it has not said so."""
    if not view.nodes:
        return "", ""
    memory = f"{format_bytes(view.free_memory_bytes)} of {format_bytes(view.memory_bytes)}"
    return f"{view.free_cpus:.4g} of {view.cpus:g}", memory


def _thresholds(view: ClusterView) -> str:
    if view.thresholds is None:
        return ""
    return f"{view.thresholds}{'' if view.member.thresholds is not None else ', as all clusters'}"


def _moving(view: ClusterView) -> str:
    told = ((view.moving_in, "in"), (view.left if _leaves(view) else view.moving_out, "out"))
    return ", ".join(f"{count} {way}" for count, way in told if count)


def _leaves(view: ClusterView) -> bool:
    return view.member.scheduling is Scheduling.DRAINING


def _state(view: ClusterView) -> Text:
    member = view.member
    state = output.cell(member.state.value)
    if member.scheduling is not Scheduling.ACTIVE:
        empty = _leaves(view) and not view.left and member.state is MemberState.READY
        state = Text.assemble(state, ", ", output.cell("drained" if empty else member.scheduling.value))
    said = (("full", view.full_for), ("tainted", member.taints), ("not reached", view.unreached))
    words = [word for word, holds in said if holds]
    return Text.assemble(state, *(f", {word}" for word in words))


@app.command(
    "list",
    epilog="""Examples:

  fallow cluster list
  fallow cluster list --watch
  fallow cluster list --json""",
)
def list_(ctx: typer.Context, watch: Watch = False, as_json: Json = False) -> None:
    """List clusters and what they run; none where this control plane has no member clusters."""
    show_list(
        session_of(ctx),
        lambda client: client.clusters.all(),
        cluster_table,
        as_json=as_json,
        watch=("members", "shares", "divisions", "rooms") if watch else (),
    )


@app.command(
    epilog="""Examples:

  fallow cluster show west
  fallow cluster show west --json"""
)
def show(ctx: typer.Context, name: Cluster, as_json: Json = False) -> None:
    """Show one cluster, what it runs, and what cannot leave it while it is drained."""
    with session_of(ctx).client() as client:
        view = client.clusters.one(name)
    if as_json:
        output.write_json(view)
    else:
        output.show(_described(view))


def _described(view: ClusterView) -> Table:
    member = view.member
    heard = "it is this cluster itself" if view.here else f"seen {output.age(member.last_seen_at)} ago"
    return output.facts(
        (
            ("name", member.name),
            ("id", member.id),
            ("state", _state(view)),
            ("why", member.state_reason),
            ("connected", f"{'yes' if member.connected else 'no'}, {heard}"),
            ("silence", _thresholds(view)),
            ("labels", output.pairs(member.labels)),
            ("taints", ", ".join(map(taint_text, member.taints))),
            ("version", member.agent_version),
            ("replicas", f"{view.wanted} wanted, {view.running} running, {view.ready} ready"),
            ("moving", _moving(view)),
            ("nodes", view.nodes or ""),
            *zip(("free cpus", "free memory"), _free(view), strict=True),
            ("full for", ", ".join(view.full_for)),
            ("not reached", view.unreached),
            *(("cannot leave", text) for text in view.stuck),
            ("joined", output.clock(member.created_at)),
        )
    )


@app.command(
    epilog="""Examples:

  fallow cluster label west region=west tier=gold
  fallow cluster label west tier-"""
)
def label(
    ctx: typer.Context,
    name: Cluster,
    words: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="Labels to set, or KEY- to remove one.")
    ],
    as_json: Json = False,
) -> None:
    """Set or remove labels, by which deployments choose clusters; replicas move if they have to."""
    _change(session_of(ctx), name, MemberChange(labels=read_labels(words)), as_json)


@app.command(
    epilog="""Examples:

  fallow cluster taint west old-kernel
  fallow cluster taint west gpu=only:move
  fallow cluster taint west old-kernel-"""
)
def taint(
    ctx: typer.Context,
    name: Cluster,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY[=VALUE][:EFFECT]|KEY-...",
            help="Taints to set, with the effect no-new (unless said otherwise) or move; or KEY- to remove one.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Keep deployments off a cluster that do not tolerate it: new replicas (no-new), or those that are there too."""
    with session_of(ctx).client() as client:
        member = client.clusters.one(name).member
        taints = {found.key: found for found in member.taints}
        for word in words:
            if word.endswith("-") and "=" not in word:
                taints.pop(word[:-1], None)
            else:
                found = _taint(word)
                taints[found.key] = found
        member = client.change_member(name, MemberChange(taints=tuple(taints.values())), member.revision)
    _tell(member, ", ".join(map(taint_text, member.taints)) or "no taints", as_json)


def _taint(word: str) -> Taint:
    text, _, effect = word.partition(":")
    key, _, value = text.partition("=")
    if not key or effect not in ("", "no-new", "move"):
        raise usage(f"{word!r} is not a taint", "Write KEY, KEY=VALUE, or either with :no-new or :move.")
    return Taint(key=key, value=value, effect="move" if effect == "move" else "no-new")


@app.command(
    "set",
    epilog="""Examples:

  fallow cluster set west --suspect-after 8s --dead-after 30s
  fallow cluster set west --dead-after 1m
  fallow cluster set west --default""",
)
def set_(
    ctx: typer.Context,
    name: Cluster,
    suspect: Annotated[
        str | None, typer.Option("--suspect-after", metavar="DURATION", help="Silence after which it gets nothing new.")
    ] = None,
    dead: Annotated[
        str | None,
        typer.Option("--dead-after", metavar="DURATION", help="Silence after which what it ran is replaced."),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Back to what `fallow server` says for all clusters.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how long one cluster may be silent; what is left out stays as it is."""
    given = [seconds(text) if text is not None else None for text in (suspect, dead)]
    if default == (given != [None, None]):
        raise usage("Say --suspect-after, --dead-after or both; or else --default alone")
    with session_of(ctx).client() as client:
        view = client.clusters.one(name)
        wanted = None if default else _with(view, *given)
        member = client.change_member(view.member.name, MemberChange(thresholds=wanted), view.member.revision)
    _tell(member, str(member.thresholds or "as all clusters"), as_json)


def _with(view: ClusterView, suspect: float | None, dead: float | None) -> Thresholds:
    """Return a cluster's thresholds with one or both of them changed. Raises Failure."""
    before = view.thresholds
    if before is None:
        raise usage(f"{view.member.name} is this cluster itself, which is always heard")
    return Thresholds(
        suspect_after_seconds=before.suspect_after_seconds if suspect is None else suspect,
        dead_after_seconds=before.dead_after_seconds if dead is None else dead,
    )


@app.command(epilog="Example:\n\n  fallow cluster cordon west")
def cordon(ctx: typer.Context, name: Cluster, as_json: Json = False) -> None:
    """Give a cluster nothing new; what it runs stays."""
    _change(session_of(ctx), name, MemberChange(scheduling=Scheduling.CORDONED), as_json)


@app.command(epilog="Example:\n\n  fallow cluster uncordon west")
def uncordon(ctx: typer.Context, name: Cluster, as_json: Json = False) -> None:
    """Let a cordoned or draining cluster take replicas again; what has moved away stays there."""
    _change(session_of(ctx), name, MemberChange(scheduling=Scheduling.ACTIVE), as_json)


def _change(session: Session, name: str, change: MemberChange, as_json: bool) -> None:
    with session.client() as client:
        client.clusters.one(name)  # a node of that name is not meant
        member = client.change_member(name, change)
    told = member.scheduling.value if change.scheduling is not None else output.pairs(member.labels) or "no labels"
    _tell(member, told, as_json)


def _tell(member: MemberView, told: str, as_json: bool) -> None:
    if as_json:
        output.write_json(member)
    else:
        output.write(f"{output.clean(member.name)}: {output.clean(told)}")
