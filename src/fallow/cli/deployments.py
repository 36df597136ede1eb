"""`fallow deployment`: sets of identical replicas."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.deploying import wait_for
from fallow.cli.elsewhere import division_of, note_elsewhere, placed_elsewhere
from fallow.cli.failures import usage
from fallow.cli.names import deployment_path, suggesting
from fallow.cli.options import Deployment, InProject, Json, Project, Watch, seconds
from fallow.cli.replicas import ENDED, replica_table
from fallow.cli.session import session_of
from fallow.cli.shares import history_table, share_table
from fallow.cli.updates import add_commands, ahead_line, update_line
from fallow.cli.watching import show_list
from fallow.model.deployments import DeploymentChange, DeploymentView, RouteSpec

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")]

app = typer.Typer(no_args_is_help=True, help="Look after sets of identical replicas.")


@app.command(
    "list",
    epilog="""Examples:

  fallow deployment list
  fallow deployment list --project shop --watch
  fallow deployment list --json""",
)
def list_(ctx: typer.Context, project: InProject = "", watch: Watch = False, as_json: Json = False) -> None:
    """List deployments, of all projects unless one is named."""
    show_list(
        session_of(ctx),
        lambda client: client.deployments(project),
        _table,
        as_json=as_json,
        watch=("deployments", "replicas") if watch else (),
    )


def _table(found: Sequence[DeploymentView]) -> Table:
    hosted = any(each.host for each in found)  # who has no host need not read of one
    return output.rows(
        output.table("NAME", "STATE", "HEALTHY", "IMAGE", "ROUTES", "AGE", *(["OF HOST"] if hosted else []), "WHY"),
        (
            (
                f"{each.project}/{each.name}",
                each.state,
                f"{each.counts.healthy}/{each.share if each.host else each.spec.replicas}",
                each.spec.container.image,
                " ".join(_route(route) for route in each.spec.routes),
                output.age(each.created_at),
                *([each.host] if hosted else []),
                each.reason,
            )
            for each in sorted(found, key=lambda view: (view.project, view.name))
        ),
    )


def _route(route: RouteSpec) -> str:
    return f"tcp:{route.listen}" if route.kind == "tcp" else f"{route.host}{route.path if route.path != '/' else ''}"


@app.command(
    epilog="""Examples:

  fallow deployment show web
  fallow deployment show shop/web --json"""
)
def show(ctx: typer.Context, name: Deployment, project: Project = "", as_json: Json = False) -> None:
    """Show one deployment and its replicas."""
    session = session_of(ctx)
    path = deployment_path(session, name, project)
    with session.client() as client:
        with suggesting(client, path):
            view = client.deployment(*path)
        if as_json:
            output.write_json(view)
            return
        output.show(_described(view))
        division = division_of(client, path)
        if division is not None and division.shares:
            output.write("")
            output.show(share_table(division))
        living = [each for each in client.replicas(*path).items if each.state not in ENDED]
        if living:
            output.write("")
            output.show(replica_table(living))
        if division is not None:
            note_elsewhere(placed_elsewhere(division), f"replica list --deployment {view.project}/{view.name}")


def _described(view: DeploymentView) -> Table:
    counts, spec = view.counts, view.spec
    told = ("healthy", "running", "placed", "pending", "leaving", "failed")
    return output.facts(
        (
            ("name", f"{view.project}/{view.name}"),
            ("id", view.id),
            ("state", view.state),
            ("why", view.reason),
            ("of host", view.host),
            ("share", f"{view.share} of {spec.replicas}" if view.share is not None else ""),
            ("replicas", f"{spec.replicas} wanted; " + ", ".join(f"{getattr(counts, name)} {name}" for name in told)),
            ("image", spec.container.image),
            ("routes", " ".join(_route(route) for route in spec.routes)),
            ("strategy", " by ".join((spec.placement.strategy, *spec.placement.spread_by))),
            ("generation", view.generation),
            ("update", update_line(view)),
            ("pulled ahead", ahead_line(view)),
            ("created", output.clock(view.created_at)),
            ("changed", output.clock(view.updated_at)),
        )
    )


@app.command(
    epilog="""Examples:

  fallow deployment scale web=6
  fallow deployment scale shop/web 6 --wait
  fallow deployment scale shop/web=6 shop/worker=2"""
)
def scale(
    ctx: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=N... or NAME N",
            help="Deployments and how many replicas each shall have.",
            autocompletion=completion.deployments,
        ),
    ],
    wait: Wait = False,
    timeout: Timeout = "5m",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Say how many replicas there shall be."""
    patience = seconds(timeout)
    session = session_of(ctx)
    wishes = [(deployment_path(session, name, project), count) for name, count in _wishes(targets)]
    with session.client() as client:
        for path, count in wishes:
            with suggesting(client, path):
                view = client.change_deployment(*path, DeploymentChange(replicas=count))
            if as_json:
                output.write_json(view, one_line=len(wishes) > 1)
            else:
                output.write(f"{view.project}/{view.name}: {count} replicas wanted, {view.counts.healthy} healthy")
        for (in_project, name), _ in wishes if wait else ():
            wait_for(client, in_project, {name: 0}, [], patience)


def _wishes(targets: Sequence[str]) -> list[tuple[str, int]]:
    if len(targets) == 2 and targets[1].isdigit():
        targets = [f"{targets[0]}={targets[1]}"]
    found = []
    for target in targets:
        name, _, count = target.rpartition("=")
        if not name or not (count.isascii() and count.isdigit()) or int(count) > 100_000:
            raise usage(f"{target!r} does not say how many replicas", "Write NAME=N or NAME N, N from 0 to 100000.")
        found.append((name, int(count)))
    return found


@app.command(
    epilog="""Examples:

  fallow deployment delete web
  fallow deployment delete shop/web shop/worker --wait"""
)
def delete(
    ctx: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="Deployments, as NAME or PROJECT/NAME.", autocompletion=completion.deployments
        ),
    ],
    wait: Wait = False,
    timeout: Timeout = "5m",
    project: Project = "",
) -> None:
    """Stop all replicas of deployments and forget them."""
    patience = seconds(timeout)
    session = session_of(ctx)
    paths = [deployment_path(session, name, project) for name in names]
    with session.client() as client:
        for path in paths:
            with suggesting(client, path):
                client.delete_deployment(*path)
            output.write(f"{'/'.join(path)}: deleting")
        for in_project, name in paths if wait else ():
            wait_for(client, in_project, {}, [name], patience)


@app.command(
    epilog="""Examples:

  fallow deployment division web
  fallow deployment division shop/web --json"""
)
def division(ctx: typer.Context, name: Deployment, project: Project = "", as_json: Json = False) -> None:
    """Show how a deployment is divided over clusters, by which rules, and how that came to be."""
    session = session_of(ctx)
    path = deployment_path(session, name, project)
    with session.client() as client, suggesting(client, path):
        found = client.clusters.division(*path)
    if as_json:
        output.write_json(found)
        return
    if not found.shares:
        output.write(f"{output.clean(found.deployment)} is not divided: there are no member clusters")
        return
    output.show(share_table(found))
    if found.unplaced:
        output.write(output.clean(f"{found.unplaced} have no place: {found.unplaced_reason}"))
    if found.history:
        output.write("")
        output.show(history_table(found))


add_commands(app)
