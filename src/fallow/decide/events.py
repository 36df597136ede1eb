"""The one maker of events, so that their ids sort by time."""

from typing import Literal

from fallow.model.events import Event


def event(  # noqa: PLR0913, PLR0917 - one argument a field of the record, always in this order
    suffix: str,
    now: float,
    actor: str,
    subject_kind: str,
    subject_id: str,
    subject: str,
    reason: str,
    message: str,
    level: Literal["info", "warning"] = "info",
) -> Event:
    """Return an event of `now` (UTC seconds); `suffix` tells events of the same millisecond apart.

    Its id is the time in milliseconds, 13 digits, a dash and the suffix: ids sort by time until the year 2286.
    """
    return Event(
        id=f"{int(now * 1000):013d}-{suffix}",
        created_at=now,
        updated_at=now,
        actor=actor,
        subject_kind=subject_kind,
        subject_id=subject_id,
        subject=subject,
        reason=reason,
        message=message,
        level=level,
    )
