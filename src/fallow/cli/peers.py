"""`fallow peer`: the processes of a control plane that share one store."""

from collections.abc import Sequence

import typer
from rich.table import Table

from fallow.cli import output
from fallow.cli.options import Json, Watch
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.peers import PeerView

app = typer.Typer(no_args_is_help=True, help="Look at the processes of the control plane.")


@app.command(
    "list",
    epilog="""Examples:

  fallow peer list
  fallow peer list --watch""",
)
def list_(ctx: typer.Context, watch: Watch = False, as_json: Json = False) -> None:
    """List the processes that share one store, and which of them leads."""
    show_list(
        session_of(ctx),
        lambda client: client.peers(),
        _table,
        as_json=as_json,
        watch=("peers", "leaders") if watch else (),
    )


def _table(found: Sequence[PeerView]) -> Table:
    return output.rows(
        output.table("ID", "HOST", "PLACE", "API", "SESSIONS", "LEADS", "VERSION", "AGE"),
        (
            (
                peer.id,
                peer.hostname,
                output.place(peer.region, peer.zone),
                peer.url,
                f"{peer.session_host}:{peer.session_port}",
                "yes" if peer.leads else "",
                peer.version,
                output.age(peer.started_at),
            )
            for peer in found
        ),
    )
