"""When schedules are due."""

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from fallow.model.image_schedules import ImageSchedule, ImageScheduleView


class BadCronError(ValueError):
    """A cron expression that cannot be read, or that names no time."""


def next_time(cron: str, after: float) -> float:
    """Return the first time after `after` that a cron expression names, in UTC seconds. Raises BadCronError."""
    if len(cron.split()) != 5:
        raise BadCronError(
            f"{cron[:80]!r} has not five fields: minute, hour, day of the month, month, day of the week, in UTC"
        )
    try:
        return next(CronSim(cron, datetime.fromtimestamp(after, UTC))).timestamp()
    except CronSimError as error:
        raise BadCronError(f"{cron[:80]!r} is no cron expression: {str(error).lower()}") from None
    except (AssertionError, IndexError, OverflowError, StopIteration, TypeError, ValueError):
        raise BadCronError(f"{cron[:80]!r} is no cron expression, or names no time") from None


def schedule_view(found: ImageSchedule) -> ImageScheduleView:
    """Return a schedule as the API shows it."""
    return ImageScheduleView(
        name=found.id,
        cron=found.cron,
        request=found.request,
        next_at=found.next_at,
        last_at=found.last_at,
        last_job=found.last_job,
        problem=found.problem,
        created_at=found.created_at,
        created_by=found.created_by,
    )
