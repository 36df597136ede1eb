"""`fallow vm`: the virtual machines in which servers lend what they do not use."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.lending import amount
from fallow.cli.options import Json, Watch
from fallow.cli.replicas import ENDED, replica_table
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.units import format_bytes
from fallow.model.vms import VmChange, VmRequest, VmState, VmView, VmWish

KINDS = ("vms", "members", "replicas")

app = typer.Typer(
    no_args_is_help=True, help="Look after the virtual machines on servers; they are made by policy, or by hand here."
)

VmName = Annotated[
    str, typer.Argument(metavar="NAME", help="The virtual machine's name or id.", autocompletion=completion.vms)
]
Memory = Annotated[str, typer.Option("--memory", metavar="BYTES", help="Its memory, as 8GiB.", show_default=False)]


def vm_table(found: Sequence[VmView]) -> Table:
    """Return a table of virtual machines, by server and name."""
    made = output.table("NAME", "SERVER", "STATE", "CPUS", "MEMORY", "THROTTLED", "NODE", "REPLICAS", "MADE BY", "AGE")
    for each in sorted(found, key=lambda view: (view.server, view.name)):
        made.add_row(
            output.cell(each.name),
            output.cell(each.server),
            state(each),
            output.cell(cpus(each)),
            output.cell(memory(each)),
            output.cell(f"{each.use.throttled:.0%}" if each.use is not None else ""),
            output.cell(each.node),
            output.cell(each.replicas),
            output.cell(
                ("policy" if each.automatic else "hand") + (", sized by hand" if each.automatic and each.fixed else "")
            ),
            output.cell(output.age(each.created_at)),
        )
    return made


def state(view: VmView) -> Text:
    """Return how a virtual machine is, and what it is to become."""
    found = output.cell(view.state.value)
    wish = "draining" if view.draining else ""
    if view.wanted is not VmWish.RUNNING and view.state is not VmState.STOPPED:
        wish = "deleting" if view.wanted is VmWish.ABSENT else "to be stopped"
    return Text.assemble(found, ", ", output.cell(wish)) if wish else found


def cpus(view: VmView) -> str:
    """Return processors in use of those it may use now, and of those it was given where these are more."""
    if view.use is None:
        return f"{view.cpus:g}"
    limit = min(view.use.cpus_limit or view.cpus, view.cpus)
    return f"{view.use.cpus:.1f}/{limit:.1f}" + (f" of {view.cpus:g}" if limit < view.cpus else "")


def memory(view: VmView) -> str:
    """Return memory in use of what it has."""
    whole = format_bytes(view.memory_bytes)
    return f"{format_bytes(view.use.memory_bytes)}/{whole}" if view.use is not None else whole


@app.command(
    "list",
    epilog="""Examples:

  fallow vm list
  fallow vm list --server srv1
  fallow vm list --watch
  fallow vm list --json""",
)
def list_(
    ctx: typer.Context,
    server: Annotated[
        str,
        typer.Option("--server", metavar="NAME", help="Only of this server.", autocompletion=completion.servers),
    ] = "",
    watch: Watch = False,
    as_json: Json = False,
) -> None:
    """List virtual machines, what they use and what they may use now."""
    show_list(
        session_of(ctx),
        lambda client: client.vms.all(server),
        vm_table,
        as_json=as_json,
        watch=KINDS if watch else (),
    )


@app.command(
    epilog="""Examples:

  fallow vm show srv1-vm
  fallow vm show srv1-vm --json"""
)
def show(ctx: typer.Context, name: VmName, as_json: Json = False) -> None:
    """Show one virtual machine and what runs on it."""
    with session_of(ctx).client() as client:
        view = client.vms.one(name)
        if as_json:
            output.write_json(view)
            return
        output.show(_described(view))
        held = client.replicas(node=view.node).items if view.node else ()
    running = [each for each in held if each.state not in ENDED]
    if running:
        output.write("")
        output.show(replica_table(running))


def _described(view: VmView) -> Table:
    use = view.use
    return output.facts(
        (
            ("name", view.name),
            ("id", view.id),
            ("server", view.server),
            ("state", Text.assemble(state(view), f" for {output.age(view.state_since)}")),
            ("problem", view.problem),
            ("wanted", view.wanted.value),
            ("isolation", view.isolation),
            ("size", f"{view.cpus:g} processors, {format_bytes(view.memory_bytes)}"),
            ("disk", format_bytes(view.disk_bytes)),
            ("cpus", f"{cpus(view)}, waits {use.throttled:.0%} of the time" if use is not None else ""),
            (
                "memory",
                f"{format_bytes(use.memory_bytes)} of {format_bytes(use.memory_limit_bytes)} that it may have now"
                if use is not None
                else "",
            ),
            ("image", view.image),
            ("made", f"{output.clock(view.created_at)}, {'by policy' if view.automatic else 'by hand'}"),
            ("node", view.node),
            ("replicas", view.replicas),
        )
    )


@app.command(
    epilog="""Examples:

  fallow vm create srv1
  fallow vm create srv1 --name batch-1 --cpus 4 --memory 8GiB
  fallow vm create srv1 --image debian-12 --disk 40GiB"""
)
def create(
    ctx: typer.Context,
    server: Annotated[
        str, typer.Argument(metavar="SERVER", help="The server it is made on.", autocompletion=completion.servers)
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What it is called.", show_default="made from the server's")
    ] = "",
    cpus: Annotated[
        float,
        typer.Option("--cpus", min=0, metavar="CPUS", help="Its processors.", show_default="as the policy says"),
    ] = 0,
    memory: Annotated[
        str, typer.Option("--memory", metavar="BYTES", help="Its memory, as 8GiB.", show_default="as the policy says")
    ] = "",
    disk: Annotated[
        str, typer.Option("--disk", metavar="BYTES", help="Its disk, as 20GiB.", show_default="as the policy says")
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            "--image",
            metavar="IMAGE",
            help="A name that the server knows, or a path on it.",
            show_default="as the policy says",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Make a virtual machine on a server; it joins as a node by itself."""
    request = VmRequest(
        server=server,
        name=name,
        cpus=cpus,
        memory_bytes=amount("--memory", memory) or 0,
        disk_bytes=amount("--disk", disk) or 0,
        image=image,
    )
    with session_of(ctx).client() as client:
        _tell(client.vms.create(request), as_json)


@app.command(
    epilog="""Examples:

  fallow vm resize srv1-vm --cpus 8
  fallow vm resize srv1-vm --memory 12GiB"""
)
def resize(
    ctx: typer.Context,
    name: VmName,
    cpus: Annotated[
        float | None, typer.Option("--cpus", min=0, metavar="CPUS", help="Its processors.", show_default=False)
    ] = None,
    memory: Memory = "",
    as_json: Json = False,
) -> None:
    """Give a virtual machine another size, never below what is placed on it; the policy leaves it so from then on."""
    if cpus is None and not memory:
        raise usage("There is nothing to change", "Give --cpus, --memory, or both.")
    with session_of(ctx).client() as client:
        _tell(client.vms.change(name, VmChange(cpus=cpus, memory_bytes=amount("--memory", memory))), as_json)


@app.command(epilog="Example:\n\n  fallow vm stop srv1-vm")
def stop(ctx: typer.Context, name: VmName, as_json: Json = False) -> None:
    """Stop a virtual machine once what it holds has moved; with its disk kept, it starts again as the same node."""
    with session_of(ctx).client() as client:
        _tell(client.vms.change(name, VmChange(wanted="stopped")), as_json)


@app.command(epilog="Example:\n\n  fallow vm start srv1-vm")
def start(ctx: typer.Context, name: VmName, as_json: Json = False) -> None:
    """Run a virtual machine again that was stopped or drained."""
    with session_of(ctx).client() as client:
        _tell(client.vms.change(name, VmChange(wanted="running", draining=False)), as_json)


def _tell(view: VmView, as_json: bool) -> None:
    if as_json:
        output.write_json(view)
        return
    size = f"{view.cpus:g} processors, {format_bytes(view.memory_bytes)}"
    wish = {VmWish.RUNNING: "is to run", VmWish.STOPPED: "is to stop", VmWish.ABSENT: "is to go"}[view.wanted]
    if view.replicas and view.wanted is not VmWish.RUNNING:
        wish += f" once {output.count(view.replicas, 'replica')} moved away"
    output.write(f"{output.clean(view.name)} on {output.clean(view.server)}: {size}, {wish}, is {view.state.value}")
