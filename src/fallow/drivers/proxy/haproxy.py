"""HAProxy 2.6 or newer as a Proxy, driven through its command socket and reloaded only when its layout must change."""

import asyncio
import contextlib
from pathlib import Path

from fallow.drivers.proxy import saved
from fallow.drivers.proxy.checks import check_bind, check_folder, check_state
from fallow.drivers.proxy.config import CONFIG_FILE, MAP_FILE, Layout, Settings, map_entries, render_config, skeleton
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.counters import Counters
from fallow.drivers.proxy.process import Process, read_version
from fallow.drivers.proxy.reach import reachable
from fallow.drivers.proxy.runtime import Drift, Runtime
from fallow.drivers.proxy.servers import Key, Servers
from fallow.drivers.proxy.slots import Arrangement, arrange, by_backend, keys_by_name, same_content
from fallow.model.routes import Endpoint, ProxyReport, ProxyState

_RETRY_SECONDS = 1.0  # for endpoints not reachable, ports not free, and an HAProxy that does not do as told
_FIRST_TICK_SECONDS = 0.01
_SLOWEST_TICK_SECONDS = 0.5
_CANDIDATE_FILE = "candidate.cfg"


class HAProxy:
    """One HAProxy and its folder, which nobody else may use. The folder is made when it is not there."""

    def __init__(self, settings: Settings) -> None:
        """Raise ProxyError when a setting cannot be written into a configuration."""
        check_folder(settings.folder)
        check_bind(settings.bind_address)
        self._settings = settings
        self._folder = Path(settings.folder)
        self._wake = asyncio.Event()
        self._runtime = Runtime(settings.folder)
        self._process = Process(settings, self._runtime, self._wake.set)
        self._servers = Servers(self._runtime, settings.drain_seconds)
        self._counters = Counters()
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._state = ProxyState()  # what is wanted
        self._done = Arrangement(
            slots={}, layout=Layout(generation=0, backends=settings.spare_backends), endpoints={}, closed={}
        )
        self._applied_revision = 0
        self._entries: list[str] | None = None  # the map as HAProxy has it; None: not known
        self._files: dict[str, bytes] = {}  # as last written
        self._saved: tuple[ProxyState, dict[str, int], Layout] | None = None
        self._refused: frozenset[str] = frozenset()
        self._settled = False  # HAProxy does all of `_state` that can be done
        self._trouble = ""
        self._disk_trouble = ""

    async def start(self, last_known: ProxyState | None) -> None:
        """Start HAProxy with `last_known`, else with the state saved in the folder; or adopt a running one."""
        if self._task is not None:
            raise ProxyError("the proxy is started already")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ProxyError(f"the proxy's folder {self._folder} cannot be made: {error.strerror}") from error
        before = saved.load(self._folder)
        state = last_known or (before.state if before else ProxyState())
        check_state(state)
        async with self._lock:
            self._state = state
            if before is not None:
                self._done = Arrangement(slots=before.slots, layout=before.layout, endpoints={}, closed={})
            found = await self._process.find()
            if found is None:
                await self._launch()
            else:
                self._process.watch(found.master)
                self._runtime.generation = self._done.layout.generation
                await self._recover()
        self._task = asyncio.create_task(self._tend(), name="haproxy")

    async def apply(self, state: ProxyState) -> None:
        """Make it do `state`."""
        self._must_be_started()
        check_state(state)
        async with self._lock:
            if self._settled and not self._refused and not self._done.closed and same_content(state, self._state):
                self._applied_revision = state.revision
                return
            self._state = state
            if self._process.died.is_set():
                await self._launch()
                return
            try:
                await self._converge()
            except Drift:
                await self._recover()

    async def report(self) -> ProxyReport:
        """Return what it does now; `message` says what is wrong, if anything is."""
        self._must_be_started()
        trouble = self._trouble
        changes = self._servers.changes
        try:
            rows = await self._runtime.statistics()
        except ProxyError as error:
            trouble = trouble or str(error)
        else:
            self._count(rows)
            if changes == self._servers.changes and not self._lock.locked():
                self._look_for_drift(rows)
        closed = [f"tcp port {port} is not open: {why}" for port, why in sorted(self._done.closed.items())]
        return ProxyReport(
            applied_revision=self._applied_revision,
            draining=tuple(sorted(self._servers.leaving)),
            refused=tuple(sorted(self._refused)),
            backends=self._counters.stats(),
            message="; ".join(filter(None, [trouble, self._disk_trouble, *closed])),
        )

    async def version(self) -> str:
        """Return `haproxy 2.6.12`."""
        return f"haproxy {await read_version(self._settings.program)}"

    async def stop(self) -> None:
        """Stop HAProxy; connections get `settings.stop_seconds` to finish."""
        await self._end_task()
        async with self._lock:
            await self._process.stop()

    async def release(self) -> None:
        """Leave HAProxy running, for a successor to adopt."""
        await self._end_task()
        self._process.release()

    async def _end_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _must_be_started(self) -> None:
        if self._task is None:
            raise ProxyError("the proxy is not started")

    # Everything below that changes HAProxy is called with the lock held.

    async def _tend(self) -> None:
        """Take drains further, try again what failed, and start HAProxy again when it has ended."""
        tick = _FIRST_TICK_SECONDS
        retry_at = self._now() + _RETRY_SECONDS
        while True:
            waiting = bool(self._refused or self._done.closed or not self._settled)
            pause = tick if self._servers.draining and self._settled else _RETRY_SECONDS if waiting else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
                tick = _FIRST_TICK_SECONDS
            self._wake.clear()
            tick = min(tick * 1.5, _SLOWEST_TICK_SECONDS)
            again = waiting and self._now() >= retry_at
            if again:
                retry_at = self._now() + _RETRY_SECONDS
            async with self._lock:
                try:
                    await self._tend_once(again)
                    self._trouble = ""
                except ProxyError as error:
                    self._settled = False
                    self._trouble = str(error)
                    await asyncio.sleep(_RETRY_SECONDS)

    async def _tend_once(self, again: bool) -> None:
        if self._process.died.is_set():
            await self._launch()
        elif not self._settled:
            await self._recover()
        else:
            await self._servers.advance(self._now())
            if again:
                await self._converge()

    async def _launch(self) -> None:
        """Start HAProxy with everything that is wanted, unprobed: what served last serves again at once."""
        self._settled = False
        self._servers.table.clear()
        plan = arrange(self._settings, self._state, self._done, occupied=(), running=False)
        entries = map_entries(self._state.http, plan.slots)
        self._write_config(plan.layout, plan.endpoints, entries)
        self._runtime.generation = plan.layout.generation
        await self._process.start()
        self._counters.begin_anew()
        self._refused = frozenset()
        self._servers.reloaded(plan.endpoints, held=(), now=self._now())
        await self._save(plan)
        self._arrived(plan, entries)

    async def _recover(self) -> None:
        """Read back what HAProxy has and mend it; one made by another version or with other settings is reloaded."""
        self._settled = False
        self._entries = None
        try:
            await self._servers.read_back(self._now())
            running = skeleton((self._folder / CONFIG_FILE).read_text())
        except (OSError, ProxyError):
            running = ""
        reload = running != skeleton(render_config(self._settings, self._done.layout, {}))
        await self._converge(reload=reload)

    async def _converge(self, reload: bool = False) -> None:
        """Make HAProxy do `_state`: new endpoints first, then the routes, and only then are others drained."""
        self._settled = False
        plan = arrange(self._settings, self._state, self._done, self._servers.occupied, running=True)
        if reload and plan.layout.generation == self._done.layout.generation:
            plan = with_next_generation(plan)
        missing = self._servers.missing(plan.endpoints)
        reached = await reachable(missing.values())
        refused = {key for key, found in missing.items() if (found.address, found.port) not in reached}
        serving = {key: found for key, found in plan.endpoints.items() if key not in refused}
        held = self._servers.held(plan.endpoints, serving, self._now())
        entries = map_entries(self._state.http, plan.slots)
        await self._save(plan)
        if plan.layout.generation != self._done.layout.generation:
            await self._reload(plan, serving | {key: self._servers.table[key].endpoint for key in held}, entries)
            self._servers.reloaded(self._servers.in_service_of(serving, held), held, self._now())
