"""`fallow cluster drain`, `remove` and `unfence`: how a cluster is emptied, leaves, and is let in again."""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from fallow.cli import output
from fallow.cli.clusters import Cluster
from fallow.cli.failures import Exit, Failure
from fallow.cli.node_life import let_in
from fallow.cli.options import Json, seconds
from fallow.cli.session import session_of
from fallow.cli.watching import wait_until
from fallow.model.clusters import ClusterView
from fallow.model.members import MemberChange, Scheduling
from fallow.model.units import format_duration

if TYPE_CHECKING:
    from fallow.client.api import Client

_NOT_COUNTED = "failed requests not counted: no gateway tells of any"

_EXAMPLES = {
    "drain": """Examples:

  fallow cluster drain old
  fallow cluster drain old --timeout 4h
  fallow cluster drain old --no-wait""",
    "remove": """Examples:

  fallow cluster remove old
  fallow cluster remove old --force""",
    "unfence": "Example:\n\n  fallow cluster unfence west",
}


def register(app: typer.Typer) -> None:
    """Add these commands to a group."""
    for command in (drain, remove, unfence):
        app.command(epilog=_EXAMPLES[command.__name__])(command)


def drain(
    ctx: typer.Context,
    name: Cluster,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Stay and watch until nothing is left.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", metavar="DURATION", help="How long to watch.")] = "1h",
    as_json: Json = False,
) -> None:
    """Move everything off a cluster, replacements first, so that it can be upgraded or shut down.

    It goes on without this command; `fallow cluster uncordon` calls it off, and what has moved stays moved.
    """
    patience = seconds(timeout)
    with ExitStack() as stack:
        client = stack.enter_context(session_of(ctx).client())
        client.clusters.one(name)
        member = client.change_member(name, MemberChange(scheduling=Scheduling.DRAINING))
        if not wait:
            if as_json:
                output.write_json(member)
            else:
                output.write(f"{output.clean(member.name)}: draining")
            return
        try:
            view = _watched(client, member.id, patience, timeout)
        except KeyboardInterrupt:
            output.note(f"{member.name} goes on draining; `fallow cluster uncordon {member.name}` calls it off.")
            raise typer.Exit(Exit.INTERRUPTED) from None
        if as_json:
            output.write_json(view)
        else:
            failed = _NOT_COUNTED if view.requests_failed is None else f"{view.requests_failed} requests failed"
            output.write(f"{output.clean(member.name)} is empty: it can be shut down ({failed})")


class Drained(ClusterView, frozen=True, kw_only=True):
    """A cluster that was emptied; `requests_failed` at gateways of all clusters meanwhile, None: none counts them."""

    requests_failed: int | None = None


def _watched(client: "Client", member_id: str, patience: float, timeout: str) -> Drained:
    """Show how a cluster empties until it is empty. Raises Failure when that takes longer, or is called off."""
    began, failed_before = time.monotonic(), _failed_requests(client)
    view, most = client.clusters.one(member_id), 0
    failed: int | None = None

    def look() -> tuple[bool, RenderableType]:
        nonlocal view, most, failed
        clusters = client.clusters.all().items
        view = next((found for found in clusters if found.member.id == member_id), view)
        most = max(most, view.left)
        if view.member.scheduling is not Scheduling.DRAINING:
            raise Failure(f"{view.member.name} is not drained any more", detail="Somebody called it off.")
        coming = sum(found.moving_in for found in clusters)
        head = [f"draining {view.member.name}: {view.left} left", f"{most - view.left} moved"]
        head += [f"{coming} replacements not ready yet"] if coming else []
        now_failed = _failed_requests(client)
        failed = max(0, now_failed - (failed_before or 0)) if now_failed is not None else None
        head.append(_NOT_COUNTED if failed is None else f"{failed} requests failed")
        head.append(format_duration(time.monotonic() - began))
        unreached = (found.unreached for found in clusters if found.moving_in and found.unreached)
        lines = [Text("  " + output.clean(text)) for text in (*view.stuck, *unreached)]
        return view.left == 0, Group(Text(output.clean(", ".join(head))), *lines)

    if wait_until(look, patience):
        return Drained(**msgspec.structs.asdict(view), requests_failed=failed)
    raise Failure(
        f"{view.member.name} still runs {view.left} replicas after {timeout}",
        detail="; ".join(view.stuck)
        or "It goes on draining; a replica leaves when its replacement is ready elsewhere.",
        hint=f"`fallow cluster show {view.member.name}` tells more, `fallow cluster uncordon` calls it off.",
    )


def _failed_requests(client: "Client") -> int | None:
    """Return how many requests gateways have answered with an error of the server; None: no gateway says."""
    found = {(route.project, route.deployment, route.port): route for route in client.routes().items}
    if not any(route.gateways or route.clusters for route in found.values()):
        return None
    return sum(route.errors_5xx for route in found.values())


def remove(
    ctx: typer.Context,
    name: Cluster,
    force: Annotated[
        bool, typer.Option("--force", help="Even while it runs replicas of ours; they are replaced elsewhere.")
    ] = False,
) -> None:
    """Remove a cluster for good; refused while it runs replicas of ours. Its own deployments are left alone."""
    with session_of(ctx).client() as client:
        client.clusters.one(name)
        client.remove_member(name, force=force)
    output.write(f"{name}: removed")


def unfence(ctx: typer.Context, name: Cluster, as_json: Json = False) -> None:
    """Let a cluster in again that was fenced because two control planes used its key; stop the copy first."""
    with session_of(ctx).client() as client:
        let_in(client, client.clusters.one(name).member, "cluster", as_json)
