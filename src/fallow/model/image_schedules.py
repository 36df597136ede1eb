"""Schedules: image jobs that begin by themselves at the times a cron expression names."""

from typing import Annotated

import msgspec

from fallow.model.image_requests import ImageJobRequest
from fallow.model.meta import Name, Record

CronText = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class ImageSchedule(Record, frozen=True, kw_only=True):
    """An image job for every time that `cron` names, in UTC. Its id is its name."""

    cron: str
    request: ImageJobRequest
    next_at: float  # when the next job is due
    last_at: float = 0.0  # when the last one was made
    last_job: str = ""
    problem: str = ""  # why the last one could not be made
    created_by: str = ""


class ImageScheduleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a schedule."""

    name: Name
    cron: CronText
    request: ImageJobRequest


class ImageScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as the API shows it."""

    name: str
    cron: str
    request: ImageJobRequest
    next_at: float
    last_at: float
    last_job: str
    problem: str
    created_at: float
    created_by: str
