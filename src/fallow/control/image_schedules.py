"""Schedules of image jobs: making and deleting them, and the loop that begins what is due."""

import asyncio
import hashlib
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.commits import commit_again
from fallow.control.image_requests import ImageRequests
from fallow.control.refusals import Refused, not_found, refuse
from fallow.decide.events import event
from fallow.decide.image_schedules import BadCronError, next_time
from fallow.decide.plan import Step
from fallow.model.events import Event
from fallow.model.image_schedules import ImageSchedule, ImageScheduleRequest
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict, StoreError

_log = structlog.get_logger("fallow.control")

LOOK_SECONDS = 1.0
MAX_SCHEDULES = 1000


class ImageSchedules:
    """Keeps schedules. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, requests: ImageRequests, clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:  # fmt: skip
        self._cache = cache
        self._applier = applier
        self._requests = requests
        self._clock = clock
        self._new_id = new_id

    async def create(self, request: ImageScheduleRequest, actor: str) -> ImageSchedule:
        """Store a new schedule; the same once more changes nothing. Raises Refused."""
        now = self._clock()
        try:
            next_at = next_time(request.cron, now)
        except BadCronError as error:
            raise refuse(
                422, "bad-cron", "Not a schedule", str(error), "such as '30 3 * * *': every day at 03:30"
            ) from None
        # Refused now rather than at night; that nobody is meant today does not matter.
        await self._requests.draft(msgspec.structs.replace(request.request, wait_for_nodes=True), actor)
        made = ImageSchedule(
            id=request.name, created_at=now, updated_at=now, cron=request.cron, request=request.request,
            next_at=next_at, created_by=actor,
        )  # fmt: skip

        def decide() -> tuple[Step | None, ImageSchedule]:
            known = self._cache.get("image-schedules", request.name)
            if isinstance(known, ImageSchedule):
                if (known.cron, known.request) == (made.cron, made.request):
                    return None, known
                raise refuse(
                    409, "name-taken", "There is one already", f"the image schedule {request.name} is another one",
                    f"fallow image schedule delete {request.name}",
                )  # fmt: skip
            if len(self._cache.records("image-schedules")) >= MAX_SCHEDULES:
                raise refuse(409, "too-many", "Too many schedules", f"there may be {MAX_SCHEDULES}")
            told = self._event(actor, made.id, "ImageScheduleCreated", f"image schedule {made.id}: {made.cron}")
            return Step(puts=(made, told)), made

        return await commit_again(self._applier, decide)

    async def delete(self, name: str, actor: str) -> None:
        """Delete a schedule; what it has begun goes on. Raises Refused."""

        def decide() -> tuple[Step, None]:
            known = self._cache.get("image-schedules", name)
            if not isinstance(known, ImageSchedule):
                raise not_found(f"image schedule {name[:80]!r}", "fallow image schedule list shows all")
            told = self._event(actor, name, "ImageScheduleDeleted", f"image schedule {name} is deleted")
            return Step(puts=(told,), deletes=(known,)), None

        await commit_again(self._applier, decide)

    async def run(self) -> None:
        """Begin what is due until cancelled; only where one leads."""
        while True:
            now = self._clock()
            for found in list(self._cache.snapshot().image_schedules.values()):
                if found.next_at <= now:
                    try:
                        await self._begin(found, now)
                    except Conflict:
                        pass  # somebody else did, or changed it: it is looked at again
                    except StoreError as error:
                        _log.warning("image schedule not begun; it is tried again", schedule=found.id, error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self, due: ImageSchedule, now: float) -> None:
        """Make the job of a schedule and set its next time, in one commit; times that were missed count once."""
        after = msgspec.structs.replace(due, updated_at=now, last_at=now, next_at=next_time(due.cron, now), problem="")
        actor = f"schedule:{due.id}"
        number = hashlib.sha256(f"{due.id}/{due.next_at}".encode()).hexdigest()[:20]
        try:
            job, _ = await self._requests.draft(due.request, actor, f"i-{number}")
        except Refused as refused:
            after = msgspec.structs.replace(after, problem=str(refused)[:500])
            told = self._event(
                actor, due.id, "ImageScheduleFailed", f"image schedule {due.id} made no job: {refused}", warn=True
            )
            await self._applier.commit(Step(puts=(after, told)))
            return
        job = msgspec.structs.replace(job, schedule_id=due.id)
        after = msgspec.structs.replace(after, last_job=job.id)
        told = event(
            self._new_id(), now, actor, "image-job", job.id, job.id, "ImageJobCreated",
            f"image job {job.id}: {job.instruction}",
        )  # fmt: skip
        await self._applier.commit(Step(puts=(after, job, told)))

    def _event(self, actor: str, name: str, reason: str, text: str, *, warn: bool = False) -> Event:
        return event(
            self._new_id(), self._clock(), actor, "image-schedule", name, name, reason, text,
            "warning" if warn else "info",
        )  # fmt: skip
