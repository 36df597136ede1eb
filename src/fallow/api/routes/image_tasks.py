"""The record of image tasks: what was asked of every node, when, how far it is, and what came of it."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter, SkipValidation
from litestar.types import Guard

from fallow.api.lists import ImageTaskList
from fallow.api.problems import problems
from fallow.api.services import Needs
from fallow.control.refusals import refuse
from fallow.decide.image_records import Wanted, place_of, recorded
from fallow.decide.image_views import task_view
from fallow.model.image_jobs import ImageTask, TaskState
from fallow.model.image_requests import ImageTaskView
from fallow.model.tokens import ApiRole

Filter = Annotated[str | None, QueryParameter(max_length=512)]
Since = Annotated[float | None, QueryParameter(ge=0, le=2**40)]
InState = Annotated[TaskState | None, QueryParameter(name="state")]  # the framework has a `state` of its own
Limit = Annotated[int, QueryParameter(ge=1, le=10_000)]
After = Annotated[str, QueryParameter(max_length=200)]
Asked = NamedDependency[SkipValidation[Wanted]]

COLUMNS = (
    "id", "job_id", "node", "node_id", "action", "reference", "instruction", "state", "attempt", "created_at",
    "started_at", "ended_at", "seconds", "kind", "text", "fetched_bytes", "freed_bytes", "image_id", "unchanged", "log",
)  # fmt: skip
MAX_EXPORT = 100_000


def handlers(guards: dict[ApiRole, Guard]) -> Sequence[Any]:
    """Return every route of the record."""
    reading: Any = {
        "guards": [guards[ApiRole.VIEWER]],
        "responses": problems(),
        "dependencies": {"wanted": Provide(asked_for, sync_to_thread=False)},
    }
    return (
        get("/v1/image-tasks", **reading)(list_image_tasks),
        get("/v1/image-tasks/export", **reading)(export_image_tasks),
        get("/v1/image-tasks/export.csv", media_type="text/csv", **reading)(export_image_tasks_as_csv),
    )


def asked_for(
    job: Filter = None,
    node: Filter = None,
    in_state: InState = None,
    image: Filter = None,
    since: Since = None,
    until: Since = None,
) -> Wanted:
    """Return which tasks the query means."""
    return Wanted(job=job, node=node, state=in_state, image=image, since=since, until=until)


async def list_image_tasks(services: Needs, wanted: Asked, limit: Limit = 1000, after: After = "") -> ImageTaskList:
    """List what nodes were asked to do with images, newest first, with the log of every attempt.

    `image` is a reference, an image id or a digest; `since` and `until` are UTC seconds; `after` is `next` of the page
    before.
    """
    return page_of(services, wanted, limit, after)


async def export_image_tasks(services: Needs, wanted: Asked) -> Response[tuple[ImageTaskView, ...]]:
    """Give the record as one file, an array of all tasks that are asked for."""
    return Response(_all(services, wanted), headers=_file("image-tasks.json"))


async def export_image_tasks_as_csv(services: Needs, wanted: Asked) -> Response[str]:
    """Give the record as one file, a row for each task that is asked for."""
    return Response(_csv(_all(services, wanted)), media_type="text/csv", headers=_file("image-tasks.csv"))


def _all(services: Needs, wanted: Wanted) -> tuple[ImageTaskView, ...]:
    """Return everything that is asked for. Raises Refused (400) when that is too much for one file."""
    found = list(recorded(services.cache.snapshot(), wanted))
    if len(found) > MAX_EXPORT:
        raise refuse(
            400, "too-much", "Too much for one file", f"{len(found)} tasks, and one file has at most {MAX_EXPORT}",
            "ask for a part: --since, --node, --state, --image",
        )  # fmt: skip
    return tuple(_view(services, task) for task in found)


def _file(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


def page_of(services: Needs, wanted: Wanted, limit: int, after: str) -> ImageTaskList:
    """Return one page of the record. Raises Refused (400) for an `after` that is none of ours."""
    try:
        at, _, id_ = after.partition("-")
        place = (int(at), id_) if after else None
    except ValueError:
        raise refuse(
            400, "bad-request", "Not a place in the record", f"{after[:80]!r}", "take `next` of a page"
        ) from None
    found = list(recorded(services.cache.snapshot(), wanted, place))
    last = place_of(found[limit - 1]) if len(found) > limit else None
    return ImageTaskList(
        revision=services.cache.revision,
        items=tuple(_view(services, task) for task in found[:limit]),
        next=f"{last[0]}-{last[1]}" if last is not None else "",
    )


def _view(services: Needs, task: ImageTask) -> ImageTaskView:
    job = services.cache.snapshot().image_jobs.get(task.job_id)
    return task_view(task, job, services.image_progress)


def _csv(views: Iterable[ImageTaskView]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for view in views:
        values = msgspec.to_builtins(view)
        values["log"] = "\n".join(view.log)
        writer.writerow(_plain(values[column]) for column in COLUMNS)
    return text.getvalue()


def _plain(value: object) -> str:
    """Return a cell that no spreadsheet takes for a formula: the words of registries and engines are not ours."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" and text[:1] else text
