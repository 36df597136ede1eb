"""Images from a file: taken in once, and brought to nodes by jobs."""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromQuery, HeaderParameter, QueryParameter
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.commits import commit_again
from fallow.control.refusals import refuse
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.drivers.archives import ArchiveError
from fallow.model.image_archives import LoadedArchive
from fallow.model.image_jobs import ImageAction, ImageJob, ImageTarget
from fallow.model.images import ResolvedImage
from fallow.model.tokens import ApiRole

PATH = "/v1/image-archives"
MAX_BODY = 32 * 1024**3

Parallel = Annotated[str, QueryParameter(pattern=r"^[1-9][0-9]{0,4}%?$", max_length=6)]
MAX_TARGET = 4000  # characters, of up to twelve bytes each in a URL, which has to fit into 64 KiB
Target = Annotated[str, QueryParameter(max_length=MAX_TARGET)]
Key = Annotated[str, HeaderParameter(name="Idempotency-Key", max_length=128)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of image archives."""
    operator = [guards[ApiRole.OPERATOR]]
    answers = problems(404, 422, 507, body=True)
    return (
        post(PATH, guards=operator, request_max_body_size=MAX_BODY, responses=answers)(load_archive),
        get(PATH + "/reach", guards=operator, responses=problems(404))(read_reach),
    )


async def load_archive(
    services: Needs,
    request: Request[Any, Any, Any],
    target: Target = "{}",
    parallel: Parallel = "20",
    canary: FromQuery[bool] = False,
    key: Key = "",
) -> LoadedArchive:
    """Take in what `docker save` or `podman save` wrote, as the body, and bring its images to nodes.

    `target` is JSON, as in an image job: `{"names": [...]}`, or `{"selector": "role=web", "percent": 50}`. The same key
    brings them only once. Nodes fetch from here once and from each other after that; with `canary` one node is first,
    then a tenth, then the rest.
    """
    actor = actor_of(request)
    meant = _target(target)
    nodes = tuple(node.name for node in services.image_requests.meant(meant))  # refused before all of it is sent
    try:
        images = await services.archives.store(request.stream())
    except ArchiveError as error:
        raise refuse(
            422, "bad-archive", "Not a usable archive of images", str(error),
            "docker save NAME:TAG -o app.tar, or podman save --format oci-archive, write one",
        ) from None  # fmt: skip
    except OSError as error:
        raise refuse(507, "no-space", "The file cannot be kept", str(error.strerror)) from None
    now = services.clock()
    jobs = [
        ImageJob(
            id=f"i-{_hash(actor, key or services.new_id(), image)}",
            created_at=now,
            updated_at=now,
            action=ImageAction.LOAD,
            reference=image.reference,
            image=image,
            target=meant,
            instruction=f"image load {image.reference} --on {','.join(meant.names) or meant.selector or 'all'}"[:2048],
            parallel=parallel,
            canary=canary,
            created_by=actor,
        )
        for image in images
    ]
    await commit_again(services.applier, lambda: (_step(services, jobs, actor), None))
    blobs = {
        blob.digest: blob.size_bytes
        for image in images
        for platform in image.platforms
        for blob in (platform.manifest, *platform.layers)
    }
    return LoadedArchive(images=images, jobs=tuple(job.id for job in jobs), size_bytes=sum(blobs.values()), nodes=nodes)


async def read_reach(services: Needs, target: Target = "{}") -> LoadedArchive:
    """Tell whom an archive with this target would reach now, without an archive."""
    return LoadedArchive(nodes=tuple(node.name for node in services.image_requests.meant(_target(target))))


def _target(text: str) -> ImageTarget:
    """Return whom it is for. Raises Refused."""
    try:
        return msgspec.json.decode(text, type=ImageTarget)
    except (msgspec.DecodeError, RecursionError) as error:
        raise refuse(400, "bad-request", "Which nodes?", f"the target cannot be read: {error}") from None


def _step(services: Needs, jobs: Sequence[ImageJob], actor: str) -> Step | None:
    """Store those jobs that are not there yet, with an event for each."""
    fresh = [job for job in jobs if services.cache.get("image-jobs", job.id) is None]
    told = [
        event(
            services.new_id(), job.created_at, actor, "image-job", job.id, job.id, "ImageJobCreated",
            f"image job {job.id}: {job.instruction}",
        )
        for job in fresh
    ]  # fmt: skip
    return Step(puts=(*fresh, *told)) if fresh else None


def _hash(actor: str, key: str, image: ResolvedImage) -> str:
    return hashlib.sha256(msgspec.json.encode((actor, key, image.reference, image.digest))).hexdigest()[:20]
