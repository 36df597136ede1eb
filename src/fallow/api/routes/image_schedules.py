"""Schedules of image jobs."""

from collections.abc import Sequence
from typing import Any

from litestar import Request, delete, get, post
from litestar.params import FromPath, JSONBody
from litestar.types import Guard

from fallow.api.auth import actor_of
from fallow.api.lists import ImageScheduleList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.decide.image_schedules import schedule_view
from fallow.model.image_schedules import ImageScheduleRequest, ImageScheduleView
from fallow.model.tokens import ApiRole

Caller = Request[Any, Any, Any]


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of schedules."""
    viewer, operator = [guards[ApiRole.VIEWER]], [guards[ApiRole.OPERATOR]]
    return (
        get("/v1/image-schedules", guards=viewer, responses=problems())(list_image_schedules),
        post("/v1/image-schedules", guards=operator, responses=problems(404, 409, 422, 502, body=True))(
            create_image_schedule
        ),
        delete("/v1/image-schedules/{name:str}", guards=operator, responses=problems(404, 409))(delete_image_schedule),
    )


async def list_image_schedules(services: Needs) -> ImageScheduleList:
    """List the schedules of image jobs, by name."""
    found = sorted(services.cache.snapshot().image_schedules.items())
    return ImageScheduleList(
        revision=services.cache.revision, items=tuple(schedule_view(schedule) for _, schedule in found)
    )


async def create_image_schedule(
    services: Needs, request: Caller, data: JSONBody[ImageScheduleRequest]
) -> ImageScheduleView:
    """Make an image job at every time that a cron expression names, in UTC."""
    return schedule_view(await services.image_schedules.create(data, actor_of(request)))


async def delete_image_schedule(services: Needs, request: Caller, name: FromPath[str]) -> None:
    """Delete a schedule; jobs that it has begun go on."""
    await services.image_schedules.delete(name, actor_of(request))
