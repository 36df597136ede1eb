"""A control plane without its API: store, loops and sessions, put together and taken apart in the right order."""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from prometheus_client import CollectorRegistry

from fallow.client.tasks import first_to_end
from fallow.control.admission import Admission
from fallow.control.archives import Archives
from fallow.control.assignments import Assignments
from fallow.control.audit import witness
from fallow.control.deployments import deployments_controller
from fallow.control.distribution import Distribution
from fallow.control.door import Door
from fallow.control.evictions import evictions_controller
from fallow.control.federation import federation_controller
from fallow.control.garbage import garbage_controller, trim_events
from fallow.control.here import Here
from fallow.control.hosts import Hosts
from fallow.control.hub import Hub
from fallow.control.ids import new_id
from fallow.control.image_drift import image_drift_controller
from fallow.control.image_jobs import image_jobs_controller
from fallow.control.image_requests import ImageRequests
from fallow.control.image_schedules import ImageSchedules
from fallow.control.images import Images
from fallow.control.leader import Leadership
from fallow.control.lent_hours import lent_hours_controller, trim_lent_hours
from fallow.control.members import members_controller, purge_controller, sessions_controller
from fallow.control.names import NamesLoop
from fallow.control.networks import Networks
from fallow.control.observations import Observations
from fallow.control.peers import Peers
from fallow.control.placement import binds, placement_controller, still_fits
from fallow.control.pools import leases_controller
from fallow.control.reach import reach_controller
from fallow.control.registrations import Registrations, registrations_controller
from fallow.control.remotes import Remotes
from fallow.control.routes import RoutesLoop, withdrawal_controller
from fallow.control.runner import APPLIED, SESSIONS, Controller, LoopMetrics, Runner
from fallow.control.servers import Servers
from fallow.control.sessions import Sessions
from fallow.control.settings import Settings
from fallow.control.shares import Shares
from fallow.control.tokens import Tokens
from fallow.control.upgrades import Upgrades, upgrades_controller
from fallow.control.vault import Vault
from fallow.control.vm_tokens import VmTokens
from fallow.control.vms import vms_controller
from fallow.decide.federation.shapes import questions
from fallow.drivers.authority import Authority
from fallow.drivers.packages import Packages
from fallow.drivers.registry import Registry
from fallow.drivers.registry.http import HttpRegistry
from fallow.model.peers import ControlAddress, Peer
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Check, Store, StoreError
from fallow.version import VERSION

_log = structlog.get_logger("fallow.control")

START_SECONDS = 10.0  # so long a start waits to see who leads; it goes on without knowing
TRIM_SECONDS = 60.0


class ControlPlane:
    """Everything between the store and the API. `clock` gives UTC seconds, `steady` seconds that nobody sets.

    TLS reads from files in `folder`. Connections are the business of the three types below, and of nothing else here.
    """

    peers_type: type[Peers] = Peers
    sessions_type: type[Sessions] = Sessions
    registry_type: Callable[[], Registry] = HttpRegistry

    def __init__(
        self,
        store: Store,
        authority: Authority,
        settings: Settings,
        clock: Callable[[], float],
        folder: Path,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.steady = steady
        self.registry = CollectorRegistry()
        self.cache = Cache(store)
        self.hub = Hub(clock, steady)
        self._still_fits = partial(still_fits, heard=self.hub.usages, servers=self.hub.servers, clock=clock)
        self.applier = Applier(store, self.cache, self._still_fits, binds, witness=witness(clock, new_id))
        self.tokens = Tokens(self.cache, self.applier, authority, settings, clock)
        self.admission = Admission(self.cache, self.applier, authority, settings, clock, self._led)
        self.registrations = Registrations(self.cache, self.applier, clock)
        self.assignments = Assignments(self.cache, self.hub)
        self.networks = Networks(self.cache, self.hub, settings.domain)
        self.observations = Observations(self.cache, self.applier, clock)
        self.leadership = Leadership(store, self.cache, _peer(settings, clock()), self._lead, clock)
        self.peers = self.peers_type(self.cache, self.hub, self.leadership, authority, settings, folder)
        self.names = NamesLoop(self.hub, settings.domain, self.registry)
        self.packages = Packages(folder / "packages")
        self.upgrades = Upgrades(self.cache, self.applier, self.hub, self.packages, clock)
        self.vault = Vault(self.cache, settings.cluster_key or folder / "cluster.key")
        self.distribution = Distribution(self.cache, self.applier, self.vault, self.registry_type(), clock, steady)
        self.archives = Archives(folder / "archives", clock)
        self.distribution.blobs.beside = self.archives.sources
        self.hosts = Hosts(self.cache, self.applier, self.vault, authority.ca_sha256, clock)
        self.remotes = Remotes(self.hub, settings, steady)
        registries = self.distribution.registries
        self.shares = Shares(self.cache, self.applier, clock, questions, self.remotes.tell, registries.shared)
        vm_tokens = VmTokens(self.cache, self.applier, settings, authority.ca_sha256, clock, steady)
        self.servers = Servers(self.cache, self.applier, self.hub, vm_tokens, clock)
        self.member: Callable[[Applier], Awaitable[None]] | None = None  # the session with a host, while we lead
        self.images = Images(self.cache, self.applier, self.hub, clock)
        resolver = self.distribution.resolver
        self.image_requests = ImageRequests(self.cache, self.applier, self.hub, clock, new_id, resolver)
        self._metrics = LoopMetrics(self.registry)
        self.sessions = self._make_sessions()
        self._tasks: asyncio.Task[None] | None = None
        self._listener: Door | None = None

    def _make_sessions(self) -> Sessions:
        return self.sessions_type(
            cache=self.cache,
            applier=self.applier,
            hub=self.hub,
            images=self.images,
            admission=self.admission,
            assignments=self.assignments,
            networks=self.networks,
            peers=self.peers,
            observations=self.observations,
            blobs=self.distribution.blobs,
            upgrades=self.upgrades,
            pulls=self.distribution.pulls,
            shares=self.shares,
            servers=self.servers,
            settings=self.settings,
            clock=self.clock,
        )

    def _own_controllers(self) -> Sequence[Controller]:
        """Return the loops of every process: they act on the sessions it holds."""
        return (
            sessions_controller(self.hub, self.settings, self.steady),
            RoutesLoop(self.hub, self.hub.servers).controller(),
            self.remotes.controller(),
            self.names.controller(),
            self.peers.controller(),
            self.peers.apart_controller(),
            self.upgrades.controller(),
        )

    def _led_controllers(self) -> Sequence[Controller]:
        """Return the loops of the process that leads. Made anew for each time: what it heard before counts for less."""
        return (
            registrations_controller(self.store, self.settings),
            members_controller(self.hub, self.settings, new_id, self.steady),
            purge_controller(self.hub, self.settings, new_id, self.steady),
            federation_controller(new_id, self.steady, self.hub.spoke_since),
            deployments_controller(new_id, self.hub.usages, self.hub.servers),
            placement_controller(new_id, self.hub.usages, self.hub.servers),
            withdrawal_controller(self.hub, self.settings, self.steady),
            garbage_controller(self.settings),
            leases_controller(),
            upgrades_controller(new_id),
            image_jobs_controller(new_id, self.hub.usages, self.settings),
            image_drift_controller(new_id),
            vms_controller(self.hub, new_id, self.steady),
            evictions_controller(self.hub, new_id),
            lent_hours_controller(self.hub, self.cache, self.steady),
            reach_controller(self.hub, new_id, self.steady),
        )

    def _led(self) -> bool:
        return self.leadership.leader is not None

    async def start(self) -> None:
        """Load what is stored, start the loops, and see who leads. Raises StoreError."""
        await self.cache.start()
        self._tasks = asyncio.create_task(self._run(), name="control")
        settled = asyncio.create_task(self.leadership.settled.wait())
        await asyncio.wait({settled, self._tasks}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Accept sessions; return the port. Raises OSError when it is taken."""
        self._listener = await self.sessions.listen(host, port, context)
        return int(self._listener.sockets[0].getsockname()[1])

    def not_ready(self) -> str | None:
        """Return why this control plane is not ready, or None."""
        if self._tasks is None:
            return "starting"
        if self._tasks.done():
            return "the control loops have ended"
        return None if self.leadership.leader is not None else "no process leads"

    async def ended(self) -> None:
        """Return once the control loops have ended; by themselves they never should. Call it after `start`."""
        if self._tasks is not None:
            await asyncio.wait([self._tasks])

    async def stop(self) -> None:
        """Stop accepting, say goodbye, finish what is under way, close the store."""
        if self._listener is not None:
            self._listener.close()
        await self.sessions.stop("the control plane is stopping")
        if self._tasks is not None:
            self._tasks.cancel()
            await asyncio.gather(self._tasks, return_exceptions=True)
        await self.archives.stop()
        await self.names.server.close()
        await self.distribution.stop()
        await self.cache.stop()
        await self.store.close()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(self._own_controllers(), self.applier))
                group.create_task(self.assignments.run())
                group.create_task(self.networks.run())
                group.create_task(self.observations.run())
                group.create_task(self.images.run())
                group.create_task(self.shares.run())
                group.create_task(self.servers.run())
                group.create_task(self.peers.run())
                group.create_task(self.leadership.run())
        except Exception:
            _log.critical("the control loops have ended", exc_info=True)
            raise

    async def _lead(self, fence: Check) -> None:
        """Do what only one process may do, for as long as the fence holds."""
        applier = Applier(self.store, self.cache, self._still_fits, binds, fence)
        schedules = ImageSchedules(self.cache, applier, self.image_requests, self.clock, new_id)
        await first_to_end(
            self._repeat(self._led_controllers(), applier),
            self._trim(),
            schedules.run(),
            Here(self.cache, self.shares, self.hub.usages, self.hub.servers, self.clock).run(),
            self._be_member(applier),
        )

    async def _be_member(self, applier: Applier) -> None:
        """Hold the session with a host, if this cluster is the member of one."""
        await (self.member(applier) if self.member is not None else asyncio.Event().wait())

    async def _repeat(self, controllers: Sequence[Controller], applier: Applier) -> None:
        runner = Runner(self.cache, applier, controllers, self.clock, self._metrics)
        changed, applied = partial(runner.wake, {SESSIONS}), partial(runner.wake, {APPLIED})
        self.hub.on_change.append(changed)
        self.hub.on_applied.append(applied)
        try:
            await runner.run()
        finally:
            self.hub.on_change.remove(changed)
            self.hub.on_applied.remove(applied)
            self._metrics.ended(controllers)

    async def _trim(self) -> None:
        while True:
            try:
                await trim_events(self.store, self.cache, self.settings, self.clock())
                await trim_lent_hours(self.store, self.cache, self.clock())
            except StoreError as error:
                _log.warning("events not trimmed", error=str(error))
            await asyncio.sleep(TRIM_SECONDS)


def _peer(settings: Settings, now: float) -> Peer:
    address = ControlAddress(
        url=settings.public_url,
        session_host=settings.session_host or urlsplit(settings.public_url).hostname or "",
        session_port=settings.session_port,
    )
    return Peer(
        id=new_id(),
        created_at=now,
        updated_at=now,
        address=address,
        version=VERSION,
        hostname=socket.gethostname(),
        region=settings.region,
        zone=settings.zone,
    )


def session_context(pair: Path, ca_pem: str) -> ssl.SSLContext:
    """Return the TLS context of the session listener, which demands a certificate of our CA.

    `pair` is a file with the server's certificate and key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # members do not resume: making tickets would only cost time and memory
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(pair)
    return context
