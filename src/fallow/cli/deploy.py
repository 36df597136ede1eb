"""`fallow deploy`: make deployments be as a Compose file says."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from fallow.cli import output
from fallow.cli.composefile import Collected, collect, find
from fallow.cli.deploying import wait_for
from fallow.cli.failures import usage
from fallow.cli.options import Json, Project, seconds
from fallow.cli.session import Session, session_of
from fallow.client.contexts import PROJECT
from fallow.model.deployments import DeployedItem, DeployRequest, DeployResult

if TYPE_CHECKING:
    from fallow.client.api import Client


def deploy(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="The Compose file; - is standard input.", show_default="compose.yaml here"),
    ] = "",
    file_option: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="The same, as an option.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done, and where.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the project's deployments that the file does not name.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything serves.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")] = "5m",
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Make deployments be as a Compose file says: create, update, scale.

    Of this machine's environment only the variables that the file names are sent, and the env files that it names.
    """
    if file and file_option and file != file_option:
        raise usage("Two files are named", "Give one, either way.")
    patience = seconds(timeout)
    session = session_of(ctx)
    collected = collect(find(file or file_option), os.environ)
    request = DeployRequest(
        compose=collected.text,
        project=_project(session, project, collected),
        variables=collected.variables,
        env_files=collected.env_files,
        dry_run=dry_run,
        prune=prune,
    )
    with session.client() as client:
        result = client.deploy(request)
        _tell(result, as_json=as_json)
        if wait and not dry_run:
            _wait(client, result, patience)
            if not as_json:
                _tell_routes(client, result)


def _project(session: Session, given: str, collected: Collected) -> str:
    """What is said here and now comes first, then the file's name, then the context's project."""
    if given or os.environ.get(PROJECT) or not collected.names_project:
        return given or session.context().project
    return ""


def _tell(result: DeployResult, *, as_json: bool) -> None:
    for warning in result.warnings:
        output.warn(warning)
    if as_json:
        output.write_json(result)
        return
    columns = ["DEPLOYMENT", "WOULD" if result.dry_run else "ACTION", "REPLICAS"]
    if result.dry_run:
        columns += ["CLUSTERS" if any(item.clusters for item in result.items) else "PLACED ON", "UNPLACED", "WHY"]
    lines = ((item.path, item.action, item.replicas, *_foretold(item)) for item in result.items)
    output.show(output.rows(output.table(*columns), (line[: len(columns)] for line in lines)))


def _foretold(item: DeployedItem) -> tuple[object, ...]:
    placed = " ".join(f"{node}:{count}" for node, count in sorted((item.clusters or item.placements).items()))
    return placed, item.unplaced or "", "; ".join(item.reasons)


def _wait(client: "Client", result: DeployResult, patience: float) -> None:
    names = {item.path.rpartition("/")[2]: item for item in result.items}
    gone = [name for name, item in names.items() if item.action == "delete"]
    serving = {name: item.generation for name, item in names.items() if name not in gone}
    wait_for(client, result.project, serving, gone, patience)


def _tell_routes(client: "Client", result: DeployResult) -> None:
    paths = {item.path for item in result.items}
    for route in client.routes().items:
        if f"{route.project}/{route.deployment}" in paths:
            output.write(output.clean(f"{route.project}/{route.deployment}: {route.address}"))
            if route.conflict:
                output.warn(f"{route.address} is not served: {route.conflict}")
