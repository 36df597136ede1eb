"""How people name things on the command line, and what they may have meant."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from fallow.cli.failures import usage
from fallow.cli.session import Session
from fallow.client.contexts import DEFAULT_PROJECT
from fallow.client.errors import ApiError, ClientError

if TYPE_CHECKING:
    from fallow.client.api import Client


def deployment_path(session: Session, text: str, project: str) -> tuple[str, str]:
    """Return project and name of `name` or `project/name`.

    Raises Failure when `text` is neither, or names another project than the option does.
    """
    given, slash, name = text.rpartition("/")
    if not name or (slash and not given) or "/" in given:
        raise usage(f"{text!r} does not name a deployment", "Write NAME or PROJECT/NAME.")
    if given and project and given != project:
        raise usage(f"{text!r} is not in the project {project!r}", "Leave out --project, or the project in the name.")
    return given or project or session.context().project or DEFAULT_PROJECT, name


@contextmanager
def suggesting(client: "Client", path: tuple[str, str]) -> Iterator[None]:
    """When the deployment is not found, add to the refusal which ones there are of a name like it."""
    try:
        yield
    except ApiError as error:
        if error.problem.status == 404:
            raise ApiError(msgspec.structs.replace(error.problem, hint=_hint(client, path))) from error
        raise


def _hint(client: "Client", path: tuple[str, str]) -> str:
    try:
        known = [(found.project, found.name) for found in client.deployments().items]
    except ClientError:
        known = []
    near = [f"{project}/{name}" for project, name in known if name == path[1]]
    near = near or difflib.get_close_matches("/".join(path), [f"{project}/{name}" for project, name in known], n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "`fallow deployment list` shows all deployments."
