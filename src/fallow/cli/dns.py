"""`fallow dns`: the names of members and services, and where they are served."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import output
from fallow.cli.failures import Exit
from fallow.cli.options import InProject, Json, Watch
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.names import DnsRecord, DnsServer, DnsStatus
from fallow.model.units import format_duration

app = typer.Typer(no_args_is_help=True, help="Look at DNS names, and ask what is answered to a question.")


@app.command("status", epilog="Examples:\n\n  fallow dns status\n\n  fallow dns status --json")
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show which names there are, where they are served, and how to ask."""
    with session_of(ctx).client() as client:
        found = client.dns()
    if as_json:
        output.write_json(found)
        return
    output.show(
        output.facts(
            (
                ("domain", found.domain),
                ("names", f"{found.hosts} of members, {found.services} of services with {found.endpoints} endpoints"),
                ("newest", f"revision {found.revision}, {format_duration(found.age_seconds)} ago"),
                ("ask", found.ask or "names are served nowhere; --dns-listen of server and gateway says where"),
            )
        )
    )
    if found.servers:
        output.write("")
        output.show(_servers(found))


@app.command(
    "list",
    epilog="""Examples:

  fallow dns list
  fallow dns list --project shop --watch""",
)
def list_(ctx: typer.Context, project: InProject = "", watch: Watch = False, as_json: Json = False) -> None:
    """List every record that is served."""
    show_list(
        session_of(ctx),
        lambda client: client.dns_records(project),
        _records,
        as_json=as_json,
        watch=("deployments", "replicas", "members") if watch else (),
    )


@app.command(
    "query",
    epilog="""Examples:

  fallow dns query web.shop.svc.fallow.internal
  fallow dns query _80._tcp.web.shop.svc.fallow.internal SRV
  fallow dns query 10.86.0.7""",
)
def query(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A whole name; or an address, for its names.")],
    kind: Annotated[
        str, typer.Argument(metavar="TYPE", help="A, AAAA, SRV, PTR, ...", show_default="A, of an address PTR")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show what the name server answers; the exit code is 1 when that is no record."""
    with session_of(ctx).client() as client:
        found = client.dns_query(name, kind)
    if as_json:
        output.write_json(found)
    else:
        if found.meaning:
            output.write(f"{found.rcode}: {found.meaning}")
        if found.answers:
            output.show(_records([*found.answers, *found.additional]))
    if not found.answers:
        raise typer.Exit(Exit.FAILED)


def _records(found: Sequence[DnsRecord]) -> Table:
    return output.rows(
        output.table("NAME", "TTL", "TYPE", "VALUE"),
        ((record.name, f"{record.ttl}s", record.type, record.value) for record in found),
    )


def _servers(found: DnsStatus) -> Table:
    return output.rows(
        output.table("SERVED BY", "AT", "QUERIES", "A SECOND", "NAMES", "MESSAGE"),
        (
            (
                server.name,
                " ".join(server.report.listens),
                server.report.queries,
                f"{server.report.queries_per_second:.1f}",
                _newness(server),
                server.report.message,
            )
            for server in found.servers
        ),
    )


def _newness(server: DnsServer) -> str:
    if server.current:
        return "newest"
    return f"of revision {server.report.revision}" if server.report.revision else "none yet"
