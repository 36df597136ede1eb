"""The loop of image jobs."""

from collections.abc import Callable

from fallow.control.runner import SESSIONS, Controller
from fallow.control.settings import Settings
from fallow.decide.image_jobs import advance
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard


def image_jobs_controller(new_id: Callable[[], str], usages: Callable[[], Heard], settings: Settings) -> Controller:
    """Return the loop of the process that leads."""

    def decide(snapshot: Snapshot, now: float) -> Plan:
        if not snapshot.image_jobs and not snapshot.image_tasks_at_work:
            return Plan()
        return advance(snapshot, now, new_id, usages(), settings.pulls_per_registry)

    return Controller(
        name="image-jobs",
        kinds=frozenset({"image-jobs", "image-tasks", "members", "label-sets", SESSIONS}),
        every_seconds=5.0,
        decide=decide,
    )
