"""`fallow server token`, `drain` and `remove`: how a server comes, stops lending, and leaves."""

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from fallow.cli import output
from fallow.cli.failures import Exit, Failure
from fallow.cli.options import Json, key_values, seconds
from fallow.cli.processes import server
from fallow.cli.servers import Server
from fallow.cli.session import session_of
from fallow.cli.tokens import tell_token
from fallow.cli.watching import wait_until
from fallow.model.members import MemberChange, MemberState, Scheduling
from fallow.model.servers import ServerView
from fallow.model.tokens import Approve, TokenRequest
from fallow.model.units import format_duration
from fallow.model.vms import VmState, VmView

if TYPE_CHECKING:
    from fallow.client.api import Client

token = typer.Typer(no_args_is_help=True, help="Hand out tokens with which machines join as servers.")

_AT_WORK = (VmState.PREPARING, VmState.STARTING, VmState.RUNNING, VmState.STOPPING)
_EXAMPLES = {
    "server": """Examples:

  fallow server
  fallow server --data /srv/fallow --host control.example
  fallow server --listen 0.0.0.0:7443 --advertise control.example:7444""",
    "drain": """Examples:

  fallow server drain srv1
  fallow server drain srv1 --timeout 1h
  fallow server drain srv1 --no-wait""",
    "remove": """Examples:

  fallow server remove srv1
  fallow server remove srv1 --force""",
}


def register(app: typer.Typer) -> None:
    """Add these commands to a group."""
    app.callback(invoke_without_command=True, epilog=_EXAMPLES["server"])(server)
    app.add_typer(token, name="token")
    for command in (drain, remove):
        app.command(epilog=_EXAMPLES[command.__name__])(command)


@token.command(
    epilog="""Examples:

  fallow server token create
  fallow server token create --name srv1 --label rack=r7 --ttl 2h
  fallow server token create --uses 20 --label hours=night --quiet"""
)
def create(
    ctx: typer.Context,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label the server gets; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the one server is called.")] = "",
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long it is valid.", show_default="30m")
    ] = "",
    uses: Annotated[int, typer.Option("--uses", min=1, max=100_000, help="How many servers may join with it.")] = 1,
    approve: Annotated[
        Approve, typer.Option("--approve", help="manual: somebody has to let each server in.")
    ] = Approve.AUTO,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the token and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Create a token for a machine that is to lend what its primary application leaves idle. It is shown this once."""
    request = TokenRequest(
        role="server",
        ttl_seconds=seconds(ttl) if ttl else None,
        uses=uses,
        labels=dict(key_values(label or [], "label")),
        name=name,
        approve=approve,
    )
    with session_of(ctx).client() as client:
        made = client.create_token(request)
        url = client.url
    tell_token(made, url, quiet=quiet, as_json=as_json)


def drain(
    ctx: typer.Context,
    name: Server,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay and watch until nothing is left.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to watch.")] = "10m",
    as_json: Json = False,
) -> None:
    """Take back all that a server lends: replicas move, replacements first, then its virtual machines stop.

    It goes on without this command; `fallow server undrain` calls it off, and what has moved stays moved.
    """
    patience = seconds(timeout)
    with ExitStack() as stack:
        client = stack.enter_context(session_of(ctx).client())
        server = client.servers.one(name)
        member = client.change_member(server.id, MemberChange(scheduling=Scheduling.DRAINING))
        if not wait:
            if as_json:
                output.write_json(member)
            else:
                output.write(f"{output.clean(member.name)}: draining")
            return
        try:
            view = _watched(client, server, patience, timeout)
        except KeyboardInterrupt:
            output.note(f"{server.name} goes on draining; `fallow server undrain {server.name}` calls it off.")
            raise typer.Exit(Exit.INTERRUPTED) from None
        if as_json:
            output.write_json(view)
        else:
            output.write(f"{output.clean(view.name)} lends nothing any more: it can be shut down")


def _watched(client: "Client", server: ServerView, patience: float, timeout: str) -> ServerView:
    """Show what is left until nothing is. Raises Failure when that takes longer, or is called off."""
    began, view, left = time.monotonic(), server, list[VmView]()

    def look() -> tuple[bool, RenderableType]:
        nonlocal view, left
        view = client.servers.one(server.id)
        if view.scheduling is not Scheduling.DRAINING:
            raise Failure(f"{view.name} is not drained any more", detail="Somebody called it off.")
        left = [vm for vm in client.vms.all(server.id).items if vm.replicas or _works(vm, view)]
        head = [
            f"draining {view.name}: {output.count(view.replicas, 'replica')} left",
            f"{output.count(len(left), 'virtual machine')} left",
        ]
        lines = [Text(f"  {output.clean(_line(vm))}") for vm in left[:20]]
        told = ", ".join([*head, format_duration(time.monotonic() - began)] if output.on_terminal(sys.stderr) else head)
        return not left and not view.replicas, Group(Text(output.clean(told)), *lines)

    if wait_until(look, patience):
        return view
    raise Failure(
        f"{view.name} still lends after {timeout}",
        detail="; ".join(_line(vm) for vm in left[:5]),
        hint=f"It goes on draining. `fallow explain {view.name}` tells more; `fallow server undrain` calls it off.",
    )


def _works(vm: VmView, server: ServerView) -> bool:
    """Say whether a virtual machine may still be running; nobody waits for those of a server that is dead."""
    if server.state is MemberState.DEAD:
        return False
    return (vm.use.state if vm.use is not None else vm.state) in _AT_WORK


def _line(vm: VmView) -> str:
    state = vm.use.state if vm.use is not None else vm.state
    return f"{vm.name}: {state}, {output.count(vm.replicas, 'replica')}" + (f", {vm.problem}" if vm.problem else "")


def remove(
    ctx: typer.Context,
    name: Server,
    force: Annotated[
        bool, typer.Option("--force", help="Even while its virtual machines hold replicas; they are replaced.")
    ] = False,
) -> None:
    """Remove a server for good, with its virtual machines: its key is worth nothing from then on."""
    with session_of(ctx).client() as client:
        server = client.servers.one(name)
        client.remove_member(server.id, force=force)
    output.write(f"{name}: removed")
