"""`fallow cluster token|join|host|leave`: how this cluster becomes a member of another one, its host."""

import sys
from typing import Annotated

import typer

from fallow.cli import output
from fallow.cli.failures import usage
from fallow.cli.options import Json, key_values, seconds
from fallow.cli.session import session_of
from fallow.cli.tokens import tell_token
from fallow.model.hosts import HostRequest, HostView
from fallow.model.tokens import Approve, TokenRequest

JOIN_SECONDS = 60.0  # the host may have to be waited for

token = typer.Typer(no_args_is_help=True, help="Hand out tokens with which clusters join this one as its members.")


def register(app: typer.Typer) -> None:
    """Add the commands to `fallow cluster`."""
    app.add_typer(token, name="token")
    app.command(
        epilog="""Examples:

  fallow cluster join https://host.example:7443 TOKEN
  fallow cluster join https://host.example:7443 - --name west < token.txt"""
    )(join)
    app.command(epilog="Examples:\n\n  fallow cluster host\n\n  fallow cluster host --json")(host)
    app.command(epilog="Examples:\n\n  fallow cluster leave\n\n  fallow cluster leave --remove")(leave)


@token.command(
    epilog="""Examples:

  fallow cluster token create --label region=west
  fallow cluster token create --name west --ttl 2h
  fallow cluster token create --uses 10 --approve manual --quiet"""
)
def create(
    ctx: typer.Context,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label the cluster gets; may be repeated."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the one cluster is called.")] = "",
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="DURATION", help="How long it is valid.", show_default="30m")
    ] = "",
    uses: Annotated[int, typer.Option("--uses", min=1, max=100_000, help="How many clusters may join with it.")] = 1,
    approve: Annotated[
        Approve, typer.Option("--approve", help="manual: somebody has to let each cluster in.")
    ] = Approve.AUTO,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the token and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Create a token for a cluster that is to become a member of this one. It is shown this once."""
    request = TokenRequest(
        role="cluster",
        ttl_seconds=seconds(ttl) if ttl else None,
        uses=uses,
        labels=dict(key_values(label or [], "label")),
        name=name,
        approve=approve,
    )
    with session_of(ctx).client() as client:
        made = client.create_token(request)
        url = client.url
    tell_token(made, url, quiet=quiet, as_json=as_json)


def join(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="The host: https://HOST:PORT.", show_default=False)],
    credential: Annotated[
        str,
        typer.Argument(metavar="TOKEN", help="Its token for a cluster; - reads it from standard input."),
    ],
    name: Annotated[
        str,
        typer.Option("--name", metavar="NAME", help="What the host calls us.", show_default="made from the hostname"),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make this cluster, that of the current context, a member of a host. It keeps its nodes, its store and its API."""
    text = sys.stdin.readline().strip() if credential == "-" else credential
    if not text:
        raise usage("There is no token", "`fallow cluster token create` at the host prints one.")
    with session_of(ctx).client(seconds=JOIN_SECONDS) as client:
        found = client.hosts.join(HostRequest(url=url, token=text, name=name))
    if as_json:
        output.write_json(found)
        return
    output.write(
        f"{output.clean(found.name)}: a member of {output.clean(found.url)}; fallow cluster host shows how it is"
    )
    output.note(
        "Gateways of other clusters send requests to the nodes here. Whether they reach them, the host tells: "
        f"fallow cluster show {output.clean(found.name)}"
    )


def host(ctx: typer.Context, as_json: Json = False) -> None:
    """Show whose member this cluster is, and whether they speak."""
    with session_of(ctx).client() as client:
        found = client.hosts.show()
    if as_json:
        output.write_json(found)
        return
    output.show(
        output.facts(
            (
                ("host", found.url),
                ("we are called", found.name),
                ("session", _session(found)),
                ("labels", output.pairs(found.labels)),
                ("deployments", found.shares),
                ("joined", f"{output.age(found.joined_at)} ago"),
            )
        )
    )


def _session(view: HostView) -> str:
    if view.refused:
        return f"refused for good: {view.refused}"
    since = f" since {output.age(view.since)}" if view.since else ""
    if view.connected:
        return f"open{since}"
    return f"none{since}" + (f": {view.problem}" if view.problem else "")


def leave(
    ctx: typer.Context,
    remove: Annotated[bool, typer.Option("--remove", help="Also delete what runs here for the host.")] = False,
) -> None:
    """Be a member no more. What runs here for the host goes on as this cluster's own, unless it is to be removed.

    To move it away first: `fallow cluster drain NAME` at the host. Afterwards, at the host: `fallow cluster remove`.
    """
    with session_of(ctx).client() as client:
        found = client.hosts.show()
        client.hosts.leave(remove)
    kept = "what ran for it is deleted" if remove else f"{found.shares} deployments of it are this cluster's own now"
    output.write(f"{output.clean(found.name)}: no member of {output.clean(found.url)} any more; {kept}")
    output.note(f"At the host: fallow cluster remove {output.clean(found.name)}")
