"""`fallow events`: what happened, to what, by whom and why."""

from typing import Annotated

import typer
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.options import Json
from fallow.cli.session import session_of
from fallow.model.events import Event


def events(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and print events as they happen.")] = False,
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="NAME",
            help="Only of this deployment, replica or member.",
            autocompletion=completion.subjects,
        ),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many that have happened.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what happened, newest last. With --follow and --json, one document a line."""
    with session_of(ctx).client() as client:
        found = client.events(subject, limit)
        if as_json and not follow:
            output.write_json(found)
            return
        for event in found.items:
            _show(event, as_json)
        if follow:
            for change in client.watch(("events",), found.revision):
                if isinstance(change.record, Event) and _concerns(change.record, subject):
                    _show(change.record, as_json)


def _concerns(event: Event, subject: str) -> bool:
    return not subject or subject in (event.subject, event.subject_id)


def _show(event: Event, as_json: bool) -> None:
    if as_json:
        output.write_json(event, one_line=True)
        return
    line = Text.assemble(
        (output.clock(event.created_at), "dim"),
        "  ",
        (output.clean(event.reason), "yellow" if event.level == "warning" else "cyan"),
        "  ",
        (output.clean(f"{event.subject_kind} {event.subject or event.subject_id}"), "bold"),
        f"  {output.clean(event.message)}  ",
        (f"({output.clean(event.actor)})", "dim"),
    )
    output.stdout().print(line, soft_wrap=True)
