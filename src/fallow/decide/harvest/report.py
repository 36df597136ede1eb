"""What was lent and used over a time, summed from the record of every hour."""

import math
from collections.abc import Iterable

from fallow.model.servers import HarvestReport, HarvestRow, LentHour

HOUR_SECONDS = 3600
DAY_SECONDS = 86400


def harvest_report(hours: Iterable[LentHour], since: float, until: float, price: float = 0.0) -> HarvestReport:
    """Return what every server, and all of them together, lent from `since` on (UTC seconds) and before `until`.

    The record is kept by whole hours, so the report begins with the hour that `since` lies in. A server that is gone
    still counts, by the name it had last; two that had one name are told apart by their ids, and so count apart.
    `price` is that of a core-hour elsewhere.
    """
    first = math.floor(since / HOUR_SECONDS)
    by_server: dict[str, list[LentHour]] = {}
    for hour in hours:
        if hour.hour >= first and hour.hour * HOUR_SECONDS < until:
            by_server.setdefault(hour.server_id, []).append(hour)
    rows = [_row(max(found, key=lambda each: each.hour).server, found) for found in by_server.values()]
    total = _row("", [hour for found in by_server.values() for hour in found])
    return HarvestReport(
        since=first * HOUR_SECONDS,
        until=until,
        total=total,
        servers=tuple(sorted(rows, key=lambda row: (-row.used_core_hours, row.server))),
        price_per_core_hour=price,
        saved=total.used_core_hours * price,
    )


def _row(server: str, hours: Iterable[LentHour]) -> HarvestRow:
    found = tuple(hours)

    def core_hours(seconds: Iterable[float]) -> float:
        return math.fsum(seconds) / HOUR_SECONDS

    return HarvestRow(
        server=server,
        hours=float(len(found)),
        capacity_core_hours=core_hours(hour.capacity_core_seconds for hour in found),
        primary_core_hours=core_hours(hour.primary_core_seconds for hour in found),
        lent_core_hours=core_hours(hour.lent_core_seconds for hour in found),
        used_core_hours=core_hours(hour.used_core_seconds for hour in found),
        over_seconds=math.fsum(hour.over_seconds for hour in found),
        replica_days=math.fsum(hour.replica_seconds for hour in found) / DAY_SECONDS,
        evictions=sum(hour.evictions for hour in found),
    )
