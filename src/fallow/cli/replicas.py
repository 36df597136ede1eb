"""`fallow replica` and `fallow logs`: single containers and what they print."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.elsewhere import division_of, note_elsewhere, placed_elsewhere, running_elsewhere
from fallow.cli.names import deployment_path, suggesting
from fallow.cli.options import InProject, Json, Project, Watch
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.client.errors import ApiError
from fallow.model.deployments import ReplicaState, ReplicaView

if TYPE_CHECKING:
    from fallow.client.api import Client
    from fallow.client.listings import Listing

ENDED = frozenset({ReplicaState.STOPPED, ReplicaState.FAILED, ReplicaState.LOST})

app = typer.Typer(no_args_is_help=True, help="Look at single containers.")


def replica_table(found: Sequence[ReplicaView]) -> Table:
    """Return a table of replicas, ordered by deployment and slot."""
    ordered = sorted(found, key=lambda each: (each.project, each.deployment, each.slot, each.created_at))
    return output.rows(
        output.table("ID", "DEPLOYMENT", "STATE", "HEALTH", "NODE", "ADDRESS", "RESTARTS", "AGE", "WHY"),
        (
            (
                each.id,
                f"{each.project}/{each.deployment}",
                each.state.value,
                each.health,
                each.node,
                _addresses(each),
                each.restarts,
                output.age(each.created_at),
                each.reason or each.message,
            )
            for each in ordered
        ),
    )


def _addresses(replica: ReplicaView) -> str:
    ports = (f"{replica.address}:{port}" for port in replica.host_ports.values())
    return " ".join(ports) or replica.address


@app.command(
    "list",
    epilog="""Examples:

  fallow replica list
  fallow replica list --deployment shop/web --watch
  fallow replica list --node node-7 --all --json""",
)
def list_(
    ctx: typer.Context,
    deployment: Annotated[
        str,
        typer.Option("--deployment", metavar="NAME", help="Only this one's.", autocompletion=completion.deployments),
    ] = "",
    node: Annotated[
        str, typer.Option("--node", metavar="NAME", help="Only on this node.", autocompletion=completion.members)
    ] = "",
    project: InProject = "",
    everything: Annotated[bool, typer.Option("--all", help="Show those that have ended, too.")] = False,
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """List replicas."""
    session = session_of(ctx)
    name = ""
    if deployment:
        project, name = deployment_path(session, deployment, project)

    def fetch(client: "Client") -> "Listing[ReplicaView]":
        found = client.replicas(project, name, node)
        if everything:
            return found
        return msgspec.structs.replace(found, items=tuple(each for each in found.items if each.state not in ENDED))

    def note(client: "Client") -> None:
        if node:
            return
        if not name:
            note_elsewhere(running_elsewhere(client), "replica list")
        elif (division := division_of(client, (project, name))) is not None:
            note_elsewhere(placed_elsewhere(division), f"replica list --deployment {project}/{name}")

    show_list(session, fetch, replica_table, as_json=as_json, watch=("replicas",) if watch else (), note=note)


def logs(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A deployment or a replica's id.", autocompletion=completion.log_sources),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and print lines as they come.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, max=10_000, help="How many lines that are there.")] = 100,
    project: Project = "",
) -> None:
    """Print what containers print: one replica's, or all of a deployment's, in all clusters."""
    session = session_of(ctx)
    with session.client() as client:
        for line in _lines(client, name, deployment_path(session, name, project), follow, tail):
            output.write(line)


def _lines(client: "Client", name: str, path: tuple[str, str], follow: bool, tail: int) -> Iterator[str]:
    with suggesting(client, path):
        try:
            yield from client.deployment_logs(*path, follow=follow, tail=tail)
        except ApiError as error:
            if error.problem.status != 404 or "/" in name:
                raise
        else:
            return
        yield from client.logs(name, follow=follow, tail=tail)
