"""`fallow vm drain` and `delete`: how a virtual machine is emptied, and goes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from fallow.cli import output
from fallow.cli.failures import Failure
from fallow.cli.options import Json, seconds
from fallow.cli.session import session_of
from fallow.cli.vms import VmName
from fallow.cli.watching import wait_until
from fallow.client.errors import ApiError
from fallow.model.vms import VmChange, VmView

if TYPE_CHECKING:
    from fallow.client.api import Client

Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until that is done.")]

_EXAMPLES = {
    "drain": """Examples:

  fallow vm drain srv1-vm
  fallow vm drain srv1-vm --no-wait""",
    "delete": """Examples:

  fallow vm delete srv1-vm
  fallow vm delete srv1-vm --no-wait""",
}


def register(app: typer.Typer) -> None:
    """Add these commands to a group."""
    for command in (drain, delete):
        app.command(epilog=_EXAMPLES[command.__name__])(command)


def drain(ctx: typer.Context, name: VmName, wait: Wait = True, timeout: Timeout = "10m", as_json: Json = False) -> None:
    """Move everything off a virtual machine, replacements first; it gets nothing new until fallow vm start."""
    patience = seconds(timeout)
    with session_of(ctx).client() as client:
        view = client.vms.change(name, VmChange(draining=True))
        if wait:
            _wait(client, view, "draining", lambda found: found is None or not found.replicas, (patience, timeout))
            view = client.vms.one(view.id)
    if as_json:
        output.write_json(view)
    else:
        output.write(f"{output.clean(view.name)}: {'drained' if wait else 'draining'}")


def delete(ctx: typer.Context, name: VmName, wait: Wait = True, timeout: Timeout = "10m") -> None:
    """Delete a virtual machine with its disk: what it holds moves, its node is removed, then it is gone."""
    patience = seconds(timeout)
    with session_of(ctx).client() as client:
        view = client.vms.one(name)
        client.vms.delete(view.id)
        if view.automatic:
            output.note(
                "Its server's policy makes another; `fallow server-pool policy set POOL --vms N` says how many."
            )
        if wait:
            _wait(client, view, "deleting", lambda found: found is None, (patience, timeout))
    output.write(f"{output.clean(view.name)}: {'deleted' if wait else 'deleting'}")


def _wait(
    client: "Client", view: VmView, doing: str, done: Callable[[VmView | None], bool], patience: tuple[float, str]
) -> None:
    """Show how a virtual machine empties until it is as it should be; None: it is gone. Raises Failure."""
    found: VmView | None = view

    def look() -> tuple[bool, RenderableType]:
        nonlocal found
        found = _find(client, view.id)
        left = f"{output.count(found.replicas, 'replica')} left, {found.state}" if found is not None else "gone"
        return done(found), Text(output.clean(f"{doing} {view.name}: {left}"))

    within, told = patience
    if not wait_until(look, within):
        left = (
            f"{found.replicas} replicas left" if found is not None and found.replicas else "its server has yet to act"
        )
        raise Failure(
            f"{doing} {view.name} is not done after {told}: {left}",
            detail="It goes on; a replica leaves when its replacement is healthy elsewhere.",
            hint=f"`fallow vm show {view.name}` tells more, and `fallow explain {view.node or view.server}`.",
        )


def _find(client: "Client", vm_id: str) -> VmView | None:
    try:
        return client.vms.one(vm_id)
    except ApiError as error:
        if error.problem.status == 404:
            return None
        raise
