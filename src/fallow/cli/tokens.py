"""`fallow token`: what lets machines join and people use the API."""

import time
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.options import Json, key_values, seconds
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.tokens import Approve, TokenRequest, TokenUse, TokenView
from fallow.model.units import format_duration

# role -> the command that uses its token
JOINING = {
    "node": "join",
    "gateway": "gateway",
    "server": "join --role server --primary 'systemd:NAME.service'",
    "cluster": "cluster join",
}
ROLES = (*JOINING, "viewer", "operator", "admin")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Role = Annotated[
    str,
    typer.Option(
        "--role",
        metavar="ROLE",
        help="node, gateway, server or cluster to join; viewer, operator or admin for the API.",
        autocompletion=lambda: list(ROLES),
    ),
]
Ttl = Annotated[
    str,
    typer.Option(
        "--ttl", metavar="DURATION", help="How long it is valid.", show_default="30m to join, else without end"
    ),
]
Uses = Annotated[int, typer.Option("--uses", min=1, max=100_000, help="How many machines may join with it.")]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="KEY=VALUE", help="A label its machines get; may be repeated."),
]
Name = Annotated[
    str, typer.Option("--name", metavar="TEXT", help="What an API token is for; or what its one machine is called.")
]
Source = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="CIDR", help="Where its machines may join from; may be repeated."),
]
Pool = Annotated[str, typer.Option("--pool", metavar="NAME", help="The pool its machines get addresses from.")]
Approved = Annotated[Approve, typer.Option("--approve", help="manual: somebody has to let each machine in.")]
Replace = Annotated[str, typer.Option("--replace", metavar="NAME", help="The member whose place its machine takes.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the token and nothing else.")]

app = typer.Typer(
    no_args_is_help=True, help="Hand out and take back tokens: for machines to join, for people to use the API."
)


@app.command(
    epilog="""Examples:

  fallow token create --role node
  fallow token create --role node --uses 10 --ttl 2h --label zone=west
  fallow token create --role node --name web-7 --from 10.20.0.0/16
  fallow token create --role node --uses 10 --approve manual
  fallow token create --replace web-7
  fallow token create --role cluster --label region=west
  fallow token create --role operator --ttl 720h --name ci
  TOKEN=$(fallow token create --role node --quiet)"""
)
def create(
    ctx: typer.Context,
    role: Role = "node",
    ttl: Ttl = "",
    uses: Uses = 1,
    label: Label = None,
    name: Name = "",
    source: Source = None,
    pool: Pool = "",
    approve: Approved = Approve.AUTO,
    replace: Replace = "",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Create a token. It is shown this once."""
    if role not in ROLES:
        raise usage(f"{role!r} is not a role", f"Choose one of {', '.join(ROLES)}.")
    lifetime = seconds(ttl) if ttl else None
    request = TokenRequest(
        role=role,
        ttl_seconds=lifetime,
        uses=uses,
        labels=dict(key_values(label or [], "label")),
        name=name,
        networks=tuple(source or ()),
        pool=pool,
        approve=approve,
        replaces=replace,
    )
    with session_of(ctx).client() as client:
        token = client.create_token(request)
        url = client.url
    tell_token(token, url, quiet=quiet, as_json=as_json)


def tell_token(token: TokenView, url: str, *, quiet: bool, as_json: bool) -> None:
    """Print a token that has just been made, and how it is used."""
    if as_json:
        output.write_json(token)
        return
    output.write(token.secret or "")
    if not quiet:
        _tell_use(token, url)


def _tell_use(token: TokenView, url: str) -> None:
    until = f"valid for {format_duration(token.expires_at - token.created_at)}" if token.expires_at else "without end"
    if token.role not in JOINING:
        output.note(f"API token {token.id}, role {token.role}, {until}. It is not shown again.")
        output.note(f"To use it elsewhere: fallow context add NAME {url} --ca-file CA.pem")
        return
    what, where = (
        ("cluster", "Where the cluster's own control plane is")
        if token.role == "cluster"
        else ("machine", "On the machine that joins")
    )
    uses = f"1 {what}" if token.uses_left == 1 else f"{token.uses_left} {what}s"
    first = " Somebody has to let it in: fallow node pending." if token.approve is Approve.MANUAL else ""
    output.note(f"Join token {token.id} for {uses}, {until}.{first} {where}, run:")
    if token.role == "server":
        output.note(
            "Name there what the server is for: a systemd unit, cgroup:/PATH, process:NAME, or several of them."
        )
    console = output.stderr()
    console.print(
        Text(f"\n  fallow {JOINING[token.role]} {url} {token.secret}\n", style="bold"), soft_wrap=True, crop=False
    )
    if urlsplit(url).hostname in LOOPBACK:
        output.note("From another machine, put an address of this one in place of the loopback address.")


@app.command(
    "list",
    epilog="""Examples:

  fallow token list
  fallow token list --json""",
)
def list_(ctx: typer.Context, as_json: Json = False) -> None:
    """List tokens, without their secrets."""
    show_list(session_of(ctx), lambda client: client.tokens(), _table, as_json=as_json)


def _table(found: Sequence[TokenView]) -> Table:
    now = time.time()
    return output.rows(
        output.table("ID", "ROLE", "STATE", "NAME", "LABELS", "LEFT", "USED BY", "EXPIRES IN", "CREATED BY", "AGE"),
        (
            (
                each.id,
                each.role,
                each.state,
                each.name,
                output.pairs(each.labels),
                each.uses_left,
                _used_by(each, now),
                format_duration(each.expires_at - now) if each.expires_at and each.expires_at > now else "",
                each.created_by,
                output.age(each.created_at, now),
            )
            for each in sorted(found, key=lambda token: token.created_at)
        ),
    )


def _used_by(token: TokenView, now: float) -> str:
    names = ", ".join(_user(use) for use in token.used_by)
    more = (token.uses or 0) - (token.uses_left or 0) - len(token.used_by)
    ago = f" {output.age(token.used_at, now)} ago" if token.used_at else ""
    return f"{names}{f' and {more} more' if more > 0 else ''}{ago}" if names or more > 0 else ""


@app.command(
    epilog="""Examples:

  fallow token show k7x2m9qp
  fallow token show k7x2m9qp --json"""
)
def show(
    ctx: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.", autocompletion=completion.tokens)],
    as_json: Json = False,
) -> None:
    """Show a token, who made it, and what used it when."""
    with session_of(ctx).client() as client:
        token = client.token(token_id)
    if as_json:
        output.write_json(token)
        return
    output.show(_described(token))
    if token.used_by:
        output.write("")
        output.show(_uses(token.used_by))


def _described(token: TokenView) -> Table:
    used = f"{token.uses - (token.uses_left or 0)} of {token.uses}" if token.uses is not None else ""
    return output.facts(
        (
            ("id", token.id),
            ("role", token.role),
            ("state", token.state),
            ("name", token.name),
            ("labels", output.pairs(token.labels)),
            ("used", used),
            ("from", ", ".join(token.networks)),
            ("pool", token.pool),
            ("approve", token.approve.value if token.uses is not None else ""),
            ("replaces", token.replaces),
            ("expires in", format_duration(max(0.0, token.expires_at - time.time())) if token.expires_at else ""),
            ("created by", token.created_by),
            ("age", output.age(token.created_at)),
        )
    )


def _uses(found: Sequence[TokenUse]) -> Table:
    return output.rows(
        output.table("MEMBER", "ID", "FROM", "AGO"),
        ((_user(each), each.member_id, each.source_address, output.age(each.at)) for each in found),
    )


def _user(use: TokenUse) -> str:
    if not use.member_id:
        return f"{use.name} (waits for approval)"
    return use.name or "(removed)"


@app.command(
    epilog="""Examples:

  fallow token extend k7x2m9qp --ttl 2h"""
)
def extend(
    ctx: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.", autocompletion=completion.tokens)],
    ttl: Annotated[str, typer.Option("--ttl", metavar="DURATION", help="For how long from now.")],
) -> None:
    """Let a join token last longer, also one that has expired and has uses left."""
    with session_of(ctx).client() as client:
        token = client.extend_token(token_id, seconds(ttl))
    output.write(f"{token_id}: valid for {ttl}, {token.uses_left} of {token.uses} uses left")


@app.command(epilog="Example:\n\n  fallow token revoke t-4f2a")
def revoke(
    ctx: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.", autocompletion=completion.tokens)],
) -> None:
    """Make a token worthless; machines that have joined with it stay."""
    with session_of(ctx).client() as client:
        client.revoke_token(token_id)
    output.write(f"{token_id}: revoked")
