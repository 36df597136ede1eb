"""The loops that tell gateways where requests go, and let replicas stop once no gateway sends them any.

Every control plane tells the gateways whose sessions it holds; the one that leads lets replicas stop.
"""

import time
from collections.abc import Callable

from fallow.control.hub import Hub, Link
from fallow.control.runner import SESSIONS, Controller
from fallow.control.settings import Settings
from fallow.decide.plan import Plan
from fallow.decide.routes import leaving, render, withdrawn
from fallow.decide.snapshot import Snapshot
from fallow.model.routes import ProxyState
from fallow.model.wire import SetProxy


def withdrawal_controller(hub: Hub, settings: Settings, steady: Callable[[], float] = time.monotonic) -> Controller:
    """Return the loop that lets replicas stop; it goes by what gateways report.

    `steady` gives seconds that nobody sets: drains are measured with it, or a clock put forward would cut requests.
    """
    since: dict[str, float] = {}  # since when each leaving replica has been waited for, by `steady`

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal since
        at = steady()
        since = {replica.id: since.get(replica.id, at) for replica in leaving(snapshot)}
        waited = {id_: at - begun for id_, begun in since.items()}
        return withdrawn(snapshot, hub.proxy_reports(), now, waited, settings.drain_seconds)

    return Controller(
        name="withdrawal",
        kinds=frozenset({"replicas", "members", "deployments", SESSIONS}),
        every_seconds=5.0,
        decide=decide,
    )


class RoutesLoop:
    """Renders what gateways should do and sends it to each that does not know it yet."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sent: dict[Link, ProxyState] = {}  # what each open session was last told
        self.state = ProxyState()

    def controller(self) -> Controller:
        """Return the loop."""
        return Controller(
            name="routes",
            kinds=frozenset({"replicas", "members", "deployments", SESSIONS}),
            every_seconds=5.0,
            decide=self._decide,
        )

    def _decide(self, snapshot: Snapshot, _now: float) -> Plan:
        self.state = render(snapshot)
        newest_leaving = max((replica.revision for replica in leaving(snapshot)), default=0)
        self._publish(snapshot, newest_leaving)
        return Plan()

    def _publish(self, snapshot: Snapshot, newest_leaving: int) -> None:
        """Send the state to gateways that were told something else, or must confirm that a replica is withdrawn."""
        open_now: dict[Link, ProxyState] = {}
        for gateway_id in snapshot.gateways:
            link = self._hub.link(gateway_id)
            if link is None:
                continue
            told = self._sent.get(link)
            if told is None or told.revision < newest_leaving or not told.same_content(self.state):
                link.send(SetProxy(state=self.state))
                told = self.state
            open_now[link] = told
        self._sent = open_now
