"""`fallow trust`: which images each project may run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.options import Json
from fallow.cli.pem_files import read_public
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.trust import TrustRequest, TrustView

app = typer.Typer(no_args_is_help=True, help="Say which images a project may run, and who must have signed them.")

Project = Annotated[
    str,
    typer.Argument(metavar="PROJECT", help="The project.", show_default=False, autocompletion=completion.projects),
]


@app.command(
    "set",
    epilog="""Examples:

  fallow trust set shop --allow 'registry.example/shop/*' --key cosign.pub
  fallow trust set default --allow 'shop/*' --allow 'library/*' --require-digest""",
)
def set_(
    ctx: typer.Context,
    project: Project,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            metavar="PATTERN",
            help="Registry and repository, with * and ?; without a registry docker.io's. May be repeated.",
        ),
    ] = None,
    require_digest: Annotated[
        bool, typer.Option("--require-digest", help="Images must be named by digest (name@sha256:...).")
    ] = False,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A public key (PEM), as cosign makes it: one of them must have signed. May be repeated.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set all rules for the images of a project; those it had are replaced."""
    keys = tuple(read_public(file, "the public one, such as cosign.pub") for file in key or ())
    request = TrustRequest(project=project, allow=tuple(allow or ()), require_digest=require_digest, keys=keys)
    with session_of(ctx).client() as client:
        found = client.trust.set(request)
    if as_json:
        output.write_json(found)
    else:
        output.show(_facts(found))


@app.command(
    "list",
    epilog="""Examples:

  fallow trust list
  fallow trust list --json""",
)
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the projects whose images have rules."""
    show_list(session_of(ctx), lambda client: client.trust.policies(), _table, as_json=as_json, watch=())


def _table(found: Sequence[TrustView]) -> Table:
    return output.rows(
        output.table("PROJECT", "ONLY", "BY DIGEST", "KEYS", "CHANGED"),
        (
            (
                each.project,
                ", ".join(each.allow) or "any",
                "yes" if each.require_digest else "no",
                len(each.keys),
                output.clock(each.updated_at),
            )
            for each in found
        ),
    )


@app.command(epilog="Example:\n\n  fallow trust show shop")
def show(ctx: typer.Context, project: Project, as_json: Json = False) -> None:
    """Show the rules for the images of a project."""
    with session_of(ctx).client() as client:
        found = client.trust.policy(project)
    if as_json:
        output.write_json(found)
    else:
        output.show(_facts(found))


@app.command(epilog="Example:\n\n  fallow trust remove shop")
def remove(ctx: typer.Context, project: Project) -> None:
    """Let a project run any image again."""
    with session_of(ctx).client() as client:
        client.trust.remove(project)
    output.write(f"{project}: may run any image now")


def _facts(found: TrustView) -> Table:
    keys = [f"{each.kind} {each.sha256}" for each in found.keys]
    return output.facts(
        (
            ("project", found.project),
            ("only", "\n".join(found.allow) or "any registry and repository"),
            ("by digest", "yes" if found.require_digest else "no"),
            ("signed by one of", "\n".join(keys) or "nobody"),
            ("changed", output.clock(found.updated_at)),
            ("changed by", found.created_by),
        )
    )
