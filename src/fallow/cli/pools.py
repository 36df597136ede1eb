"""`fallow pool`: the networks that members get their addresses of."""

import re
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.options import Json, Watch, seconds
from fallow.cli.session import Session, session_of
from fallow.cli.watching import show_list
from fallow.model.meta import is_name
from fallow.model.pools import (
    DEFAULT_AGENT_PORT,
    LeaseView,
    NetworkMode,
    PoolChange,
    PoolRequest,
    PoolView,
    PortRange,
)
from fallow.model.units import format_duration

MODES = tuple(mode.value for mode in NetworkMode)
_KINDS = ("pools", "members", "released-leases")

app = typer.Typer(no_args_is_help=True, help="Say which addresses nodes and gateways get when they join.")

Pool = Annotated[str, typer.Argument(help="The pool's name.", metavar="NAME", autocompletion=completion.pools)]
Cidr = Annotated[str, typer.Option("--cidr", metavar="NETWORK", help="The network, such as 10.86.0.0/16.")]
AgentPort = Annotated[
    int,
    typer.Option("--agent-port", min=1, max=65535, help="The first port that is tried for a member's agent."),
]


@app.command(
    epilog="""Examples:

  fallow pool create --cidr 10.86.0.0/16 --mode wireguard
  fallow pool create rack-7 --cidr 192.168.7.0/24
  fallow pool create lab --cidr fd00:86::/64 --mode wireguard --quarantine 10m"""
)
def create(
    ctx: typer.Context,
    cidr: Cidr,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name for it; members that name none get addresses of `default`.")
    ] = "default",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="direct: a member's address is its own and lies in the network. "
            "wireguard: members get an address of an encrypted overlay.",
            autocompletion=lambda: list(MODES),
        ),
    ] = NetworkMode.DIRECT.value,
    agent_port: AgentPort = DEFAULT_AGENT_PORT,
    host_ports: Annotated[
        str, typer.Option("--host-ports", metavar="FIRST-LAST", help="Ports that containers are published at.")
    ] = "20000-29999",
    ports_per_node: Annotated[
        int,
        typer.Option(
            "--ports-per-node", min=1, max=65535, help="How many each node gets where several share an address."
        ),
    ] = 1000,
    quarantine: Annotated[
        str, typer.Option("--quarantine", metavar="DURATION", help="How long a released address is given to nobody.")
    ] = "1h",
    as_json: Json = False,
) -> None:
    """Create a pool. Members that join from now on get their leases of it."""
    if not is_name(name):
        raise usage(
            f"{name!r} is not a name", "Take lower case letters, digits and dashes, at most 40, a letter first."
        )
    if mode not in MODES:
        raise usage(f"{mode!r} is not a mode", f"Choose one of {', '.join(MODES)}.")
    ports = _ports(host_ports)
    request = PoolRequest(
        name=name,
        cidr=cidr,
        mode=NetworkMode(mode),
        agent_port=agent_port,
        first_host_port=ports.first,
        last_host_port=ports.last,
        host_ports_per_node=ports_per_node,
        quarantine_seconds=seconds(quarantine),
    )
    with session_of(ctx).client() as client:
        _tell(client.create_pool(request), as_json)


@app.command(
    "list",
    epilog="""Examples:

  fallow pool list
  fallow pool list --watch
  fallow pool list --json""",
)
def list_(ctx: typer.Context, watch: Watch = False, as_json: Json = False) -> None:
    """List pools, and how much of each is in use."""
    show_list(
        session_of(ctx), lambda client: client.pools(), _table, as_json=as_json, watch=_KINDS if watch else ()
    )  # fmt: skip


def _table(found: Sequence[PoolView]) -> Table:
    return output.rows(
        output.table("NAME", "NETWORK", "MODE", "SIZE", "USED", "QUARANTINED", "FREE", "AGE"),
        (
            (
                each.name,
                each.cidr,
                each.mode.value,
                each.usage.size,
                each.usage.used,
                each.usage.quarantined,
                each.usage.free,
                output.age(each.created_at),
            )
            for each in found
        ),
    )


@app.command(
    epilog="""Examples:

  fallow pool show default
  fallow pool show default --json"""
)
def show(ctx: typer.Context, name: Pool, as_json: Json = False) -> None:
    """Show one pool."""
    with session_of(ctx).client() as client:
        pool = client.pool(name)
    if as_json:
        output.write_json(pool)
        return
    use = pool.usage
    output.show(
        output.facts(
            (
                ("name", pool.name),
                ("network", pool.cidr),
                ("mode", pool.mode.value),
                ("addresses", f"{use.size}, of which {use.free} are free"),
                ("leases", f"{use.used}, and {use.quarantined} in quarantine"),
                ("quarantine", format_duration(pool.quarantine_seconds)),
                ("agent port", pool.agent_port),
                ("host ports", _range(pool.host_ports)),
                ("ports a node", pool.host_ports_per_node if pool.mode is NetworkMode.DIRECT else ""),
                ("created", f"{output.clock(pool.created_at)} by {pool.created_by}"),
            )
        )
    )


@app.command(
    epilog="""Examples:

  fallow pool leases default
  fallow pool leases default --json"""
)
def leases(ctx: typer.Context, name: Pool, watch: Watch = False, as_json: Json = False) -> None:
    """List the leases of a pool, those in quarantine too."""

    def table(found: Sequence[LeaseView]) -> Table:
        return output.rows(
            output.table("ADDRESS", "MEMBER", "STATE", "AGENT PORT", "HOST PORTS", "UNTIL"),
            (
                (
                    each.address,
                    each.member,
                    each.state,
                    each.agent_port,
                    _range(each.host_ports),
                    output.clock(each.until),
                )
                for each in found
            ),
        )

    show_list(
        session_of(ctx), lambda client: client.leases(name), table, as_json=as_json, watch=_KINDS if watch else ()
    )  # fmt: skip


@app.command(epilog="Example:\n\n  fallow pool resize default --cidr 10.80.0.0/12")
def resize(ctx: typer.Context, name: Pool, cidr: Cidr, as_json: Json = False) -> None:
    """Let a pool grow to a network that contains the one it has; leases stay."""
    _change(session_of(ctx), name, PoolChange(cidr=cidr), as_json)


@app.command(
    epilog="""Examples:

  fallow pool change default --quarantine 10m
  fallow pool change default --agent-port 9455"""
)
def change(
    ctx: typer.Context,
    name: Pool,
    quarantine: Annotated[
        str,
        typer.Option("--quarantine", metavar="DURATION", help="Of what is released from now on.", show_default=False),
    ] = "",
    agent_port: Annotated[
        int | None, typer.Option("--agent-port", min=1, max=65535, help="Of members that join from now on.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change what later leases of a pool get."""
    if not quarantine and agent_port is None:
        raise usage(
            "There is nothing to change", "Give --quarantine or --agent-port; fallow pool resize changes the network."
        )
    wish = PoolChange(agent_port=agent_port, quarantine_seconds=seconds(quarantine) if quarantine else None)
    _change(session_of(ctx), name, wish, as_json)


@app.command(epilog="Example:\n\n  fallow pool delete lab")
def delete(ctx: typer.Context, name: Pool) -> None:
    """Delete a pool that no member has a lease of."""
    with session_of(ctx).client() as client:
        client.delete_pool(name)
    output.write(f"{name}: deleted")


def _change(session: Session, name: str, wish: PoolChange, as_json: bool) -> None:
    with session.client() as client:
        _tell(client.change_pool(name, wish), as_json)


def _tell(pool: PoolView, as_json: bool) -> None:
    if as_json:
        output.write_json(pool)
    else:
        output.write(f"{pool.name}: {pool.cidr}, {pool.mode.value}, {pool.usage.free} of {pool.usage.size} free")


def _ports(text: str) -> PortRange:
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text.strip())
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise usage(f"{text!r} is not a range of ports", "Write FIRST-LAST, such as 20000-29999.")
    return PortRange(first=first, last=last)


def _range(ports: PortRange) -> str:
    return f"{ports.first}-{ports.last}"
