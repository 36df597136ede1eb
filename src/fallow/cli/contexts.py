"""`fallow context`: which control planes this user knows, and which one commands go to."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fallow.cli import completion, output
from fallow.cli.failures import Exit, Failure, usage
from fallow.cli.options import Json, secret
from fallow.cli.pem_files import read_public
from fallow.cli.session import session_of
from fallow.client.contexts import TOKEN, Context, contexts_path, load_contexts, save_context, save_contexts
from fallow.model.credentials import API_PREFIX

app = typer.Typer(no_args_is_help=True, help="Choose the control plane that commands go to.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The context.", autocompletion=completion.contexts)]


class ContextView(msgspec.Struct, frozen=True, kw_only=True):
    """A context without its secret."""

    name: str
    url: str
    project: str
    token_id: str
    own_ca: bool
    current: bool


def _view(context: Context, current: str) -> ContextView:
    parts = context.token.split(".")
    return ContextView(
        name=context.name,
        url=context.url,
        project=context.project,
        token_id=parts[1] if len(parts) > 2 else "",
        own_ca=bool(context.ca_pem),
        current=context.name == current,
    )


@app.command("list", epilog="Examples:\n\n  fallow context list\n  fallow context list --json")
def list_(as_json: Json = False) -> None:
    """List the contexts; the star marks the one commands go to."""
    found = load_contexts()
    views = [_view(context, found.current) for context in found.contexts]
    if as_json:
        output.write_json(views)
        return
    output.show(
        output.rows(
            output.table("", "NAME", "URL", "PROJECT", "TOKEN"),
            (("*" if each.current else " ", each.name, each.url, each.project, each.token_id) for each in views),
        )
    )


@app.command(epilog="Example:\n\n  fallow context use production")
def use(name: Name) -> None:
    """Choose where commands go from now on."""
    found = load_contexts()
    if found.named(name) is None:
        raise _unknown(name)
    save_contexts(msgspec.structs.replace(found, current=name))
    output.write(f"commands go to {name} from now on")


@app.command(
    epilog="""Examples:

  fallow context show
  fallow context show production --ca > ca.pem"""
)
def show(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The context.", show_default="where commands go", autocompletion=completion.contexts
        ),
    ] = "",
    ca: Annotated[bool, typer.Option("--ca", help="Print the CA's certificate, to hand it to others.")] = False,
    as_json: Json = False,
) -> None:
    """Show where commands go; the token stays hidden."""
    found = load_contexts()
    context = found.named(name) if name else session_of(ctx).context()
    if context is None:
        raise _unknown(name)
    if ca:
        if not context.ca_pem:
            raise Failure(f"The context {context.name} has no CA of its own; it trusts the system's")
        output.write(context.ca_pem.rstrip())
        return
    view = _view(context, found.current)
    if as_json:
        output.write_json(view)
        return
    output.show(
        output.facts(
            (
                ("name", view.name),
                ("url", view.url),
                ("project", view.project or "default"),
                ("token", f"{view.token_id} (hidden)" if view.token_id else "none"),
                ("trusts", "its own CA" if view.own_ca else "the system's authorities"),
                ("file", str(contexts_path())),
            )
        )
    )


@app.command(
    epilog="""Examples:

  fallow context add production https://control.example:7443 --ca-file ca.pem
  fallow context add production https://c1.example:7443,https://c2.example:7443 --ca-sha256 HASH --token - < token.txt
  FALLOW_TOKEN=fallow-api.ID.SECRET fallow context add ci https://control.example:7443 --ca-file ca.pem --no-use"""
)
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Where its API is: https://HOST:7443; of several processes each one's, with commas between them.",
        ),
    ],
    token: Annotated[
        str,
        typer.Option(
            "--token",
            metavar="TEXT",
            help="The API token; - reads it from standard input. Left out: FALLOW_TOKEN, or asked for.",
        ),
    ] = "",
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", metavar="FILE", help="The CA's certificate, PEM.")
    ] = None,
    ca_sha256: Annotated[
        str, typer.Option("--ca-sha256", metavar="HASH", help="The hash of the CA's key; its certificate is fetched.")
    ] = "",
    project: Annotated[str, typer.Option("--project", "-p", metavar="NAME", help="The project commands mean.")] = "",
    use_it: Annotated[bool, typer.Option("--use/--no-use", help="Send commands there from now on.")] = True,
) -> None:
    """Add a control plane, or replace what is known of it."""
    from fallow.client.addresses import check_urls
    from fallow.client.transport import tls_context

    if ca_file and ca_sha256:
        raise usage("The CA is named twice", "Give --ca-file or --ca-sha256.")
    try:
        urls = check_urls(url)
        ca_pem = read_public(ca_file, "the CA's certificate") if ca_file else ""
        tls_context(ca_pem)
    except ValueError as error:
        raise usage(str(error)) from error
    if ca_sha256:
        ca_pem = _fetch(urls, ca_sha256)
    text = secret(token, os.environ.get(TOKEN, ""), "API token")
    if not text.startswith(f"{API_PREFIX}.") or text.count(".") != 2:
        raise usage(
            "There is no API token" if not text else "This is not an API token",
            f"It has the form {API_PREFIX}.ID.SECRET; an admin makes one with `fallow token create --role operator`.",
        )
    path = save_context(Context(name=name, url=",".join(urls), token=text, ca_pem=ca_pem, project=project), use=use_it)
    output.write(f"{name}: kept in {path}")


def _fetch(urls: tuple[str, ...], ca_sha256: str) -> str:
    import asyncio

    from fallow.client.errors import Unreachable
    from fallow.client.joining import fetch_ca

    *others, last = urls
    for url in others:
        with suppress(Unreachable):
            return asyncio.run(fetch_ca(url, ca_sha256))
    return asyncio.run(fetch_ca(last, ca_sha256))


@app.command(epilog="Example:\n\n  fallow context remove production")
def remove(name: Name) -> None:
    """Forget a control plane, and the token for it."""
    found = load_contexts()
    if found.named(name) is None:
        raise _unknown(name)
    save_contexts(found.without(name))
    output.write(f"{name}: forgotten")


def _unknown(name: str) -> Failure:
    return Failure(
        f"There is no context {name!r}", hint="`fallow context list` shows the contexts.", code=Exit.NOT_FOUND
    )
