"""The hours in which a server lends, as its policy writes them, by the wall clock of the policy's time zone."""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES = 24 * 60
_AHEAD_DAYS = 9


class HoursError(ValueError):
    """The hours cannot be read; the text says why."""


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo:
    """Return a time zone by its name in the IANA database. Raises HoursError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise HoursError(f"there is no time zone {name!r} here") from error


@lru_cache(maxsize=256)
def window(text: str) -> tuple[frozenset[int], int, int]:
    """Return the days on which a window begins (0: Monday), and its minutes of those days; the end may be beyond one.

    A window that ends when it begins lasts a whole day. Raises HoursError.
    """
    days, _, span = text.rpartition(" ")
    begin, _, end = span.partition("-")
    try:
        first, last = _minute(begin), _minute(end)
        found = _days(days) if days else frozenset(range(7))
    except (ValueError, IndexError) as error:
        raise HoursError(f"{text!r} is not hours such as 20:00-07:00 or mon-fri 20:00-07:00") from error
    return found, first, last if last > first else last + _MINUTES


def lends_at(hours: tuple[str, ...], timezone: str, now: float) -> bool:
    """Say whether `now`, in UTC seconds, is within the hours; none means always. Raises HoursError."""
    if not hours:
        return True
    local = datetime.fromtimestamp(now, zone(timezone))
    day, minute = local.weekday(), local.hour * 60 + local.minute
    for text in hours:
        days, first, last = window(text)
        if day in days and first <= minute < last:
            return True
        if (day - 1) % 7 in days and minute + _MINUTES < last:
            return True
    return False


def next_change(hours: tuple[str, ...], timezone: str, now: float) -> float | None:
    """Return when the server next begins or ends to lend, in UTC seconds; None: never. Raises HoursError."""
    lends = lends_at(hours, timezone, now)
    today = datetime.fromtimestamp(now, zone(timezone)).date()
    edges = set()
    for text in hours:
        _, first, last = window(text)
        for ahead in range(-1, _AHEAD_DAYS):
            edges |= {_moment(today + timedelta(days=ahead), minute, timezone) for minute in (first, last)}
    return next((edge for edge in sorted(edges) if edge > now and lends_at(hours, timezone, edge) != lends), None)


def _moment(day: date, minute: int, timezone: str) -> float:
    day += timedelta(days=minute // _MINUTES)
    local = datetime.combine(day, time(minute % _MINUTES // 60, minute % 60), zone(timezone))
    return local.astimezone(UTC).timestamp()


def _minute(text: str) -> int:
    hour, _, minute = text.partition(":")
    return int(hour) * 60 + int(minute)


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        found |= {(begin + ahead) % 7 for ahead in range((end - begin) % 7 + 1)}
    return frozenset(found)
