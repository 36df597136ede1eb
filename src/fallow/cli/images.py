"""`fallow image`: pull, update, delete and clean images on a node or on all that a selector picks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from fallow.cli import completion, image_archives, image_jobs, image_schedules, output
from fallow.cli.failures import Exit, Failure
from fallow.cli.image_how import Attempts, How, Parallel, WaitForNodes, takes_how
from fallow.cli.image_progress import follow, summary
from fallow.cli.image_targets import On
from fallow.cli.options import Json, seconds
from fallow.cli.session import session_of
from fallow.model.image_jobs import CleanRules, ImageAction, JobState
from fallow.model.image_requests import DriftView, ImageJobRequest, ImageJobView, ImageTaskView, ImageView
from fallow.model.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from fallow.client.api import Client

app = typer.Typer(no_args_is_help=True, help="Pull, update, delete and clean images on nodes, and see who has which.")
app.add_typer(image_jobs.app, name="job")
app.add_typer(image_schedules.app, name="schedule")
app.command(epilog=image_archives.EPILOG)(image_archives.load)

Reference = Annotated[
    str,
    typer.Argument(metavar="REFERENCE", help="The image, such as nginx:1.27.", autocompletion=completion.images),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would happen.")]
Detach = Annotated[bool, typer.Option("--detach", help="Do not wait for the end.", rich_help_panel="Output")]


@app.command(
    epilog="""Examples:

  fallow image pull nginx:1.27 --on role=web --parallel 20
  fallow image pull shop/api:prod --on 10%:zone=a --strategy canary
  fallow image pull shop/api@sha256:4f5e... --on web-1,web-2 --detach --json"""
)
@takes_how
def pull(
    ctx: typer.Context,
    reference: Reference,
    on: On = "",
    *,
    how: How,
    dry_run: DryRun = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Pull an image on nodes; its reference is resolved once, and every node gets exactly that."""
    _run(ctx, how.request(ImageAction.PULL, reference, on, dry_run=dry_run), detach=detach, as_json=as_json)


@app.command(
    epilog="""Examples:

  fallow image update shop/api:prod --on zone=a --strategy canary
  fallow image update shop/api:prod --on all --roll"""
)
@takes_how
def update(
    ctx: typer.Context,
    reference: Reference,
    on: On = "",
    roll: Annotated[
        bool,
        typer.Option(
            "--roll",
            help="Once every node has it, renew the replicas of deployments that use it, one portion at a time.",
        ),
    ] = False,
    *,
    how: How,
    dry_run: DryRun = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Ask what a tag stands for now, and pull where a node has something else."""
    request = how.request(ImageAction.UPDATE, reference, on, dry_run=dry_run)
    _run(ctx, msgspec.structs.replace(request, roll=roll), detach=detach, as_json=as_json)


@app.command(
    epilog="""Examples:

  fallow image delete shop/api:old --on all --dry-run
  fallow image delete shop/api:old --on role=web
  fallow image delete nginx:1.25 --on web-1 --json"""
)
def delete(
    ctx: typer.Context,
    reference: Reference,
    on: On = "",
    parallel: Parallel = "50",
    attempts: Attempts = 3,
    wait_for_nodes: WaitForNodes = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Delete an image by its name; never one that is in use, protected, or needed by a deployment."""
    how = How(parallel=parallel, attempts=attempts, wait_for_nodes=wait_for_nodes, max_failures="100%")
    _run(ctx, how.request(ImageAction.DELETE, reference, on, dry_run=dry_run), detach=detach, as_json=as_json)


@app.command(
    epilog="""Examples:

  fallow image clean --on 'disk.free<20GiB' --keep 'shop/*' --unused-for 7d --until-free 40GiB
  fallow image clean --on all --keep-versions 3 --dry-run"""
)
def clean(
    ctx: typer.Context,
    on: On = "",
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN", help="Images that stay, with * and ?; may be repeated."),
    ] = None,
    unused_for: Annotated[
        str, typer.Option("--unused-for", metavar="DURATION", help="Only what nothing has needed for so long.")
    ] = "24h",
    until_free: Annotated[
        str, typer.Option("--until-free", metavar="BYTES", help="Stop once so much is free.", show_default=False)
    ] = "0",
    keep_versions: Annotated[
        int, typer.Option("--keep-versions", min=0, max=1000, help="The newest tags of each repository that stay.")
    ] = 0,
    dangling: Annotated[
        bool, typer.Option("--dangling/--no-dangling", help="Also images that have no name any more.")
    ] = True,
    parallel: Parallel = "50",
    wait_for_nodes: WaitForNodes = False,
    dry_run: DryRun = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Delete images that nobody needs, those unused longest first."""
    how = How(parallel=parallel, wait_for_nodes=wait_for_nodes, max_failures="100%")
    rules = CleanRules(
        keep=tuple(keep or ()),
        unused_for_seconds=seconds(unused_for),
        until_free_bytes=_bytes(until_free),
        keep_versions=keep_versions,
        dangling=dangling,
    )
    request = how.request(ImageAction.CLEAN, "", on, dry_run=dry_run)
    _run(ctx, msgspec.structs.replace(request, rules=rules), detach=detach, as_json=as_json)


@app.command(
    "list",
    epilog="""Examples:

  fallow image list
  fallow image list --node web-1
  fallow image list --image nginx --json""",
)
def list_(
    ctx: typer.Context,
    node: Annotated[
        str,
        typer.Option("--node", metavar="NAME", help="Only of this node.", show_default=False,
                     autocompletion=completion.members),
    ] = "",
    image: Annotated[
        str,
        typer.Option("--image", metavar="IMAGE", help="Only this one: a reference, an id or a digest.",
                     show_default=False, autocompletion=completion.images),
    ] = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """List images by what they are, with the nodes that have each."""
    with session_of(ctx).client() as client:
        if node:
            _show_node(client, node, as_json=as_json)
            return
        found = client.images.images(image)
    if as_json:
        output.write_json(found)
    else:
        output.show(_images(found.items))


@app.command(epilog="Examples:\n\n  fallow image drift\n  fallow image drift --resolve --json")
def drift(
    ctx: typer.Context,
    resolve: Annotated[bool, typer.Option("--resolve", help="Ask the registries what tags stand for now.")] = False,
    as_json: Json = False,
) -> None:
    """List nodes that have another image than a tag stands for, or lack one they pulled. Exit code 1 when there are."""
    with session_of(ctx).client() as client:
        found = client.images.drift(resolve=resolve)
    if as_json:
        output.write_json(found)
    elif found.items:
        output.show(_drift(found.items))
    else:
        output.write("Every node has what it should.")
    if found.items:
        raise typer.Exit(Exit.FAILED)


def _run(ctx: typer.Context, request: ImageJobRequest, *, detach: bool, as_json: bool) -> None:
    with session_of(ctx).client() as client:
        job = client.images.create_job(request)
        if not job.id:
            _tell_reach(job, as_json=as_json)
            return
        if detach:
            if as_json:
                output.write_json(job)
            else:
                output.write(f"{job.id}: begun on {job.counts.nodes} nodes; fallow image job show {job.id}")
            return
        try:
            job, tasks = follow(client, job)
        except KeyboardInterrupt:
            output.note(f"{job.id} goes on: fallow image job show {job.id}, fallow image job cancel {job.id}")
            raise
        tell_end(job, tasks, as_json=as_json)


def tell_end(job: ImageJobView, tasks: Sequence[ImageTaskView], *, as_json: bool) -> None:
    """Print what came of a job. Raises typer.Exit when not every node did what it should."""
    if as_json:
        output.write_json({"job": job, "tasks": list(tasks)})
    else:
        for part in summary(job, tasks):
            output.show(part)
        for path in job.renewed:
            output.write(f"{path}: its replicas are renewed")
    if job.state is not JobState.COMPLETED or job.counts.failed:
        raise typer.Exit(Exit.FAILED)


def _tell_reach(job: ImageJobView, *, as_json: bool) -> None:
    if as_json:
        output.write_json(job)
        return
    what = f"{job.reference} ({job.digest[:19]}...)" if job.digest else job.reference
    output.write(f"would {job.action} {what} on {len(job.nodes)} nodes:")
    for name in job.nodes:
        output.write(f"  {output.clean(name)}")
    for path in job.renewed:
        output.write(f"would then renew {path}")


def _show_node(client: "Client", node: str, *, as_json: bool) -> None:
    found = client.images.of_nodes(node)
    if as_json:
        output.write_json(found)
        return
    for each in found.items:
        output.show(
            output.rows(
                output.table("IMAGE", "ID", "SIZE", "CONTAINERS", "LAST NEEDED"),
                (
                    (", ".join(image.references), image.id.removeprefix("sha256:")[:12],
                     format_bytes(image.size_bytes), image.containers or "", output.age(image.last_needed_at))
                    for image in each.images
                ),
            )
        )  # fmt: skip
        free = f", {format_bytes(each.disk_free_bytes)} free" if each.disk_free_bytes else ""
        output.write(f"{len(each.images)} images on {each.node}{free}, as seen {output.age(each.seen_at)} ago")
    if not found.items:
        output.write(f"{output.clean(node)} has not told yet what it has.")


def _images(found: Sequence[ImageView]) -> Table:
    return output.rows(
        output.table("IMAGE", "ID", "SIZE", "SHARED LAYERS", "NODES", "IN USE ON"),
        (
            (", ".join(each.references), each.id.removeprefix("sha256:")[:12], format_bytes(each.size_bytes),
             f"{each.shared_layers} of {each.layers}" if each.layers else "", _few(each.nodes), _few(each.in_use_on))
            for each in found
        ),
    )  # fmt: skip


def _drift(found: Sequence[DriftView]) -> Table:
    return output.rows(
        output.table("NODE", "REFERENCE", "WHAT", "SHOULD BE", "IS", "BECAUSE OF"),
        (
            (each.node, each.reference, each.kind, each.wanted[:19], each.found[:19], each.because)
            for each in found
        ),
    )  # fmt: skip


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)}: {', '.join(names[:3])} ..."


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise Failure(str(error), code=Exit.USAGE) from None
