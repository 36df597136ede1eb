"""Image jobs: asking for one, watching, pausing, cancelling, trying again."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody, QueryParameter
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import ImageJobList, ImageTaskList
from fallow.api.problems import problems
from fallow.api.routes.image_tasks import After, Filter, InState, Limit, page_of
from fallow.api.services import Needs
from fallow.control.image_requests import job_called
from fallow.decide.image_records import Wanted
from fallow.decide.image_renewals import to_renew
from fallow.decide.image_views import job_view
from fallow.model.image_jobs import ImageAction, ImageJob, JobState
from fallow.model.image_requests import ImageJobRequest, ImageJobView
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]
# Whoever repeats a request with the same key gets the job that the first one made.
Key = Annotated[
    str | None, HeaderParameter(name="Idempotency-Key", min_length=8, max_length=128, pattern=r"^[A-Za-z0-9._-]+$")
]
Newest = Annotated[int, QueryParameter(ge=1, le=1000)]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of image jobs."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    one = "/v1/image-jobs/{id:str}"
    change: Any = {"guards": operator, "status_code": 200, "responses": problems(404, 409)}
    return (
        get("/v1/image-jobs", guards=viewer, responses=problems())(list_image_jobs),
        post("/v1/image-jobs", guards=operator, responses=problems(404, 409, 422, 502, body=True))(create_image_job),
        get(one, guards=viewer, responses=problems(404))(read_image_job),
        get(f"{one}/tasks", guards=viewer, responses=problems(404))(list_tasks_of_job),
        post(f"{one}/pause", **change)(pause_image_job),
        post(f"{one}/resume", **change)(resume_image_job),
        post(f"{one}/cancel", **change)(cancel_image_job),
        post(f"{one}/retry", **change)(retry_image_job),
    )


async def list_image_jobs(
    services: Needs,
    in_state: Annotated[JobState | None, QueryParameter(name="state")] = None,
    action: FromQuery[ImageAction | None] = None,
    limit: Newest = 100,
) -> ImageJobList:
    """List image jobs, newest first."""
    snapshot = services.cache.snapshot()
    found = [
        job
        for job in snapshot.image_jobs.values()
        if (in_state is None or job.state is in_state) and (action is None or job.action is action)
    ]
    found.sort(key=lambda job: (job.created_at, job.revision), reverse=True)
    return ImageJobList(revision=services.cache.revision, items=tuple(_view(services, job) for job in found[:limit]))


async def create_image_job(
    services: Needs, request: Caller, data: JSONBody[ImageJobRequest], key: Key = None
) -> ImageJobView:
    """Ask nodes to pull, update, delete or clean images; its reference is resolved now, once for all of them.

    With `dry_run` a pull only tells whom it would reach, and a delete asks every node what it would do.
    """
    actor = actor_of(request)
    if data.dry_run and data.action in (ImageAction.PULL, ImageAction.UPDATE):
        job, meant = await services.image_requests.draft(data, actor)
        view = msgspec.structs.replace(_view(services, job), id="")
        renewed = tuple(each.path for each in to_renew(services.cache.snapshot(), job)) if job.roll else ()
        return msgspec.structs.replace(view, nodes=tuple(member.name for member in meant), renewed=renewed)
    return _view(services, await services.image_requests.create(data, actor, key or ""))


async def read_image_job(services: Needs, id: FromPath[str]) -> ImageJobView:  # noqa: A002
    """Read one image job, its nodes counted by what became of them."""
    return _view(services, job_called(services.cache.snapshot(), id))


async def list_tasks_of_job(
    services: Needs,
    id: FromPath[str],  # noqa: A002
    in_state: InState = None,
    node: Filter = None,
    limit: Limit = 1000,
    after: After = "",
) -> ImageTaskList:
    """List what became of a job on every node that had its turn, newest first; `after` is `next` of the page before."""
    job_called(services.cache.snapshot(), id)
    return page_of(services, Wanted(job=id, state=in_state, node=node), limit, after)


async def pause_image_job(services: Needs, request: Caller, id: FromPath[str]) -> ImageJobView:  # noqa: A002
    """Begin with no further node; those at work go on."""
    return await _changed(services, request, services.image_requests.pause, id)


async def resume_image_job(services: Needs, request: Caller, id: FromPath[str]) -> ImageJobView:  # noqa: A002
    """Go on with a job that is paused."""
    return await _changed(services, request, services.image_requests.resume, id)


async def cancel_image_job(services: Needs, request: Caller, id: FromPath[str]) -> ImageJobView:  # noqa: A002
    """End a job; nodes stop in the middle of what they do for it."""
    return await _changed(services, request, services.image_requests.cancel, id)


async def retry_image_job(services: Needs, request: Caller, id: FromPath[str]) -> ImageJobView:  # noqa: A002
    """Let nodes that failed, or had no turn before the job ended, have another one."""
    return await _changed(services, request, services.image_requests.retry, id)


async def _changed(
    services: Needs, request: Caller, change: Callable[[str, str], Awaitable[ImageJob]], id_: str
) -> ImageJobView:
    return _view(services, await change(id_, actor_of(request)))


def _view(services: Needs, job: ImageJob) -> ImageJobView:
    return job_view(services.cache.snapshot(), job, services.hub.usages(), services.clock())
