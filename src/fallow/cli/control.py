"""`fallow control`: the control plane itself."""

from typing import Annotated

import typer

from fallow.cli import output
from fallow.cli.options import Json
from fallow.cli.session import session_of
from fallow.model.control import Level, StoreMember

app = typer.Typer(no_args_is_help=True, help="Look at the control plane itself, and set how much it logs.")


@app.command("status", epilog="Examples:\n\n  fallow control status\n\n  fallow control status --json")
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show how the control plane is; `fallow doctor` judges it, too."""
    with session_of(ctx).client() as client:
        found = client.status()
    if as_json:
        output.write_json(found)
        return
    output.show(
        output.facts(
            (
                ("version", found.version),
                ("state", found.not_ready or "ready"),
                ("leads", f"{'this process' if found.leads else found.leader or 'nobody'}, one of {found.peers}"),
                ("log level", found.log_level),
                ("store", f"revision {found.store_revision}, a read takes {found.store_seconds * 1000:.1f} ms"),
                ("store members", ", ".join(_store_member(each) for each in found.store_members)),
                ("records", ", ".join(f"{count} {kind}" for kind, count in found.records.items() if count)),
                ("sessions", found.sessions),
                ("not ready", ", ".join(sorted(found.silent))),
            )
        )
    )


def _store_member(member: StoreMember) -> str:
    place = output.place(member.region, member.zone)
    return f"{member.address}{f' ({place})' if place else ''}{'' if member.answers else ' does not answer'}"


@app.command("log-level", epilog="Example:\n\n  fallow control log-level debug")
def log_level(
    ctx: typer.Context, level: Annotated[Level, typer.Argument(help="How much is logged from now on.")]
) -> None:
    """Set how much the control plane logs, until it is set again or started anew."""
    with session_of(ctx).client() as client:
        told = client.set_log_level(level)
    output.write(f"logs from {told.level} on")
