"""A control plane without its API: store, loops and sessions, put together and taken apart in the right order."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from fallow.control.admission import Admission
from fallow.control.assignments import Assignments
from fallow.control.deployments import deployments_controller
from fallow.control.garbage import garbage_controller, trim_events
from fallow.control.hub import Hub
from fallow.control.ids import new_id
from fallow.control.members import members_controller
from fallow.control.observations import Observations
from fallow.control.placement import placement_controller, still_fits
from fallow.control.routes import RoutesLoop
from fallow.control.runner import Controller, Runner
from fallow.control.sessions import Sessions
from fallow.control.settings import Settings
from fallow.control.tokens import Tokens
from fallow.drivers.authority import Authority
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Store, StoreError

_log = structlog.get_logger("fallow.control")

TRIM_SECONDS = 60.0


class ControlPlane:
    """Everything between the store and the API. `clock` gives UTC seconds."""

    def __init__(self, store: Store, authority: Authority, settings: Settings, clock: Callable[[], float]) -> None:
        self.store = store
        self.settings = settings
        self.clock = clock
        self.registry = CollectorRegistry()
        self.cache = Cache(store)
        self.applier = Applier(store, self.cache, still_fits)
        self.hub = Hub(clock)
        self.tokens = Tokens(self.cache, self.applier, authority, settings, clock)
        self.admission = Admission(self.cache, self.applier, authority, settings, clock)
        self.assignments = Assignments(self.cache, self.hub)
        self.observations = Observations(self.cache, self.applier, clock)
        self.routes = RoutesLoop(self.hub, settings)
        self.sessions = Sessions(
            cache=self.cache,
            applier=self.applier,
            hub=self.hub,
            admission=self.admission,
            assignments=self.assignments,
            observations=self.observations,
            settings=settings,
            clock=clock,
        )
        self._tasks: asyncio.Task[None] | None = None
        self._listener: asyncio.Server | None = None

    def controllers(self) -> Sequence[Controller]:
        """Return every control loop."""
        return (
            members_controller(self.hub, self.settings, new_id),
            deployments_controller(new_id),
            placement_controller(new_id),
            self.routes.controller(),
            garbage_controller(),
        )

    async def start(self) -> None:
        """Load what is stored and start the loops. Raises StoreError."""
        await self.cache.start()
        self._tasks = asyncio.create_task(self._run(), name="control")

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Accept sessions; return the port. Raises OSError when it is taken."""
        self._listener = await self.sessions.listen(host, port, context)
        return int(self._listener.sockets[0].getsockname()[1])

    def not_ready(self) -> str | None:
        """Return why this control plane is not ready, or None."""
        if self._tasks is None:
            return "starting"
        return "the control loops have ended" if self._tasks.done() else None

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
        await self.cache.stop()
        await self.store.close()

    async def _run(self) -> None:
        runner = Runner(self.cache, self.applier, self.controllers(), self.clock, self.registry)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(runner.run())
                group.create_task(self.assignments.run())
                group.create_task(self.observations.run())
                group.create_task(self._trim())
        except Exception:
            _log.critical("the control loops have ended", exc_info=True)
            raise

    async def _trim(self) -> None:
        while True:
            try:
                await trim_events(self.store, self.cache)
            except StoreError as error:
                _log.warning("events not trimmed", error=str(error))
            await asyncio.sleep(TRIM_SECONDS)


def session_context(pair: Path, ca_pem: str) -> ssl.SSLContext:
    """Return the TLS context of the session listener, which demands a certificate of our CA.

    `pair` is a file with the server's certificate and key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(pair)
    return context
