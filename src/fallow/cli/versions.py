"""`fallow version`: which release this is, and which one answers."""

import msgspec
import typer

from fallow.cli import output
from fallow.cli.options import Json
from fallow.cli.session import session_of
from fallow.client.errors import ClientError
from fallow.version import VERSION

PATIENCE_SECONDS = 3.0


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """This command's release and the control plane's; empty when none answers, and why."""

    client: str
    server: str = ""
    schema: str = ""
    unknown: str = ""


def version(ctx: typer.Context, as_json: Json = False) -> None:
    """Tell which release this is, and which one the control plane has."""
    view = _ask(ctx)
    if as_json:
        output.write_json(view)
        return
    output.show(
        output.facts(
            (
                ("fallow", view.client),
                ("control plane", view.server or f"unknown: {view.unknown}"),
                ("store schema", view.schema),
            )
        )
    )


def _ask(ctx: typer.Context) -> VersionView:
    try:
        with session_of(ctx).client(seconds=PATIENCE_SECONDS) as client:
            found = client.version()
    except ClientError as error:
        return VersionView(client=VERSION, unknown=str(error))
    return VersionView(client=VERSION, server=found.version, schema=str(found.schema))
