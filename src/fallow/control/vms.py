"""The loop that keeps virtual machines as policies want them, and on record how their servers find them."""

import time
from collections.abc import Callable

from fallow.control.hub import Hub
from fallow.control.runner import FOLLOWER_REST, Controller
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.harvest.leaving import closings
from fallow.decide.harvest.orders import told
from fallow.decide.harvest.sizing import Offers, sizes
from fallow.decide.harvest.vms import away, life
from fallow.decide.plan import Plan
from fallow.decide.snapshot import Snapshot
from fallow.model.vms import VmWish

LOOK_SECONDS = 1.0


def vms_controller(hub: Hub, new_id: Callable[[], str], steady: Callable[[], float] = time.monotonic) -> Controller:
    """Return the loop. It remembers what servers offered over a while, and begins with nothing whenever it is made."""
    offers, missing = Offers(), _Missing()

    def decide(snapshot: Snapshot, now: float) -> Plan:
        if not (snapshot.servers or snapshot.vms or snapshot.lendings):
            return Plan()
        at, servers = steady(), hub.servers()
        offers.note(servers, at)
        steps = [
            *closings(snapshot, now, new_id),
            *life(snapshot, servers, missing.look(snapshot, servers, at), now, new_id),
            *sizes(snapshot, servers, offers.over(at), now, new_id),
        ]
        return Plan(steps=steps)

    return Controller(
        name="vms",
        kinds=frozenset({"vms", "members", "server-pools", "lendings", "label-sets"}),
        every_seconds=LOOK_SECONDS,
        decide=decide,
        rest_factor=FOLLOWER_REST,
    )


class _Missing:
    """Since when virtual machines that should be absent are away, by the steady clock."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def look(self, snapshot: Snapshot, servers: HeardServers, at: float) -> dict[str, float]:
        """Return for how many seconds each has been away; a server that is silent tells nothing of any."""
        since = {}
        for vm in snapshot.vms.values():
            if told(snapshot, vm) is VmWish.ABSENT and away(servers, vm):
                since[vm.id] = self._since.get(vm.id, at)
        self._since = since
        return {id_: at - began for id_, began in since.items()}
