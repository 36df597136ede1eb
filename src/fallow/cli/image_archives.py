"""`fallow image load`: images from a file, for nodes that reach no registry."""

from pathlib import Path
from typing import Annotated

import typer

from fallow.cli import output
from fallow.cli.failures import Exit, usage
from fallow.cli.image_how import InWaves, Parallel
from fallow.cli.image_progress import follow, summary
from fallow.cli.image_targets import On, target_of
from fallow.cli.options import Json
from fallow.cli.session import session_of
from fallow.model.image_archives import LoadedArchive
from fallow.model.image_jobs import JobState
from fallow.model.units import format_bytes

EPILOG = """Examples:

  docker save shop/api:2 -o api.tar && fallow image load api.tar --on role=web
  podman save --format oci-archive shop/api:2 -o api.tar && fallow image load api.tar --on all --strategy canary"""


def load(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="What docker or podman saved."),
    ],
    on: On = "",
    parallel: Parallel = "20",
    strategy: InWaves = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell whom it would reach; nothing is sent.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    as_json: Json = False,
) -> None:
    """Send images in a file to the control plane once, and bring them to nodes as if they were pulled."""
    target = target_of(on)
    with session_of(ctx).client() as client:
        if dry_run:
            _tell_reach(file, client.image_archives.reach(target), as_json=as_json)
            return
        try:
            loaded = client.image_archives.load(file, target, parallel=parallel, canary=strategy == "canary")
        except OSError as error:
            raise usage(f"{file} cannot be read: {error.strerror}") from None
        if as_json and detach:
            output.write_json(loaded)
            return
        output.note(f"{format_bytes(loaded.size_bytes)} kept by the control plane")
        for image, job_id in zip(loaded.images, loaded.jobs, strict=True):
            output.note(f"{image.reference}: job {job_id}")
        if detach:
            return
        ended = [follow(client, client.images.job(job_id)) for job_id in loaded.jobs]
    if as_json:
        output.write_json({"jobs": [job for job, _ in ended], "tasks": [task for _, tasks in ended for task in tasks]})
    else:
        for job, tasks in ended:
            for part in summary(job, tasks):
                output.show(part)
    if any(job.state is not JobState.COMPLETED or job.counts.failed for job, _ in ended):
        raise typer.Exit(Exit.FAILED)


def _tell_reach(file: Path, found: LoadedArchive, *, as_json: bool) -> None:
    if as_json:
        output.write_json(found)
        return
    output.write(
        f"would load {output.clean(str(file))} ({format_bytes(file.stat().st_size)}) on {len(found.nodes)} nodes:"
    )
    for name in found.nodes:
        output.write(f"  {output.clean(name)}")
