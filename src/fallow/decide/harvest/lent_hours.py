"""What servers lent, hour by hour, from the sums they tell: nothing is counted twice, whoever counts.

A server's sums grow from 0 for as long as its agent runs. What has been counted of them is marked on the record of the
hour itself, in the same write; whoever counts next, after a change of leader too, goes on from there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from fallow.decide.harvest.heard import HeardServer
from fallow.decide.plan import Step
from fallow.model.members import Member
from fallow.model.servers import LentHour, LentMark, ServerReport

HOUR_SECONDS = 3600.0
COUNT_SECONDS = 300.0
MOST_AHEAD_HOURS = 3  # so far ahead may the clock of the one that led before have been: by an hour, ours behind by one
MOST_BACK_HOURS = 48  # so far back the last mark is looked for
MOST_OVER = 1.02  # of what a server has, in a time: beyond that its sums are not believed


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """What was seen of a server between two counts, besides its sums: core-seconds, and replica-seconds on it."""

    capacity_core_seconds: float = 0.0
    primary_core_seconds: float = 0.0
    replica_seconds: float = 0.0

    def more(self, report: ServerReport, seconds: float, replicas: int = 0) -> "Sampled":
        """Return it with `seconds` more, in which all was as in `report` and so many replicas were there."""
        return Sampled(
            capacity_core_seconds=self.capacity_core_seconds + report.cpus * seconds,
            primary_core_seconds=self.primary_core_seconds + report.primary_cpus * seconds,
            replica_seconds=self.replica_seconds + replicas * seconds,
        )


def hour_of(now: float) -> int:
    """Return the hour of `now` (UTC seconds), counted from the epoch."""
    return int(now // HOUR_SECONDS)


def id_of(server_id: str, hour: int) -> str:
    """Return the id of a server's record of an hour."""
    return f"{server_id}.{hour}"


def newest(get: Callable[[str], LentHour | None], server_id: str, now: float) -> LentHour | None:
    """Return the record that has what was counted of a server last; None: nothing was, or long ago."""
    hour = hour_of(now) + MOST_AHEAD_HOURS
    found = (get(id_of(server_id, hour - back)) for back in range(MOST_BACK_HOURS))
    return next((record for record in found if record is not None and record.mark is not None), None)


def due_in(last: LentHour | None, now: float) -> float:
    """Return in how many seconds a server is to be counted: every few minutes, and as an hour ends."""
    if last is None or last.mark is None or not 0 <= now - last.mark.at < COUNT_SECONDS:
        return 0.0
    left = min(last.mark.at + COUNT_SECONDS, (hour_of(last.mark.at) + 1) * HOUR_SECONDS) - now
    return max(0.0, left)


def unseen(last: LentHour | None, now: float) -> float:
    """Return for how many seconds whoever led before has seen a server since it counted it last, but not counted that.

    It is taken to have been as it is now; not so where nobody led for long.
    """
    passed = now - last.mark.at if last is not None and last.mark is not None else 0.0
    return passed if 0 < passed <= COUNT_SECONDS else 0.0


def count(
    server: Member, heard: HeardServer, evictions: int, sampled: Sampled, last: LentHour | None, now: float
) -> Step:
    """Return what counts a server's sums up to now, and marks that it has.

    `last` is the record with the last mark. What is new belongs to the hour of that mark as it ends, to the present
    one otherwise; the first time only a mark is made, since it is not known how long the sums have been growing.
    """
    report, before = heard.report, last.mark if last is not None else None
    mark = LentMark(
        run=report.run, at=now, lent_core_seconds=report.lent_core_seconds,
        used_core_seconds=report.used_core_seconds, over_seconds=report.over_seconds, evictions=evictions,
    )  # fmt: skip
    ending = before is not None and 0 <= now - before.at <= 2 * COUNT_SECONDS
    hour = hour_of(before.at if before is not None and ending else now)
    if last is not None:
        hour = max(hour, last.hour)  # a clock was set back: the mark is looked for in the latest hour
    record = last if last is not None and last.hour == hour else _first(server, hour, now)
    if before is None:
        return Step(puts=(msgspec.structs.replace(record, mark=mark, updated_at=now),))
    base = before if before.run == report.run else LentMark(run=report.run, at=before.at)
    elapsed = max(0.0, now - before.at)
    most = report.cpus * elapsed * MOST_OVER
    changed = msgspec.structs.replace(
        record,
        server=server.name,
        lent_core_seconds=record.lent_core_seconds + _grown(report.lent_core_seconds, base.lent_core_seconds, most),
        used_core_seconds=record.used_core_seconds + _grown(report.used_core_seconds, base.used_core_seconds, most),
        over_seconds=record.over_seconds + _grown(report.over_seconds, base.over_seconds, elapsed),
        evictions=record.evictions + max(0, evictions - before.evictions),
        primary_core_seconds=record.primary_core_seconds + sampled.primary_core_seconds,
        capacity_core_seconds=record.capacity_core_seconds + sampled.capacity_core_seconds,
        replica_seconds=record.replica_seconds + sampled.replica_seconds,
        mark=mark,
        updated_at=now,
    )
    marks_before = (last,) if last is not None and last is not record else ()
    return Step(puts=(changed,), guards=marks_before)


def _first(server: Member, hour: int, now: float) -> LentHour:
    return LentHour(
        id=id_of(server.id, hour), created_at=now, updated_at=now, server_id=server.id, server=server.name, hour=hour
    )


def _grown(now: float, before: float, most: float) -> float:
    """Return by how much a sum has grown; what a server cannot have lent in the time is not believed."""
    return min(max(0.0, now - before), most)
