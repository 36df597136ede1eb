"""`fallow server-pool`: servers that lend by one policy."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, lending, output
from fallow.cli.failures import usage
from fallow.cli.lending import ALWAYS, Pool, policy_facts
from fallow.cli.options import Json, Watch
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.meta import is_name
from fallow.model.server_pools import ServerPoolChange, ServerPoolRequest, ServerPoolView
from fallow.model.units import format_bytes

On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="SELECTOR",
        help="Which servers, by the labels they were given: 'rack=r7' or 'hours in (night,weekend)'.",
        autocompletion=completion.selectors,
    ),
]

app = typer.Typer(no_args_is_help=True, help="Say how servers lend what they do not use: how much, and when.")
app.add_typer(lending.app, name="policy")


@app.command(
    epilog="""Examples:

  fallow server-pool create night --on hours=night
  fallow server-pool create lab --on 'site=lab,!critical'"""
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for it.")],
    on: On,
    as_json: Json = False,
) -> None:
    """Create a pool of the servers that a selector picks, now and later.

    A server that several pools pick belongs to the first by name; one that none picks to the pool default.
    """
    if not is_name(name):
        raise usage(
            f"{name!r} is not a name", "Take lower case letters, digits and dashes, at most 40, a letter first."
        )
    with session_of(ctx).client() as client:
        _tell(client.server_pools.create(ServerPoolRequest(name=name, selector=on)), as_json)


@app.command(
    "list",
    epilog="""Examples:

  fallow server-pool list
  fallow server-pool list --json""",
)
def list_(ctx: typer.Context, watch: Watch = False, as_json: Json = False) -> None:
    """List server pools, what their servers have, and what they offer now."""
    show_list(
        session_of(ctx),
        lambda client: client.server_pools.all(),
        _table,
        as_json=as_json,
        watch=("server-pools", "members", "lendings") if watch else (),
    )


def _table(found: Sequence[ServerPoolView]) -> Table:
    return output.rows(
        output.table("NAME", "SELECTOR", "SERVERS", "CPUS", "OFFERED", "MEMORY", "OFFERED", "LENDS", "THRESHOLD"),
        (
            (
                each.name,
                each.selector or "all others",
                len(each.servers),
                f"{each.cpus:g}",
                f"{each.offered_cpus:.1f}",
                format_bytes(each.memory_bytes),
                format_bytes(each.offered_memory_bytes),
                " and ".join(each.policy.hours) or ALWAYS if each.policy.lends else "no",
                f"{each.policy.cpu_threshold:.0%}, {each.policy.memory_threshold:.0%}",
            )
            for each in found
        ),
    )


@app.command(
    epilog="""Examples:

  fallow server-pool show default
  fallow server-pool show night --json"""
)
def show(ctx: typer.Context, name: Pool, as_json: Json = False) -> None:
    """Show one server pool, its servers and how they lend."""
    with session_of(ctx).client() as client:
        pool = client.server_pools.one(name)
    if as_json:
        output.write_json(pool)
        return
    output.show(
        output.facts(
            (
                ("name", pool.name),
                ("selector", pool.selector or "all that no other pool picks"),
                ("servers", f"{len(pool.servers)}: {', '.join(pool.servers)}" if pool.servers else "none"),
                ("cpus", f"{pool.cpus:g}, {pool.offered_cpus:.1f} offered"),
                ("memory", f"{format_bytes(pool.memory_bytes)}, {format_bytes(pool.offered_memory_bytes)} offered"),
                ("created", f"{output.clock(pool.created_at)} by {pool.created_by}" if pool.created_at else ""),
            )
        )
    )
    output.write("")
    output.show(policy_facts(pool.policy))


@app.command(epilog="Example:\n\n  fallow server-pool update night --on 'hours in (night,weekend)'")
def update(ctx: typer.Context, name: Pool, on: On, as_json: Json = False) -> None:
    """Change which servers a pool picks; they lend by their new pool at once."""
    with session_of(ctx).client() as client:
        _tell(client.server_pools.change(name, ServerPoolChange(selector=on)), as_json)


@app.command(epilog="Example:\n\n  fallow server-pool delete night")
def delete(ctx: typer.Context, name: Pool) -> None:
    """Delete a server pool that no server belongs to."""
    with session_of(ctx).client() as client:
        client.server_pools.delete(name)
    output.write(f"{name}: deleted")


def _tell(pool: ServerPoolView, as_json: bool) -> None:
    if as_json:
        output.write_json(pool)
    else:
        output.write(f"{pool.name}: {output.clean(pool.selector)} ({output.count(len(pool.servers), 'server')} now)")
