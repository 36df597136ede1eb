"""`fallow plan`: what would move between clusters, if; nothing is done."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated

import typer
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.options import Json, key_values
from fallow.cli.session import session_of
from fallow.model.quantities import parse_quantity
from fallow.model.shares import PlanRequest, PlanResult, ShareChange

_NODES = re.compile(r"([1-9][0-9]{0,4})x([0-9]{1,5}(?:\.[0-9]{1,3})?)cpus?(?:,([0-9][0-9A-Za-z.]{0,20}))?")
_NOWHERE = "nowhere"

app = typer.Typer(no_args_is_help=True, help="Foretell what would move between clusters. Nothing is done.")

Cluster = Annotated[
    str, typer.Argument(metavar="NAME", help="The cluster's name or id.", autocompletion=completion.clusters)
]


@app.command(
    "cluster-loss",
    epilog="""Examples:

  fallow plan cluster-loss west
  fallow plan cluster-loss west --json | jq .unplaced""",
)
def cluster_loss(ctx: typer.Context, name: Cluster, as_json: Json = False) -> None:
    """Say what would start where if a cluster died now, and what would have no place."""
    _tell(ctx, PlanRequest(what="cluster-loss", cluster=name), as_json=as_json)


@app.command(
    "drain",
    epilog="""Examples:

  fallow plan drain old
  fallow plan drain old --json""",
)
def drain(ctx: typer.Context, name: Cluster, as_json: Json = False) -> None:
    """Say what would move where if a cluster were drained now, and what could not leave it."""
    _tell(ctx, PlanRequest(what="drain", cluster=name), as_json=as_json)


@app.command(
    "add",
    epilog="""Examples:

  fallow plan add --nodes 40x8cpu
  fallow plan add --nodes 40x8cpu,32GiB --label region=west --name west-2
  fallow plan add --nodes 3x16cpu,64GiB --json""",
)
def add(
    ctx: typer.Context,
    nodes: Annotated[
        str,
        typer.Option("--nodes", metavar="COUNTxCPUScpu[,MEMORY]", help="Its nodes; without a size memory is no limit."),
    ],
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label of it; may be repeated.")
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Its name, where policies go by names.")] = "",
    as_json: Json = False,
) -> None:
    """Say what would move to a cluster that joined now.

    That is what has no place today, and what policies with `rebalance` would have there in the end.
    """
    found = _NODES.fullmatch(nodes.replace(" ", ""))
    if found is None:
        raise usage(f"{nodes!r} does not describe nodes", "Write how many and how large, such as 40x8cpu,32GiB.")
    request = PlanRequest(
        what="add",
        cluster=name,
        nodes=int(found[1]),
        cpus=float(found[2]),
        memory_bytes=_memory(found[3]) if found[3] else 0,
        labels=dict(key_values(label or [], "label")),
    )
    _tell(ctx, request, as_json=as_json)


def _memory(text: str) -> int:
    quantity = parse_quantity(text)
    if quantity is None or quantity.kind != "bytes":
        raise usage(f"{text!r} is no amount of memory", "Write it as 32GiB or 64GB.")
    return int(quantity.amount)


def _tell(ctx: typer.Context, request: PlanRequest, *, as_json: bool) -> None:
    with session_of(ctx).client() as client:
        found = client.clusters.plan(request)
    if as_json:
        output.write_json(found)
        return
    if found.changes:
        table = output.table("DEPLOYMENT", "FROM", "TO", "COUNT", "WHY")
        output.show(output.rows(table, _moves(found.changes)))
    output.write(_total(found))
    if found.unplaced:
        _tell_unplaced(found)


def _moves(changes: Sequence[ShareChange]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each move; who gives and who takes are matched in the order of their names."""
    for deployment, group in groupby(changes, key=lambda change: change.deployment):
        parts = list(group)
        givers = [(each.cluster, each.before - each.after, each.why) for each in parts if each.before > each.after]
        takers = [(each.cluster, each.after - each.before, each.why) for each in parts if each.after > each.before]
        for source, target, count, whys in _matched(givers, takers):
            why = "; ".join(dict.fromkeys(filter(None, whys)))
            yield deployment, source or "-", target or _NOWHERE, count, why


def _matched(
    givers: list[tuple[str, int, str]], takers: list[tuple[str, int, str]]
) -> Iterator[tuple[str, str, int, tuple[str, str]]]:
    """Yield (from, to, how many, why they leave and why they come); an empty name is nobody."""
    while givers or takers:
        source, gives, why_gone = givers.pop(0) if givers else ("", takers[0][1], "")
        target, takes, why_there = takers.pop(0) if takers else ("", gives, "")
        count = min(gives, takes)
        yield source, target, count, (why_gone, why_there)
        if gives > count:
            givers.insert(0, (source, gives - count, why_gone))
        if takes > count:
            takers.insert(0, (target, takes - count, why_there))


def _total(found: PlanResult) -> str:
    if not found.changes:
        return "nothing would move"
    clusters = {change.cluster for change in found.changes if change.after > change.before}
    deployments = {change.deployment for change in found.changes}
    return (
        f"{found.moved} replicas of {len(deployments)} deployments would come to {len(clusters)} clusters; "
        "nothing has been done"
    )


def _tell_unplaced(found: PlanResult) -> None:
    """Say loudly what would have no place."""
    total = sum(found.unplaced.values())
    line = Text(f"{total} replicas of {len(found.unplaced)} deployments would have NO PLACE:", style="bold red")
    output.show(line)
    table = output.table("DEPLOYMENT", "UNPLACED")
    output.show(output.rows(table, found.unplaced.items()))
    for reason in found.reasons:
        output.write(output.clean(reason))
