"""`fallow node pending`, `approve` and `reject`: machines that wait until somebody lets them in."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import output
from fallow.cli.failures import usage
from fallow.cli.options import Json, key_values
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.meta import is_name
from fallow.model.registrations import Approval, RegistrationView, Rejection
from fallow.model.units import format_bytes

SHORT_ID = 12

app = typer.Typer()

Waiting = Annotated[
    list[str], typer.Argument(metavar="ID|NAME...", help="Machines that wait; the beginning of an id is enough.")
]


@app.command(
    epilog="""Examples:

  fallow node pending
  fallow node pending --json"""
)
def pending(ctx: typer.Context, as_json: Json = False) -> None:
    """List the machines that wait until somebody lets them in."""
    show_list(session_of(ctx), lambda client: client.registrations(), _table, as_json=as_json)


def _table(found: Sequence[RegistrationView]) -> Table:
    now = time.time()
    return output.rows(
        output.table(
            "ID", "NAME", "ROLE", "FROM", "SAYS IT IS AT", "MACHINE", "FOR", "VARIABLES", "GETS", "TOKEN", "WAITING"
        ),
        (
            (
                each.id[:SHORT_ID],
                each.name,
                each.role.value,
                each.source_address,
                _place(each),
                _machine(each),
                each.function,
                " ".join(f"{variable.name}={variable.value}" for variable in each.variables),
                output.pairs(each.labels),
                f"{each.token_id} of {each.token_created_by}" if each.token_created_by else each.token_id,
                output.age(each.requested_at, now),
            )
            for each in found
        ),
    )


def _place(each: RegistrationView) -> str:
    host = f"[{each.temporary_address}]" if ":" in each.temporary_address else each.temporary_address
    return f"{host}:{each.temporary_port}" if host and each.temporary_port else host


def _machine(each: RegistrationView) -> str:
    facts = each.facts
    size = f"{facts.cpus:g} cpus, {format_bytes(facts.memory_bytes)}" if facts.cpus else ""
    disk = f"{format_bytes(facts.disk_bytes)} disk" if facts.disk_bytes else ""
    return ", ".join(filter(None, (facts.hostname, facts.os, facts.architecture, facts.engine, size, disk)))


@app.command(
    epilog="""Examples:

  fallow node approve 3f9c2ab41d77
  fallow node approve box-1 --name web-7 --label zone=west
  fallow node approve box-1 box-2 box-3"""
)
def approve(
    ctx: typer.Context,
    machines: Waiting,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call it; for one machine only.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label it gets; may be repeated.")
    ] = None,
) -> None:
    """Let machines in that wait."""
    if name and len(machines) > 1:
        raise usage("--name is for one machine", f"{len(machines)} cannot share it.")
    if name and not is_name(name):
        raise usage(f"{name!r} cannot be a name", "Use at most 40 of a-z, 0-9 and -, beginning with a letter.")
    approval = Approval(name=name, labels=dict(key_values(label or [], "label")))
    with session_of(ctx).client() as client:
        for machine in machines:
            output.write(f"{client.approve(machine, approval).name}: approved")


@app.command(
    epilog="""Examples:

  fallow node reject 3f9c2ab41d77 --reason "not ours"
  fallow node reject box-2 box-3"""
)
def reject(
    ctx: typer.Context,
    machines: Waiting,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; the machine is told.")] = "",
) -> None:
    """Turn machines away that wait; their tokens have their uses back."""
    with session_of(ctx).client() as client:
        for machine in machines:
            client.reject(machine, Rejection(reason=reason))
            output.write(f"{machine}: rejected")
