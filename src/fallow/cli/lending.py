"""`fallow server-pool policy`: how the servers of a pool lend."""

import re
from typing import Annotated, Literal

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.failures import usage
from fallow.cli.options import Json, seconds
from fallow.cli.session import session_of
from fallow.model.server_pools import (
    DEFAULT_POOL,
    LendingChange,
    LendingPolicy,
    ServerPoolChange,
    ServerPoolView,
    VmPlanChange,
)
from fallow.model.units import format_bytes, format_duration, parse_bytes

ALWAYS = "always"
_NUMBER = re.compile(r"\d+(\.\d+)?")
PREDICTORS = ("auto", "learned margin", "fixed 40", "mean+3sd", "mean+5sd", "1.1*p95")  # for completion alone

Pool = Annotated[str, typer.Argument(metavar="NAME", help="The server pool.", autocompletion=completion.server_pools)]
PolicyOf = Annotated[
    str, typer.Argument(metavar="[NAME]", help="The server pool.", autocompletion=completion.server_pools)
]

CpuThreshold = Annotated[
    str, typer.Option(metavar="SHARE", help="Nothing is placed above it, as 65%.", show_default=False)
]
CpuCeiling = Annotated[str, typer.Option(metavar="SHARE", help="What is lent is held below it.", show_default=False)]
MemoryThreshold = Annotated[str, typer.Option(metavar="SHARE", help="Nothing is placed above it.", show_default=False)]
MemoryCeiling = Annotated[
    str, typer.Option(metavar="SHARE", help="What is lent leaves when memory is above it.", show_default=False)
]
Reserve = Annotated[
    str,
    typer.Option(metavar="CPUS,BYTES", help="Kept free beside what is expected, as 2cpu,4GiB.", show_default=False),
]
Cache = Annotated[
    str,
    typer.Option(
        metavar="SHARE",
        help="Of the processors' last cache that what is lent may fill, where the kernel has resctrl; 100%: not held.",
        show_default=False,
    ),
]
MemoryBandwidth = Annotated[
    str,
    typer.Option(
        metavar="SHARE",
        help="Of memory bandwidth that it may use, where the kernel has resctrl; 100%: not held.",
        show_default=False,
    ),
]
Hours = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOURS", help="When it lends, as '20:00-07:00' or 'mon-fri 20:00-07:00'; may be repeated. always."
    ),
]
Timezone = Annotated[str, typer.Option(metavar="ZONE", help="Of those hours, as Europe/Berlin.", show_default=False)]
Predictor = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What foretells the primary's need; auto: what would have been best on each server.",
        show_default=False,
        autocompletion=lambda: list(PREDICTORS),
    ),
]
Isolation = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="vm: virtual machines. cgroup: a control group.",
        show_default=False,
        autocompletion=lambda: ["vm", "cgroup"],
    ),
]
Vms = Annotated[
    int | None, typer.Option(min=0, max=64, metavar="N", help="How many are made on each server.", show_default=False)
]
VmCpus = Annotated[
    float | None,
    typer.Option(min=0, help="Processors of each; 0: what is lent.", metavar="CPUS", show_default=False),
]
VmMemory = Annotated[str, typer.Option(metavar="BYTES", help="Memory of each; 0: what is lent.", show_default=False)]
VmDisk = Annotated[str, typer.Option(metavar="BYTES", help="Disk of each.", show_default=False)]
VmImage = Annotated[
    str, typer.Option(metavar="IMAGE", help="A name that servers know, or a path on them.", show_default=False)
]
EvictAfter = Annotated[
    str,
    typer.Option(metavar="DURATION", help="So long may replicas get too little before they move.", show_default=False),
]
MoveWithin = Annotated[
    str, typer.Option(metavar="DURATION", help="So long may a replacement take.", show_default=False)
]
Backoff = Annotated[
    str,
    typer.Option(metavar="DURATION", help="So long gets a server nothing that sent replicas away.", show_default=False),
]
Lend = Annotated[bool | None, typer.Option("--lend/--no-lend", help="Lend at all.", show_default=False)]

app = typer.Typer(no_args_is_help=True, help="See and change how the servers of a pool lend.")


@app.command(
    epilog="""Examples:

  fallow server-pool policy show
  fallow server-pool policy show night --json"""
)
def show(ctx: typer.Context, name: PolicyOf = DEFAULT_POOL, as_json: Json = False) -> None:
    """Show how the servers of a pool lend."""
    with session_of(ctx).client() as client:
        tell(client.server_pools.one(name), as_json)


@app.command(
    "set",
    epilog="""Examples:

  fallow server-pool policy set --cpu-threshold 65% --cpu-ceiling 80%
  fallow server-pool policy set default --reserve 2cpu,4GiB --predictor auto
  fallow server-pool policy set --cache 20% --memory-bandwidth 30%
  fallow server-pool policy set night --hours '20:00-07:00' --hours 'sat,sun 00:00-24:00' --timezone Europe/Berlin
  fallow server-pool policy set night --hours always
  fallow server-pool policy set lab --vms 2 --vm-cpus 4 --vm-memory 8GiB --vm-image default
  fallow server-pool policy set lab --no-lend""",
)
def set_(
    ctx: typer.Context,
    name: PolicyOf = DEFAULT_POOL,
    cpu_threshold: CpuThreshold = "",
    cpu_ceiling: CpuCeiling = "",
    memory_threshold: MemoryThreshold = "",
    memory_ceiling: MemoryCeiling = "",
    reserve: Reserve = "",
    cache: Cache = "",
    memory_bandwidth: MemoryBandwidth = "",
    hours: Hours = None,
    timezone: Timezone = "",
    predictor: Predictor = "",
    isolation: Isolation = "",
    vms: Vms = None,
    vm_cpus: VmCpus = None,
    vm_memory: VmMemory = "",
    vm_disk: VmDisk = "",
    vm_image: VmImage = "",
    evict_after: EvictAfter = "",
    move_within: MoveWithin = "",
    backoff: Backoff = "",
    lend: Lend = None,
    as_json: Json = False,
) -> None:
    """Change how the servers of a pool lend; what is not named stays. They follow within seconds.

    A threshold is always below its ceiling. The pool default need not be created.
    """
    cpus, memory = _reserve(reserve) if reserve else (None, None)
    plan = VmPlanChange(
        count=vms,
        cpus=vm_cpus,
        memory_bytes=amount("--vm-memory", vm_memory),
        disk_bytes=amount("--vm-disk", vm_disk),
        image=vm_image or None,
    )
    wish = LendingChange(
        lends=lend,
        cpu_threshold=_share("--cpu-threshold", cpu_threshold),
        cpu_ceiling=_share("--cpu-ceiling", cpu_ceiling),
        memory_threshold=_share("--memory-threshold", memory_threshold),
        memory_ceiling=_share("--memory-ceiling", memory_ceiling),
        reserve_cpus=cpus,
        reserve_memory_bytes=memory,
        cache_share=_share("--cache", cache),
        memory_bandwidth_share=_share("--memory-bandwidth", memory_bandwidth),
        hours=_hours(hours),
        timezone=timezone or None,
        predictor=predictor or None,
        isolation=_isolation(isolation),
        vms=plan if plan != VmPlanChange() else None,
        evict_after_seconds=seconds(evict_after) if evict_after else None,
        move_seconds=seconds(move_within) if move_within else None,
        backoff_seconds=seconds(backoff) if backoff else None,
    )
    if wish == LendingChange():
        raise usage("There is nothing to change", "Name at least one setting; --help shows them all.")
    with session_of(ctx).client() as client:
        tell(client.server_pools.change(name, ServerPoolChange(policy=wish)), as_json)


def tell(pool: ServerPoolView, as_json: bool) -> None:
    """Print how a pool lends."""
    if as_json:
        output.write_json(pool)
    else:
        output.show(policy_facts(pool.policy))


def policy_facts(policy: LendingPolicy) -> Table:
    """Return a policy, one setting a line."""
    plan = policy.vms
    size = ", ".join(
        (
            f"{plan.cpus:g} processors" if plan.cpus else "as many processors as are lent",
            f"{format_bytes(plan.memory_bytes)} of memory" if plan.memory_bytes else "as much memory as is lent",
            f"{format_bytes(plan.disk_bytes)} of disk",
        )
    )
    return output.facts(
        (
            ("lends", "yes" if policy.lends else "no"),
            ("processors", f"placed below {policy.cpu_threshold:.0%}, held below {policy.cpu_ceiling:.0%}"),
            ("memory", f"placed below {policy.memory_threshold:.0%}, held below {policy.memory_ceiling:.0%}"),
            ("reserve", f"{policy.reserve_cpus:g} processors, {format_bytes(policy.reserve_memory_bytes)}"),
            ("cache", f"{policy.cache_share:.0%}, and {policy.memory_bandwidth_share:.0%} of memory bandwidth"),
            ("hours", f"{' and '.join(policy.hours)} ({policy.timezone})" if policy.hours else ALWAYS),
            ("predictor", policy.predictor),
            ("isolation", policy.isolation),
            ("vms", f"{plan.count} on each server" + (f": {size}, image {plan.image}" if plan.count else "")),
            ("evict after", format_duration(policy.evict_after_seconds)),
            ("move within", format_duration(policy.move_seconds)),
            ("back off", format_duration(policy.backoff_seconds)),
        )
    )


def amount(option: str, text: str) -> int | None:
    """Read an amount of bytes; None for nothing. Raises Failure."""
    if not text:
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise usage(f"{option}: {error}") from None


def _share(option: str, text: str) -> float | None:
    """Read `65%` or `0.65` as a share. Raises Failure."""
    if not text:
        return None
    try:
        found = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 < found <= 1:
        raise usage(f"{option}: {text!r} is not a share", "Write it as 65% or 0.65.")
    return round(found, 6)


def _reserve(text: str) -> tuple[float | None, int | None]:
    """Read `2cpu,4GiB`, or one of them. Raises Failure."""
    cpus: float | None = None
    memory: int | None = None
    for part in (piece.strip() for piece in text.split(",")):
        number = part.lower().removesuffix("s").removesuffix("cpu")
        if number != part.lower().removesuffix("s") and cpus is None:
            if not _NUMBER.fullmatch(number):
                raise usage(f"--reserve: {part!r} is not a number of processors", "Write it as 2cpu,4GiB.")
            cpus = float(number)
        elif part and memory is None:
            memory = amount("--reserve", part)
        else:
            raise usage(f"--reserve: {text!r} is not a reserve", "Write it as 2cpu,4GiB.")
    return cpus, memory


def _hours(texts: list[str] | None) -> tuple[str, ...] | None:
    if not texts:
        return None
    found = tuple(text.strip().lower() for text in texts)
    if ALWAYS in found and len(found) > 1:
        raise usage("--hours always stands alone", "Give it once, or give the hours.")
    return () if found == (ALWAYS,) else found


def _isolation(text: str) -> Literal["vm", "cgroup"] | None:
    match text:
        case "":
            return None
        case "vm" | "cgroup":
            return text
    raise usage(f"{text!r} is no way to isolate", "Choose vm or cgroup.")
