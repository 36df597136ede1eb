"""`fallow image job`: what was asked of nodes, how far it is, and what came of it."""

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from rich.table import Table

from fallow.cli import completion, output
from fallow.cli.failures import Exit
from fallow.cli.image_progress import counted, follow, summary
from fallow.cli.options import Json, seconds
from fallow.cli.session import session_of
from fallow.cli.watching import show_list
from fallow.model.image_jobs import JobState
from fallow.model.image_requests import ImageJobView

app = typer.Typer(no_args_is_help=True, help="See, pause, cancel and repeat image jobs, and read their record.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=completion.image_jobs)]
Node = Annotated[
    str,
    typer.Option("--node", metavar="NAME", help="Only of this node.", show_default=False,
                 autocompletion=completion.members),
]  # fmt: skip
Since = Annotated[
    str, typer.Option("--since", metavar="DURATION", help="Only of the last 2h, 7d ...", show_default=False)
]
State = Annotated[
    str,
    typer.Option("--state", metavar="STATE", help="working, waiting, done, failed or cancelled.", show_default=False),
]
Image = Annotated[
    str,
    typer.Option("--image", metavar="IMAGE", help="Only of this image: a reference, an id or a digest.",
                 show_default=False, autocompletion=completion.images),
]  # fmt: skip


@app.command("list", epilog="Examples:\n\n  fallow image job list\n  fallow image job list --state running --json")
def list_(
    ctx: typer.Context,
    state: Annotated[
        str, typer.Option("--state", metavar="STATE", help="Only in this state.", show_default=False)
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay, and show every change.")] = False,
    as_json: Json = False,
) -> None:
    """List image jobs, newest first."""
    show_list(
        session_of(ctx),
        lambda client: client.images.jobs(state),
        _table,
        as_json=as_json,
        watch=("image-jobs", "image-tasks") if watch else (),
    )


def _table(found: Sequence[ImageJobView]) -> Table:
    return output.rows(
        output.table("JOB", "AGE", "ACTION", "IMAGE", "STATE", "NODES", "BY"),
        (
            (each.id, output.age(each.created_at), each.action, each.reference, each.state, counted(each),
             each.created_by)
            for each in found
        ),
    )  # fmt: skip


@app.command(epilog="Examples:\n\n  fallow image job show i-4k2m7xq\n  fallow image job show i-4k2m7xq --follow")
def show(
    ctx: typer.Context,
    job_id: JobId,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show one job and what became of it on every node."""
    with session_of(ctx).client() as client:
        job = client.images.job(job_id)
        if follow_ and not as_json:
            job, tasks = follow(client, job)
        else:
            tasks = list(client.images.all_tasks({"job": job.id}))
    if as_json:
        output.write_json({"job": job, "tasks": tasks})
        return
    output.show(
        output.facts(
            (
                ("job", job.id),
                ("instruction", job.instruction),
                ("asked by", f"{job.created_by}, {output.clock(job.created_at)}"),
                ("image", job.reference),
                ("digest", job.digest),
                ("deployment", job.deployment),
                ("schedule", job.schedule),
                ("state", job.state),
                ("nodes", counted(job)),
                ("ended", output.clock(job.ended_at) if job.ended_at else ""),
            )
        )
    )
    for part in summary(job, tasks):
        output.show(part)


@app.command(
    epilog="""Examples:

  fallow image job logs i-4k2m7xq
  fallow image job logs --node web-1 --since 2h
  fallow image job logs --state failed --image nginx:1.27 --json"""
)
def logs(
    ctx: typer.Context,
    job_id: Annotated[
        str,
        typer.Argument(metavar="[JOB]", help="The job's id; none: of every job.", autocompletion=completion.image_jobs),
    ] = "",
    node: Node = "",
    since: Since = "",
    state: State = "",
    image: Image = "",
    as_json: Json = False,
) -> None:
    """Show what happened on each node, line by line, with the engine's own words."""
    with session_of(ctx).client() as client:
        found = list(client.images.all_tasks(_filters(job_id, node, since, state, image)))
    if as_json:
        output.write_json(found)
        return
    for task in reversed(found):
        for line in task.log:
            output.write(output.clean(f"{task.node} {task.job_id} | {line}"))


@app.command(
    epilog="""Examples:

  fallow image job export --since 30d > record.json
  fallow image job export --format csv --state failed > failed.csv"""
)
def export(
    ctx: typer.Context,
    format_: Annotated[Literal["json", "csv"], typer.Option("--format", help="What to write.")] = "json",
    node: Node = "",
    since: Since = "",
    state: State = "",
    image: Image = "",
) -> None:
    """Write the record of all instructions to standard output."""
    with session_of(ctx).client() as client:
        text = client.images.export(format_, _filters("", node, since, state, image))
    sys.stdout.write(text)


@app.command(epilog="Example:\n\n  fallow image job pause i-4k2m7xq")
def pause(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Begin with no further node; those at work go on."""
    _change(ctx, job_id, "pause", as_json=as_json)


@app.command(epilog="Example:\n\n  fallow image job resume i-4k2m7xq")
def resume(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Go on with a job that is paused."""
    _change(ctx, job_id, "resume", as_json=as_json)


@app.command(epilog="Example:\n\n  fallow image job cancel i-4k2m7xq")
def cancel(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """End a job; nodes stop in the middle of what they do for it."""
    _change(ctx, job_id, "cancel", as_json=as_json)


@app.command(epilog="Examples:\n\n  fallow image job retry i-4k2m7xq\n  fallow image job retry i-4k2m7xq --follow")
def retry(
    ctx: typer.Context,
    job_id: JobId,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Let the nodes that failed, and only those, try again."""
    _change(ctx, job_id, "retry", as_json=as_json)
    if follow_:
        with session_of(ctx).client() as client:
            job, tasks = follow(client, client.images.job(job_id))
        for part in summary(job, tasks):
            output.show(part)
        if job.state is not JobState.COMPLETED or job.counts.failed:
            raise typer.Exit(Exit.FAILED)


def _change(ctx: typer.Context, job_id: str, change: str, *, as_json: bool) -> None:
    with session_of(ctx).client() as client:
        job = client.images.change_job(job_id, change)
    if as_json:
        output.write_json(job)
    else:
        output.write(f"{job.id} is {job.state}: {counted(job)}")


def _filters(job: str, node: str, since: str, state: str, image: str) -> dict[str, str]:
    begin = f"{time.time() - seconds(since):.3f}" if since else ""
    given = {"job": job, "node": node, "since": begin, "state": state, "image": image}
    return {key: value for key, value in given.items() if value}
