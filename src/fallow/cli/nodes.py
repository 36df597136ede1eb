"""`fallow node`: the machines that run containers, and other members."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fallow.cli import completion, output, registrations
from fallow.cli.failures import usage
from fallow.cli.options import Json, Node, Selector, Watch
from fallow.cli.relabelling import read_labels, relabel
from fallow.cli.replicas import ENDED, replica_table
from fallow.cli.session import Session, session_of
from fallow.cli.watching import show_list
from fallow.model.labels import RelabelRequest, Variable
from fallow.model.members import MemberChange, MemberView, Role, Scheduling
from fallow.model.units import format_bytes, format_duration

NAMED = (Role.NODE, Role.GATEWAY)  # roles whose members have a DNS name

app = typer.Typer(no_args_is_help=True, help="Look after the machines that run containers, and other members.")

app.add_typer(registrations.app)


def node_table(found: Sequence[MemberView], *, with_role: bool) -> Table:
    """Return a table of members, ordered by name."""
    columns = ["NAME", "STATE", "REPLICAS", "CPUS", "MEMORY", "ADDRESS", "POOL", "LABELS", "SEEN"]
    made = output.table(*([columns[0], "ROLE", *columns[1:]] if with_role else columns))
    for each in sorted(found, key=lambda member: member.name):
        made.add_row(
            output.cell(each.name),
            *((output.cell(each.role.value),) if with_role else ()),
            _state(each),
            output.cell(each.replicas),
            output.cell(_cpus(each)),
            output.cell(_memory(each)),
            output.cell(each.address),
            output.cell(each.lease.pool if each.lease is not None else ""),
            output.cell(output.pairs(each.labels)),
            output.cell(output.age(each.last_seen_at)),
        )
    return made


def _state(member: MemberView) -> Text:
    state = output.cell(member.state.value)
    if member.scheduling is not Scheduling.ACTIVE:
        state = Text.assemble(state, ", ", output.cell(member.scheduling.value))
    for more in (
        "fenced" if member.fence else "",
        f"removed in {format_duration(max(0.0, member.purge_at - time.time()))}" if member.purge_at else "",
        _agent(member),
    ):
        if more:
            state = Text.assemble(state, ", ", output.cell(more))
    return state


def _pool(member: MemberView) -> str:
    lease = member.lease
    return f"{lease.pool} ({lease.mode})" if lease is not None and lease.pool else ""


def _shown(variable: Variable) -> str:
    """Return a measured value for people: bytes the short way."""
    number = variable.value.removesuffix("B")
    return format_bytes(int(number)).replace(" ", "") if variable.type == "bytes" else variable.value


def _agent(member: MemberView) -> str:
    """Return how its agent's upgrade goes; nothing when there is none, or it is done."""
    wish = member.agent_wish
    if wish is None or (member.agent_version == wish.version and not wish.failed):
        return ""
    return f"upgrade to {wish.version} failed" if wish.failed else f"upgrading to {wish.version}"


def _cpus(member: MemberView) -> str:
    return f"{member.used_cpus:.1f}/{member.facts.cpus:g}" if member.facts.cpus else ""


def _memory(member: MemberView) -> str:
    total = member.facts.memory_bytes
    return f"{format_bytes(member.used_memory_bytes)}/{format_bytes(total)}" if total else ""


@app.command(
    "list",
    epilog="""Examples:

  fallow node list
  fallow node list --watch
  fallow node list --role all --json
  fallow node list -l 'role=web,disk.free<20GiB'
  fallow node list -l @web-east""",
)
def list_(
    ctx: typer.Context,
    role: Annotated[str, typer.Option("--role", metavar="ROLE", help="node, gateway, or all.")] = "node",
    selector: Selector = "",
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """List nodes, or members of another role; all, or those that a selector picks."""
    _check_role(role)
    show_list(
        session_of(ctx),
        lambda client: client.members("" if role == "all" else role, selector),
        lambda found: node_table(found, with_role=role == "all"),
        as_json=as_json,
        watch=("members", "replicas") if watch else (),
    )


def _check_role(role: str) -> None:
    roles = [each.value for each in Role]
    if role not in (*roles, "all"):
        raise usage(f"{role!r} is not a role", f"Choose one of {', '.join(roles)}, all.")


@app.command(
    epilog="""Examples:

  fallow node show node-7
  fallow node show node-7 --json"""
)
def show(ctx: typer.Context, name: Node, as_json: Json = False) -> None:
    """Show one member and what runs on it."""
    with session_of(ctx).client() as client:
        member = client.member(name)
        if as_json:
            output.write_json(member)
            return
        output.show(_described(member, client.dns().domain if member.role in NAMED else ""))
        if member.role is Role.NODE:
            running = [each for each in client.replicas(node=member.id).items if each.state not in ENDED]
            if running:
                output.write("")
                output.show(replica_table(running))


def _described(member: MemberView, domain: str) -> Table:
    told, lease = member.facts, member.lease
    return output.facts(
        (
            ("name", member.name),
            ("id", member.id),
            ("role", member.role.value),
            ("state", _state(member)),
            ("why", member.state_reason),
            ("connected", f"{'yes' if member.connected else 'no'}, seen {output.age(member.last_seen_at)} ago"),
            ("address", member.address),
            ("pool", _pool(member)),
            ("agent port", lease.agent_port if lease is not None else ""),
            (
                "host ports",
                f"{lease.host_ports.first}-{lease.host_ports.last}" if lease and member.role is Role.NODE else "",
            ),
            ("DNS name", f"{member.name}.{member.role}.{domain}" if domain else ""),
            ("network", member.network_problem),
            ("function", member.function),
            ("labels", output.pairs(member.labels)),
            ("variables", " ".join(f"{each.name}={each.value}" for each in member.variables)),
            ("measured", " ".join(f"{each.name}={_shown(each)}" for each in member.measured)),
            ("host", f"{told.hostname} ({' '.join(filter(None, (told.os, told.kernel, told.architecture)))})"),
            ("engine", told.engine),
            ("agent", member.agent_version or told.agent_version),
            ("upgrade", member.agent_wish.failed if member.agent_wish is not None else ""),
            ("replicas", member.replicas),
            ("cpus", f"{_cpus(member)} used, {member.reserved_cpus:g} reserved" if told.cpus else ""),
            (
                "memory",
                f"{_memory(member)} used, {format_bytes(member.reserved_memory_bytes)} reserved"
                if told.memory_bytes
                else "",
            ),
            ("joined", _joined(member)),
            ("facts as of", output.clock(member.reported_at) if member.reported_at else ""),
        )
    )


def _joined(member: MemberView) -> str:
    """Return when it joined, where it called from, and where it said it was, if that is somewhere else."""
    called = f", from {member.observed_address}" if member.observed_address else ""
    said = member.temporary_address
    return (
        output.clock(member.created_at)
        + called
        + (f", saying it was {said}" if said and said != member.observed_address else "")
    )


@app.command(
    epilog="""Examples:

  fallow node label node-7 zone=west tier=web
  fallow node label node-7 tier-
  fallow node label --selector 'rack=r7,!zone' zone=west --dry-run
  fallow node label -l @web-east tier=web old- --yes"""
)
def label(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME] KEY=VALUE|KEY-...",
            help="The member, unless a selector picks them; labels to set, or KEY- to remove.",
            autocompletion=completion.members,
        ),
    ],
    selector: Selector = "",
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="With a selector: node, gateway, or all.")
    ] = "node",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With a selector: only show what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With a selector: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Set or remove labels, by which deployments choose nodes, of one member or of all that a selector picks."""
    if selector:
        _check_role(role)
        wish = RelabelRequest(selector=selector, labels=read_labels(words), role="" if role == "all" else role)
        relabel(session_of(ctx), wish, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    name, labels = words[0], read_labels(words[1:])
    if not labels or "=" in name:
        raise usage("Name a member and at least one label", "Or pick members with --selector.")
    if dry_run or yes:
        raise usage("--dry-run and --yes belong to --selector", "A single member's labels are changed at once.")
    with session_of(ctx).client() as client:
        member = client.change_member(name, MemberChange(labels=labels))
    if as_json:
        output.write_json(member)
    else:
        output.write(f"{output.clean(member.name)}: {output.pairs(member.labels) or 'no labels'}")


@app.command(epilog="Example:\n\n  fallow node cordon node-7")
def cordon(ctx: typer.Context, name: Node, as_json: Json = False) -> None:
    """Give a node nothing new; what it runs stays."""
    _schedule(session_of(ctx), name, Scheduling.CORDONED, as_json)


@app.command(epilog="Example:\n\n  fallow node uncordon node-7")
def uncordon(ctx: typer.Context, name: Node, as_json: Json = False) -> None:
    """Let a cordoned or draining node take work again."""
    _schedule(session_of(ctx), name, Scheduling.ACTIVE, as_json)


def _schedule(session: Session, name: str, scheduling: Scheduling, as_json: bool) -> None:
    with session.client() as client:
        member = client.change_member(name, MemberChange(scheduling=scheduling))
    if as_json:
        output.write_json(member)
    else:
        output.write(f"{output.clean(member.name)}: {member.scheduling.value}")
