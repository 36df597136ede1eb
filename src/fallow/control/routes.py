"""The loops that tell gateways where requests go, and let replicas stop once no gateway sends them any.

Every control plane tells the gateways whose sessions it holds; the one that leads lets replicas stop.
"""

import time
from collections.abc import Callable, Mapping

from fallow.control.hub import Hub, Link
from fallow.control.runner import APPLIED, SESSIONS, Controller
from fallow.control.settings import Settings
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.harvest.throttled import LOOK_SECONDS, Weights, weights
from fallow.decide.plan import Plan
from fallow.decide.remotes import listening
from fallow.decide.routes import Elsewhere, Place, Rendered, leaving, place_of, render_all, withdrawn
from fallow.decide.services import own_region
from fallow.decide.snapshot import Snapshot
from fallow.model.remotes import RemoteService
from fallow.model.routes import ProxyState
from fallow.model.wire import SetProxy

# What routes are made of.
ROUTED = frozenset({"replicas", "members", "deployments", "shares", "remote-services", "hosts", SESSIONS})


def withdrawal_controller(hub: Hub, settings: Settings, steady: Callable[[], float] = time.monotonic) -> Controller:
    """Return the loop that lets replicas stop; it goes by what gateways report, and members and the host of theirs.

    `steady` gives seconds that nobody sets: drains are measured with it, or a clock put forward would cut requests.
    """
    since: dict[str, float] = {}  # since when each leaving replica has been waited for, by `steady`

    def decide(snapshot: Snapshot, now: float) -> Plan:
        nonlocal since
        at = steady()
        since = {replica.id: since.get(replica.id, at) for replica in leaving(snapshot)}
        waited = {id_: at - begun for id_, begun in since.items()}
        hub.keep_cleared(since.keys())
        clusters = listening(snapshot, hub.connected()) if since else ()
        elsewhere = Elsewhere(applied={found.id: hub.remotes(found.id) for found in clusters}, cleared=hub.cleared)
        return withdrawn(snapshot, hub.proxy_reports(), now, waited, settings.drain_seconds, elsewhere)

    return Controller(
        name="withdrawal",
        kinds=frozenset({"replicas", "members", "deployments", "hosts", SESSIONS, APPLIED}),
        every_seconds=5.0,
        decide=decide,
    )


class RoutesLoop:
    """Renders what gateways should do and sends it to each that does not know it yet.

    `servers` gives what servers that lend said last: a throttled node gets fewer requests.
    """

    def __init__(self, hub: Hub, servers: Callable[[], HeardServers] = dict) -> None:
        self._hub = hub
        self._servers = servers
        self._weights: Weights = {}
        self._weighed_at = 0.0
        self._sent: dict[Link, ProxyState] = {}  # what each open session was last told
        self._rendered: Rendered | None = None
        self._remotes: Mapping[str, RemoteService] = {}
        self._confirm = 0  # gateways must say that they have applied a state of this revision or a newer one

    def controller(self) -> Controller:
        """Return the loop."""
        return Controller(name="routes", kinds=ROUTED, every_seconds=5.0, decide=self._decide)

    def _decide(self, snapshot: Snapshot, now: float) -> Plan:
        region = own_region(snapshot)
        places = {gateway_id: place_of(gateway, region) for gateway_id, gateway in snapshot.gateways.items()}
        if (snapshot.vms or self._weights) and abs(now - self._weighed_at) >= LOOK_SECONDS:
            self._weights, self._weighed_at = weights(snapshot, self._servers(), now, self._weights), now
        self._rendered = render_all(snapshot, sorted(set(places.values())), self._rendered, self._weights)
        if snapshot.remote_services is not self._remotes:
            # The host waits for our gateways, also where what it took away was asked by none of them.
            self._remotes, self._confirm = snapshot.remote_services, snapshot.revision
        leaves = [replica.revision for replica in leaving(snapshot)]
        leaves += [share.revision for shares in snapshot.shares_leaving.values() for share in shares]
        self._publish(places, self._rendered.states, max(self._confirm, *leaves, 0))
        return Plan()

    def _publish(self, places: Mapping[str, Place], states: Mapping[Place, ProxyState], confirm: int) -> None:
        """Send its state to every gateway that was told something else, or must confirm a newer revision."""
        open_now: dict[Link, ProxyState] = {}
        for gateway_id, place in places.items():
            link = self._hub.link(gateway_id)
            if link is None:
                continue
            told, state = self._sent.get(link), states[place]
            if told is None or told.revision < confirm or not told.same_content(state):
                link.send(SetProxy(state=state))
                told = state
            open_now[link] = told
        self._sent = open_now
