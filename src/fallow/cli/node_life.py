"""`fallow node drain`, `remove`, `unfence` and `upgrade`: how a machine leaves, comes in again, and is renewed."""

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
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
from fallow.model.upgrades import UpgradeRequest, UpgradeState, UpgradeView

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
    "upgrade": """Examples:

  fallow node upgrade node-7
  fallow node upgrade --selector zone=west --max-unavailable 10%
  fallow node upgrade --selector "" --version 0.2.0 --dry-run""",
    "upgrades": """Examples:

  fallow node upgrades
  fallow node upgrades --json
  fallow node upgrades --stop k3f9x2a""",
    "unfence": "Example:\n\n  fallow node unfence node-7",
}


def register(app: typer.Typer) -> None:
    """Add these commands to a group."""
    for command in (drain, remove, unfence, upgrade, upgrades):
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
        let_in(client, client.member(name), "node", as_json)


def let_in(client: "Client", member: MemberView, noun: str, as_json: bool) -> None:
    """Take the fence from a member, and say so; `noun` is what its commands call it. Raises usage when it has none."""
    if not member.fence:
        raise usage(f"{member.name} is not fenced", f"See `fallow {noun} show {member.name}`.")
    member = client.change_member(member.name, MemberChange(unfence=True))
    if as_json:
        output.write_json(member)
    else:
        output.write(f"{output.clean(member.name)}: let in again")


def upgrade(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="The members meant.", show_default=False)
    ] = None,
    selector: Annotated[
        str | None,
        typer.Option("--selector", metavar="SELECTOR", help="Those with these labels; an empty one means all."),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--version", metavar="VERSION", help="What they become.", show_default="the control plane's own"),
    ] = None,
    max_unavailable: Annotated[
        str, typer.Option("--max-unavailable", metavar="SHARE", help="How many at a time: 10%, or a number.")
    ] = "10%",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is over.")] = True,
    timeout: Timeout = "1h",
    as_json: Json = False,
) -> None:
    """Swap the agents of nodes and gateways for another version; their containers and requests go on.

    It stops by itself when as many have failed as may be away at once; those that failed go on as they were.
    """
    if bool(names) == (selector is not None):
        raise usage("Which members?", "Give either names or --selector.")
    patience = seconds(timeout)
    request = _asked(names, selector, version, max_unavailable, dry_run)
    with session_of(ctx).client() as client:
        begun = found = client.begin_upgrade(request)

        def look() -> tuple[bool, RenderableType]:
            nonlocal found
            found = next((each for each in client.upgrades().items if each.id == begun.id), found)
            return found.state is not UpgradeState.RUNNING, Text(_line(found))

        ended = dry_run or not wait or wait_until(look, patience)
    if as_json:
        output.write_json(found)
    else:
        output.write(("would do: " if dry_run else "") + output.clean(_line(found)))
    if not ended:
        raise Failure(f"it is not over after {timeout}", hint="It goes on; `fallow node upgrades` shows how far it is.")
    if found.state is UpgradeState.STOPPED or found.failed:
        told = "; ".join(f"{name}: {why}" for name, why in sorted(found.failed.items()))
        raise Failure(
            f"{len(found.failed)} agents are not {found.version}", detail=told or found.reason,
            hint="They run on as they were; mend what is named and upgrade them again.",
        )  # fmt: skip


def _asked(
    names: list[str] | None, selector: str | None, version: str | None, share: str, dry_run: bool
) -> UpgradeRequest:
    wanted = {"names": names or [], "selector": selector, "version": version, "max_unavailable": share}
    try:
        return msgspec.convert({**wanted, "dry_run": dry_run}, UpgradeRequest)
    except msgspec.ValidationError as error:
        raise usage(
            f"That cannot be asked for: {error}", "--max-unavailable is like 10% or 3, --version like 0.2.0."
        ) from error


def _line(found: UpgradeView) -> str:
    total = sum(map(len, (found.waiting, found.upgrading, found.done, found.failed)))
    parts = [f"{len(found.done)} of {total} are {found.version}"]
    for word, those in (("upgrading", found.upgrading), ("waiting", found.waiting), ("failed", tuple(found.failed))):
        if those:
            parts.append(f"{word}: {', '.join(those[:5])}" + (f" and {len(those) - 5} more" if len(those) > 5 else ""))
    return "; ".join(parts)


def upgrades(
    ctx: typer.Context,
    stop: Annotated[str, typer.Option("--stop", metavar="ID", help="Begin with no further member of this one.")] = "",
    as_json: Json = False,
) -> None:
    """List upgrades of agents, newest first, and how far they are."""
    with session_of(ctx).client() as client:
        if stop:
            stopped = client.stop_upgrade(stop)
            output.write(f"{output.clean(stopped.id)}: {stopped.state.value}")
            return
        found = client.upgrades()
    if as_json:
        output.write_json(found)
        return
    made = output.table("ID", "VERSION", "STATE", "PROGRESS", "WHY", "AGE")
    for each in found.items:
        made.add_row(
            output.cell(each.id), output.cell(each.version), output.cell(each.state.value), output.cell(_line(each)),
            output.cell(each.reason), output.cell(output.age(each.created_at)),
        )  # fmt: skip
    output.show(made)
