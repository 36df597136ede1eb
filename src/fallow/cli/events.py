"""`fallow events`: what happened, to what, by whom and why."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.options import Json, moment
from fallow.cli.session import session_of
from fallow.model.audit import AuditEntry
from fallow.model.events import Event

if TYPE_CHECKING:
    from fallow.client.listings import Listing


def events(
    ctx: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and print events as they happen.")] = False,
    audit: Annotated[
        bool,
        typer.Option("--audit", help="The audit record: who changed what through the API, and who was refused."),
    ] = False,
    subject: Annotated[
        str,
        typer.Option(
            "--subject",
            metavar="NAME",
            help="Only of this deployment, replica or member.",
            autocompletion=completion.subjects,
        ),
    ] = "",
    who: Annotated[
        str,
        typer.Option("--who", metavar="NAME", help="Only by this token (name or id), member or loop."),
    ] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="WHEN", help="Only from then on: 2h, 7d, or 2026-01-31T08:00.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many that have happened.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what happened, newest last. With --follow and --json, one document a line."""
    begin = moment(since) if since else None
    with session_of(ctx).client() as client:
        listed: Listing[Event] | Listing[AuditEntry]
        listed = (client.audit if audit else client.events)(subject, limit, who=who, since=begin)
        if as_json and not follow:
            output.write_json(listed)
            return
        for found in listed.items:
            _show(found, as_json)
        if follow:
            for change in client.watch(("audit",) if audit else ("events",), listed.revision):
                if isinstance(change.record, Event | AuditEntry) and _concerns(change.record, subject, who):
                    _show(change.record, as_json)


def _concerns(found: Event | AuditEntry, subject: str, who: str) -> bool:
    actor = found.actor if isinstance(found, Event) else found.who
    names = {actor, actor.partition(":")[2]} | ({found.token_id} if isinstance(found, AuditEntry) else set())
    return (not subject or subject in (found.subject, found.subject_id)) and (not who or who in names)


def _show(found: Event | AuditEntry, as_json: bool) -> None:
    if as_json:
        output.write_json(found, one_line=True)
        return
    output.stdout().print(_line(found) if isinstance(found, Event) else _audit_line(found), soft_wrap=True)


def _line(event: Event) -> Text:
    return Text.assemble(
        (output.clock(event.created_at), "dim"),
        "  ",
        (output.clean(event.reason), "yellow" if event.level == "warning" else "cyan"),
        "  ",
        (output.clean(f"{event.subject_kind} {event.subject or event.subject_id}"), "bold"),
        f"  {output.clean(event.message)}  ",
        (f"({output.clean(event.actor)})", "dim"),
    )


def _audit_line(entry: AuditEntry) -> Text:
    changed = ", ".join(f"{one.field}: {one.before or '-'} -> {one.after or '-'}" for one in entry.differences)
    times = f" ({entry.times} times)" if entry.times > 1 else ""
    place = " ".join(part for part in (entry.source, entry.request_id) if part)
    return Text.assemble(
        (output.clock(entry.created_at), "dim"),
        "  ",
        (output.clean(entry.who or "somebody"), "bold"),
        "  ",
        (output.clean(entry.outcome), "green" if entry.outcome == "done" else "yellow"),
        f"  {output.clean(entry.operation or '-')}  {output.clean(entry.subject)}  "
        f"{output.clean(entry.summary)}{times}" + (f"  [{output.clean(changed)}]" if changed else "") + "  ",
        (f"({output.clean(place)})" if place else "", "dim"),
    )
