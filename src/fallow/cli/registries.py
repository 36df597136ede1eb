"""`fallow registry`: registries that need a login, or are spoken to without TLS."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, mirrors, output
from fallow.cli.failures import Exit, Failure, usage
from fallow.cli.options import Json
from fallow.cli.pem_files import read_public
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.registries import CertificateView, RegistryCheck, RegistryRequest, RegistryView

app = typer.Typer(no_args_is_help=True, help="Give registries their logins, and run mirrors of them.")
app.add_typer(mirrors.app, name="mirror")

Host = Annotated[
    str,
    typer.Argument(metavar="HOST", help="The registry as images name it: HOST or HOST:PORT.", show_default=False),
]
Known = Annotated[
    str,
    typer.Argument(metavar="HOST", help="The registry.", show_default=False, autocompletion=completion.registries),
]


@app.command(
    epilog="""Examples:

  fallow registry add registry.example --username ci --password-stdin < password.txt
  fallow registry add registry.internal --ca-file internal-ca.pem
  fallow registry add 10.0.0.5:5000 --insecure
  fallow registry add docker.io --mirror 10.0.0.6:5000"""
)
def add(
    ctx: typer.Context,
    host: Host,
    username: Annotated[
        str, typer.Option("--username", "-u", metavar="NAME", help="Who we are there.", show_default=False)
    ] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input; else it is asked for.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="It speaks plain HTTP: everybody on the way can read and change it.")
    ] = False,
    mirror: Annotated[
        str,
        typer.Option("--mirror", metavar="HOST:PORT", help="A mirror that nodes ask first.", show_default=False),
    ] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Certificates (PEM) that it is trusted by, beside the system's.",
            show_default=False,
        ),
    ] = None,
    proxy: Annotated[
        str,
        typer.Option(
            "--proxy", metavar="URL", help="An HTTP proxy that leads there: http://HOST:PORT.", show_default=False
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make a registry known, or replace what is known of it. The password is stored sealed and never shown."""
    request = RegistryRequest(
        host=host,
        username=username,
        password=_password(username, from_stdin=password_stdin),
        scheme="http" if insecure else "https",
        mirror=mirror,
        ca_pem=read_public(ca_file, "the certificates alone") if ca_file is not None else "",
        proxy=proxy,
    )
    with session_of(ctx).client() as client:
        found = client.registries.add(request)
    if as_json:
        output.write_json(found)
        return
    output.write(f"{found.host}: {_login(found)}, {_transport(found)}")
    output.note(f"To try it: fallow registry test {found.host}")


def _password(username: str, *, from_stdin: bool) -> str:
    """Return the password, never from the command line: everybody on a machine can read those of others."""
    if not username:
        if from_stdin:
            raise usage("A password without a user name", "Give --username too.")
        return ""
    if from_stdin:
        text = sys.stdin.read(20_000).rstrip("\r\n")
    elif sys.stdin.isatty():
        text = str(typer.prompt("Password", hide_input=True, err=True))
    else:
        raise usage("No password", "Pipe it in: fallow registry add HOST --username NAME --password-stdin")
    if not text:
        raise usage("The password is empty", "Pipe it in with --password-stdin.")
    return text


@app.command(
    "list",
    epilog="""Examples:

  fallow registry list
  fallow registry list --json""",
)
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List the registries that are known, without passwords."""
    show_list(session_of(ctx), lambda client: client.registries.known(), _table, as_json=as_json, watch=())


def _table(found: Sequence[RegistryView]) -> Table:
    return output.rows(
        output.table("HOST", "LOGIN", "SPOKEN TO BY", "MIRROR", "CHANGED"),
        ((e.host, e.username or "none", _transport(e), _mirror(e), output.clock(e.updated_at)) for e in found),
    )


@app.command(epilog="Example:\n\n  fallow registry show registry.example")
def show(ctx: typer.Context, host: Known, as_json: Json = False) -> None:
    """Show one registry, without its password."""
    with session_of(ctx).client() as client:
        found = client.registries.registry(host)
    if as_json:
        output.write_json(found)
        return
    output.show(
        output.facts(
            (
                ("host", found.host),
                ("login", found.username or "none"),
                ("spoken to by", _transport(found)),
                *(("trusted beside the system's", _certificate(each)) for each in found.trusted),
                ("mirror", _mirror(found) or "none"),
                ("changed", output.clock(found.updated_at)),
                ("changed by", found.created_by),
            )
        )
    )


@app.command(epilog="Example:\n\n  fallow registry remove registry.example")
def remove(ctx: typer.Context, host: Known) -> None:
    """Forget a registry and its login."""
    with session_of(ctx).client() as client:
        client.registries.remove(host)
    output.write(f"{host}: forgotten")


@app.command(
    epilog="""Examples:

  fallow registry test registry.example
  fallow registry test docker.io --json"""
)
def test(ctx: typer.Context, host: Known, as_json: Json = False) -> None:
    """Try whether a registry answers the control plane and takes its login."""
    with session_of(ctx).client() as client:
        found = client.registries.check(host)
    if as_json:
        output.write_json(found)
        if not found.works:
            raise typer.Exit(Exit.FAILED)
        return
    if not found.works:
        raise Failure(f"{found.host} does not work", detail=found.text, hint=_hint(found))
    output.write(f"{found.host}: works ({found.seconds * 1000:.0f} ms)")


def _hint(found: RegistryCheck) -> str:
    if found.kind == "denied":
        return f"Give it another login: fallow registry add {found.host} --username NAME --password-stdin"
    if "certificate" in found.text.lower():
        return f"Where it has a CA of its own: fallow registry add {found.host} --ca-file FILE"
    if found.kind == "unreachable":
        return f"Where it speaks plain HTTP: fallow registry add {found.host} --insecure"
    return "Nodes may reach it all the same; then they pull without a digest that was fixed for all."


def _login(found: RegistryView) -> str:
    return f"login {found.username}" if found.username else "no login"


def _mirror(found: RegistryView) -> str:
    return " ".join(filter(None, [found.mirrored_by, found.mirror]))


def _transport(found: RegistryView) -> str:
    through = f" through {found.proxy}" if found.proxy else ""
    return ("HTTP" if found.insecure else "HTTPS, own CA" if found.trusted else "HTTPS") + through


def _certificate(found: CertificateView) -> str:
    return f"{found.subject}, until {output.clock(found.expires_at)} (SHA-256 {found.sha256})"
