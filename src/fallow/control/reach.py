"""The loop that notes which gateways do not reach the nodes of member clusters."""

import time
from collections.abc import Callable

from fallow.control.hub import Hub
from fallow.control.runner import Controller
from fallow.decide.federation.reach import Seen, noted, seen
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot

LOOK_SECONDS = 2.0


def reach_controller(hub: Hub, new_id: Callable[[], str], steady: Callable[[], float] = time.monotonic) -> Controller:
    """Return the loop, which goes by what gateways report. `steady` gives seconds that nobody sets."""
    found: Seen = {}

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal found
        if not snapshot.clusters:
            return Plan()
        at = steady()
        found = seen(snapshot, hub.proxy_reports(), found, at)
        return Plan(steps=tuple(noted(snapshot, found, at, now, new_id)))

    return Controller(name="reach", kinds=frozenset(), every_seconds=LOOK_SECONDS, decide=decide)
