"""`fallow node drain`, `remove` and `unfence`: how a machine leaves, and comes in again."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from fallow.cli import output
from fallow.cli.failures import Failure, usage
from fallow.cli.options import Json, Node, seconds
from fallow.cli.replicas import ENDED, replica_table
from fallow.cli.session import session_of
from fallow.cli.watching import wait_until
from fallow.model.members import MemberChange, MemberView, Scheduling

if TYPE_CHECKING:
    from fallow.client.api import Client

Timeout = Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to wait.")]

_EXAMPLES = {
    "drain": """Examples:

  fallow node drain node-7
  fallow node drain node-7 --timeout 30m
  fallow node drain node-7 --no-wait""",
    "remove": """Examples:

  fallow node remove node-7
  fallow node remove node-7 --drain
  fallow node remove node-7 --force --keep-containers""",
    "unfence": "Example:\n\n  fallow node unfence node-7",
}


def register(app: typer.Typer) -> None:
    """Add these commands to a group."""
    for command in (drain, remove, unfence):
        app.command(epilog=_EXAMPLES[command.__name__])(command)


def drain(
    ctx: typer.Context,
    name: Node,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until nothing is left.")] = True,
    timeout: Timeout = "10m",
    as_json: Json = False,
) -> None:
    """Move everything off a node, replacements first, so that it can be stopped."""
    patience = seconds(timeout)
    with session_of(ctx).client() as client:
        member = _drained(client, name, patience if wait else 0.0, timeout)
        if as_json:
            output.write_json(client.member(member.id) if wait else member)
        else:
            output.write(f"{output.clean(member.name)}: {'drained' if wait else 'draining'}")


def _drained(client: "Client", name: str, patience: float, timeout: str) -> MemberView:
    """Drain a member and, with patience (in seconds), wait until it is empty. Raises Failure when that takes longer."""
    member = client.change_member(name, MemberChange(scheduling=Scheduling.DRAINING))

    def look() -> tuple[bool, RenderableType]:
        left = [each for each in client.replicas(node=member.id).items if each.state not in ENDED]
        head = Text(f"draining {member.name}: {len(left)} replicas left")
        # Who watches sees every replica; a log needs the number, and that only when it changes.
        return not left, Group(head, replica_table(left)) if left and output.on_terminal(sys.stderr) else head

    if patience and not wait_until(look, patience):
        raise Failure(
            f"{member.name} still holds replicas after {timeout}",
            detail="It goes on draining; a replica leaves when its replacement is healthy elsewhere.",
            hint=f"See `fallow node show {member.name}`; `fallow node uncordon {member.name}` calls it off.",
        )
    return member


def remove(
    ctx: typer.Context,
    name: Node,
    drain_first: Annotated[
        bool, typer.Option("--drain", help="Move everything off it before, and wait until that is done.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while it holds replicas; they are replaced.")] = False,
    keep_containers: Annotated[
        bool, typer.Option("--keep-containers", help="Let the machine go on running what it runs.")
    ] = False,
    timeout: Timeout = "10m",
) -> None:
    """Remove a member for good: its key is worth nothing from then on, and its machine removes its containers.

    A machine that is away does so when it comes back.
    """
    if drain_first and force:
        raise usage("--drain and --force exclude each other", "Drain to lose no request; force to be done at once.")
    patience = seconds(timeout)
    with session_of(ctx).client() as client:
        if drain_first:
            _drained(client, name, patience, timeout)
        client.remove_member(name, force=force, keep_containers=keep_containers)
    output.write(f"{name}: removed")


def unfence(ctx: typer.Context, name: Node, as_json: Json = False) -> None:
    """Let a member in again that was fenced because two machines used its key; shut the copy down first."""
    with session_of(ctx).client() as client:
        if not client.member(name).fence:
            raise usage(f"{name} is not fenced", f"See `fallow node show {name}`.")
        member = client.change_member(name, MemberChange(unfence=True))
    if as_json:
        output.write_json(member)
    else:
        output.write(f"{output.clean(member.name)}: let in again")
