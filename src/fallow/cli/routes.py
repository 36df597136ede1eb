"""`fallow route`: the addresses under which deployments are reached."""

from collections.abc import Sequence

import typer
from rich.table import Table

from fallow.cli import output
from fallow.cli.options import InProject, Json, Watch
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.routes import RouteView

app = typer.Typer(no_args_is_help=True, help="Look at the addresses under which deployments are reached.")


@app.command(
    "list",
    epilog="""Examples:

  fallow route list
  fallow route list --project shop --watch""",
)
def list_(ctx: typer.Context, project: InProject = "", watch: Watch = False, as_json: Json = False) -> None:
    """List routes and how many endpoints serve them."""

    def table(found: Sequence[RouteView]) -> Table:
        return _table([each for each in found if not project or each.project == project])

    show_list(
        session_of(ctx),
        lambda client: client.routes(),
        table,
        as_json=as_json,
        watch=("deployments", "replicas", "members") if watch else (),
    )


def _table(found: Sequence[RouteView]) -> Table:
    return output.rows(
        output.table("ADDRESS", "DEPLOYMENT", "PORT", "ENDPOINTS", "REQUESTS", "ERRORS", "GATEWAYS", "CONFLICT"),
        (
            (
                each.address,
                f"{each.project}/{each.deployment}",
                each.port,
                each.endpoints,
                each.requests,
                each.errors_5xx,
                " ".join((*each.gateways, *each.clusters)),
                each.conflict,
            )
            for each in sorted(found, key=lambda route: (route.kind, route.address))
        ),
    )
