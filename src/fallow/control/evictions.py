"""The loop that moves replicas away from servers whose primary applications need what was lent."""

from collections.abc import Callable

from fallow.control.hub import Hub
from fallow.control.runner import SESSIONS, Controller
from fallow.decide.harvest.evict import evict
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot

LOOK_SECONDS = 1.0


def evictions_controller(hub: Hub, new_id: Callable[[], str]) -> Controller:
    """Return the loop; it is woken as soon as a server says that something has to go."""

    def decide(snapshot: Snapshot, now: float) -> Plan:
        return evict(snapshot, hub.servers(), now, new_id) if snapshot.vms else Plan()

    return Controller(
        name="evictions", kinds=frozenset({"lendings", SESSIONS}), every_seconds=LOOK_SECONDS, decide=decide
    )
