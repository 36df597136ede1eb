"""The loop that tells who is alive."""

from collections.abc import Callable

import structlog

from fallow.control.hub import Hub
from fallow.control.runner import Controller
from fallow.control.settings import Settings
from fallow.decide.members import Liveness, in_outage, judge
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot

_log = structlog.get_logger("fallow.control")


def members_controller(hub: Hub, settings: Settings, since: float, new_id: Callable[[], str]) -> Controller:
    """Return the loop; `since`: when this process began to listen, in UTC seconds."""
    outage_at = 0.0

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal outage_at
        rules = Liveness(
            suspect_after_seconds=settings.suspect_after_seconds,
            dead_after_seconds=settings.dead_after_seconds,
            watching_since=since,
            outage_at=outage_at,
        )
        seen = hub.all_last_seen()
        for gone in seen.keys() - snapshot.members.keys():
            hub.forget(gone)
        if in_outage(snapshot.members, seen, now, rules):
            if now - outage_at > settings.dead_after_seconds:
                _log.warning("most members are silent at once; nobody is declared dead")
            outage_at = now
        return judge(snapshot, seen, now, rules, new_id)

    controller = Controller(name="members", kinds=frozenset({"members"}), every_seconds=0.5, decide=decide)
    hub.on_change.append(controller.wake)
    return controller
