"""`fallow deployment history`, `restart`, `rollback`, `pause` and `resume`: one generation after another."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fallow.cli import output
from fallow.cli.deploying import wait_for
from fallow.cli.names import deployment_path, suggesting
from fallow.cli.options import Deployment, Json, Project, seconds
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.deployments import DeploymentView, GenerationView, RollbackRequest
from fallow.model.units import format_bytes

if TYPE_CHECKING:
    from fallow.client.api import Client
    from fallow.client.listings import Listing

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")]

_EXAMPLES = {
    "history": """Examples:

  fallow deployment history web
  fallow deployment history shop/web --json""",
    "restart": """Examples:

  fallow deployment restart web
  fallow deployment restart shop/web --wait""",
    "rollback": """Examples:

  fallow deployment rollback web
  fallow deployment rollback shop/web --to 3 --wait""",
    "pause": """Examples:

  fallow deployment pause web""",
    "resume": """Examples:

  fallow deployment resume web
  fallow deployment resume shop/web --wait""",
}


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the group `fallow deployment`."""
    for command in (history, restart, rollback, pause, resume):
        app.command(epilog=_EXAMPLES[command.__name__])(command)


def update_line(view: DeploymentView) -> str:
    """Return how far a deployment's newest update has come; empty when there has been none."""
    status = view.update
    if status is None:
        return ""
    why = "; ".join(text for text in (status.paused_because, status.reason) if text)
    way = f"from generation {status.from_generation} " if status.from_generation and not status.rollback else ""
    way = f"to generation {status.from_generation} " if status.rollback else way
    took = f"since {output.clock(status.started_at)}" if status.under_way else f"at {output.clock(status.changed_at)}"
    count = f", {view.updated} of {view.spec.replicas} renewed and healthy" if status.under_way else ""
    return f"{status.state} {way}{took}{count}" + (f": {why}" if why else "")


def ahead_line(view: DeploymentView) -> str:
    """Return what was pulled before the newest generation's replicas were made; empty when nothing was."""
    found = view.pulled_ahead
    if found is None or not (found.nodes or found.pending or found.failed):
        return ""
    parts = [f"{found.nodes} {'node' if found.nodes == 1 else 'nodes'} in {found.seconds:.1f} s"]
    parts += [format_bytes(found.fetched_bytes)] if found.fetched_bytes else []
    parts += [f"{count} {word}" for count, word in ((found.pending, "not yet"), (found.failed, "failed")) if count]
    told = ", ".join(parts)
    if found.longest_seconds:
        told += f"; replicas began up to {found.longest_seconds:.1f} s sooner"
    return told + (f", the update ended about {found.saved_seconds:.1f} s sooner" if found.saved_seconds >= 0.1 else "")


def history(ctx: typer.Context, name: Deployment, project: Project = "", as_json: Json = False) -> None:
    """List the generations of a deployment that one can go back to, newest first."""
    session = session_of(ctx)
    path = deployment_path(session, name, project)

    def fetch(client: "Client") -> "Listing[GenerationView]":
        with suggesting(client, path):
            return client.history(*path)

    show_list(session, fetch, _table, as_json=as_json)


def _table(found: Sequence[GenerationView]) -> Table:
    return output.rows(
        output.table("GENERATION", "MADE", "BY", "CAUSE", "IMAGE", "REPLICAS", "CHANGED", ""),
        (
            (
                each.generation,
                output.clock(each.created_at),
                each.actor,
                f"{each.cause} to {each.alike[0]}" if each.alike else each.cause,
                each.image,
                each.replicas or "",
                " ".join(each.changed),
                ", ".join(word for word, holds in (("current", each.current), ("good", each.good)) if holds),
            )
            for each in found
        ),
    )


def restart(
    ctx: typer.Context,
    name: Deployment,
    wait: Wait = False,
    timeout: Timeout = "5m",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Renew every replica by one of the same, in portions, without an interruption."""
    patience = seconds(timeout) if wait else None
    _change(
        ctx, (name, project), lambda client, path: client.restart_deployment(*path), "renewing",
        patience=patience, as_json=as_json,
    )  # fmt: skip


def rollback(
    ctx: typer.Context,
    name: Deployment,
    to: Annotated[
        int | None, typer.Option("--to", min=1, metavar="GENERATION", help="Which; else the last that was good.")
    ] = None,
    wait: Wait = False,
    timeout: Timeout = "5m",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Go back to an earlier generation: what it was made of is wanted again, as a new generation."""

    def ask(client: "Client", path: tuple[str, str]) -> DeploymentView:
        return client.roll_back_deployment(*path, RollbackRequest(to=to))

    _change(ctx, (name, project), ask, "going back", patience=seconds(timeout) if wait else None, as_json=as_json)


def pause(ctx: typer.Context, name: Deployment, project: Project = "", as_json: Json = False) -> None:
    """Stop the update under way from taking further steps; scaling and moving go on."""
    _change(ctx, (name, project), lambda client, path: client.pause_deployment(*path), "paused", as_json=as_json)


def resume(
    ctx: typer.Context,
    name: Deployment,
    wait: Wait = False,
    timeout: Timeout = "5m",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Let a paused update go on; what has failed until now no longer counts against it."""
    patience = seconds(timeout) if wait else None
    _change(
        ctx, (name, project), lambda client, path: client.resume_deployment(*path), "going on",
        patience=patience, as_json=as_json,
    )  # fmt: skip


def _change(
    ctx: typer.Context,
    called: tuple[str, str],
    ask: Callable[["Client", tuple[str, str]], DeploymentView],
    told: str,
    *,
    patience: float | None = None,
    as_json: bool,
) -> None:
    """Ask for a change of the deployment called (name, project), tell what came of it, and wait if that is wanted."""
    session = session_of(ctx)
    path = deployment_path(session, *called)
    with session.client() as client:
        with suggesting(client, path):
            view = ask(client, path)
        if as_json:
            output.write_json(view)
        else:
            output.write(f"{'/'.join(path)}: {told}, generation {view.generation}")
        if patience is not None:
            wait_for(client, path[0], {path[1]: view.generation}, [], patience)
