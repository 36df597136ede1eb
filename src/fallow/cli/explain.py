"""`fallow explain`: why things are as they are."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.options import Json, Project
from fallow.cli.session import session_of
from fallow.client.contexts import DEFAULT_PROJECT
from fallow.client.errors import ApiError
from fallow.model.deployments import Explanation

if TYPE_CHECKING:
    from fallow.client.api import Client


def explain(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A deployment, a replica's id, or a member.", autocompletion=completion.subjects
        ),
    ],
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Say why something is as it is: why here, why not there, why it waits."""
    session = session_of(ctx)
    inside = f"{project or session.context().project or DEFAULT_PROJECT}/{name}"
    with session.client() as client:
        if "/" in name:
            told = client.explain(name)
        elif project:
            told = client.explain(inside)
        else:
            told = _either(client, name, inside)
    if as_json:
        output.write_json(told)
    else:
        output.show(explained(told))


def _either(client: "Client", name: str, inside: str) -> Explanation:
    """Explain the deployment `inside` a project, else the replica or member called `name`."""
    try:
        return client.explain(inside)
    except ApiError as error:
        if error.problem.status != 404:
            raise
    return client.explain(name)


def explained(told: Explanation) -> Group:
    """Return an explanation as it is shown."""
    head = Text.assemble((output.clean(told.subject), "bold"), ": ", output.cell(told.state))
    return Group(head, *(Text("  " + output.clean(line)) for line in told.lines))
