"""HAProxy 2.6 or newer as a Proxy, driven through its command socket and reloaded only when its layout must change."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from fallow.drivers.folders import write_whole
from fallow.drivers.proxy import saved
from fallow.drivers.proxy.checks import check_bind, check_state
from fallow.drivers.proxy.config import (
    CONFIG_FILE,
    MAP_FILE,
    Layout,
    Settings,
    map_entries,
    render_config,
    skeleton,
    worker_socket,
)
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.counters import Counters
from fallow.drivers.proxy.process import Process, read_version
from fallow.drivers.proxy.reach import TcpAddress, reachable, tcp_address
from fallow.drivers.proxy.runtime import Drift, Runtime
from fallow.drivers.proxy.servers import Key, Servers
from fallow.drivers.proxy.slots import (
    Arrangement,
    arrange,
    by_backend,
    keys_by_name,
    names_in,
)
from fallow.model.routes import Endpoint, ProxyReport, ProxyState

_RETRY_SECONDS = 1.0  # for endpoints not reachable, ports not free, and an HAProxy that does not do as told
_FIRST_TICK_SECONDS = 0.01
_SLOWEST_TICK_SECONDS = 0.5
_CANDIDATE_FILE = "candidate.cfg"


class HAProxy:
    """One HAProxy and its folder, which nobody else may use. The folder is made when it is not there."""

    def __init__(
        self,
        folder: Path,
        *,
        http_port: int = 8080,
        bind_address: str = "",
        spare_backends: int = 64,
        drain_seconds: float = 30.0,
        program: str = "haproxy",
    ) -> None:
        """Listen on `bind_address`, an IP address (empty: every IPv4 address). Raises ProxyError when it is none.

        A new deployment needs no reload while there are spare backends; a drain may take `drain_seconds`.
        """
        check_bind(bind_address)
        settings = Settings(
            http_port=http_port,
            bind_address=bind_address,
            spare_backends=spare_backends,
            drain_seconds=drain_seconds,
            program=program,
        )
        self._settings = settings
        self._folder = folder.absolute()
        self._wake = asyncio.Event()
        self._runtime = Runtime()
        self._process = Process(self._folder, settings, self._runtime, self._wake.set)
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
        self._silent: dict[TcpAddress, Endpoint] = {}  # where those that are refused did not answer
        self._settled = False  # HAProxy does all of `_state` that can be done
        self._trouble = ""
        self._disk_trouble = ""

    async def start(self, last_known: ProxyState | None) -> None:
        """Start HAProxy with `last_known`, else with the state saved in the folder; or adopt a running one."""
        if self._task is not None:
            raise ProxyError("the proxy is started already")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._runtime.open(self._folder)
        except OSError as error:
            raise ProxyError(f"the proxy's folder {self._folder} cannot be used: {error.strerror}") from error
        before = saved.load(self._folder)
        state = last_known or (before.state if before else ProxyState())
        check_state(state)
        async with self._lock:
            self._state = state
            if before is not None:
                self._done = Arrangement(slots=before.slots, layout=before.layout, endpoints={}, closed={})
            self._runtime.generation = self._done.layout.generation
            await self._recover()
        self._task = asyncio.create_task(self._tend(), name="haproxy")

    async def apply(self, state: ProxyState) -> None:
        """Make it do `state`."""
        self._must_be_started()
        check_state(state)
        if state.same_content(self._state):
            await self._ask_again()
        async with self._lock:
            if self._settled and not self._refused and not self._done.closed and state.same_content(self._state):
                self._applied_revision = state.revision
                return
            self._state = state
            try:
                await (self._converge() if self._settled else self._recover())
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
        """Stop HAProxy; connections get `Settings.stop_seconds` to finish."""
        async with self._lock:
            await self._end_task()
            await self._process.stop()
            self._runtime.close()

    async def release(self) -> None:
        """Leave HAProxy running, for a successor to adopt."""
        async with self._lock:
            await self._end_task()
            self._process.release()
            self._runtime.close()

    async def _end_task(self) -> None:
        """End tending; the lock is held, so that it is not in the middle of something."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _must_be_started(self) -> None:
        if self._task is None:
            raise ProxyError("the proxy is not started")

    async def _ask_again(self) -> None:
        """Find out who answers by now; without the lock, since nothing else should wait for those that never do."""
        for place in await reachable(self._silent.values()):
            self._silent.pop(place, None)

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
                await self._ask_again()
                retry_at = self._now() + _RETRY_SECONDS
            async with self._lock:
                try:
                    await self._tend_once(again)
                    self._trouble = ""
                except ProxyError as error:
                    self._settled = False
                    self._trouble = str(error)

    async def _tend_once(self, again: bool) -> None:
        if not self._settled or self._process.died.is_set():
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
        await self._save(plan)
        await self._process.start()
        self._counters.begin_anew()
        self._refused, self._silent = frozenset(), {}
        self._servers.reloaded(plan.endpoints)
        self._arrived(plan, entries)

    async def _recover(self) -> None:
        """Read back what HAProxy has and mend it, or start it when it does not run.

        One made by another version or with other settings is reloaded.
        """
        self._settled = False
        self._entries = None
        if not await self._process.adopt():
            await self._launch()
            return
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
            plan = plan.reloaded()
        missing = self._servers.missing(plan.endpoints)
        reached = await reachable(found for found in missing.values() if tcp_address(found) not in self._silent)
        refused = {key for key, found in missing.items() if tcp_address(found) not in reached}
        self._silent = {tcp_address(missing[key]): missing[key] for key in refused}
        serving = {key: found for key, found in plan.endpoints.items() if key not in refused}
        held = self._servers.held(plan.endpoints, serving, self._now())
        entries = map_entries(self._state.http, plan.slots)
        await self._save(plan)
        if plan.slots != self._done.slots:
            self._count(await self._runtime.statistics())
        if plan.layout.generation != self._done.layout.generation:
            await self._reload(plan, serving, entries)
        else:
            await self._servers.serve(serving)
            if entries != self._entries:
                await self._runtime.swap_map(MAP_FILE, entries)
        await self._servers.retire(plan.endpoints, held, self._now())
        self._refused = frozenset(plan.endpoints[key].id for key in refused)
        self._arrived(plan, entries)

    def _arrived(self, plan: Arrangement, entries: list[str]) -> None:
        self._done, self._entries = plan, entries
        self._applied_revision = self._state.revision
        self._settled = True
        self._wake.set()
        try:
            # Whoever reloads or restarts HAProxy by hand gets what it does now.
            self._write_config(plan.layout, self._servers.in_service, entries)
        except ProxyError as error:
            self._disk_trouble = str(error)

    async def _reload(self, plan: Arrangement, serving: Mapping[Key, Endpoint], entries: list[str]) -> None:
        """Reload with another layout. Raises ProxyError, then HAProxy goes on as before.

        What is not wanted any more serves on in the new worker, as in the old one, until it is drained.
        """
        with contextlib.suppress(ProxyError):
            self._count(await self._runtime.statistics())
        names = names_in(plan.layout)
        endpoints = {key: found for key, found in self._servers.in_service.items() if key[0] in names} | dict(serving)
        config = render_config(self._settings, plan.layout, by_backend(endpoints)).encode()
        self._write(_CANDIDATE_FILE, config)
        self._write(MAP_FILE, _lines(entries))
        await self._process.check(_CANDIDATE_FILE)
        await self._switch(config, plan.layout.generation)
        self._done, self._entries = plan, entries
        self._servers.reloaded(endpoints)
        self._counters.begin_anew()

    async def _switch(self, config: bytes, generation: int) -> None:
        """Have HAProxy read another configuration; put the old one back when it does not take it."""
        before, old = self._files.get(CONFIG_FILE), self._runtime.generation
        self._write(CONFIG_FILE, config)
        self._runtime.generation = generation
        try:
            await self._process.reload()
        except ProxyError:
            self._runtime.generation = old
            if before is not None:
                self._write(CONFIG_FILE, before)
            raise
        (self._folder / worker_socket(old)).unlink(missing_ok=True)

    def _write_config(self, layout: Layout, endpoints: Mapping[Key, Endpoint], entries: list[str]) -> None:
        self._write(MAP_FILE, _lines(entries))
        self._write(CONFIG_FILE, render_config(self._settings, layout, by_backend(endpoints)).encode())

    def _write(self, name: str, content: bytes) -> None:
        """Write a file of the folder unless it says so already. Raises ProxyError."""
        if self._files.get(name) == content:
            return
        try:
            write_whole(self._folder / name, content)
        except OSError as error:
            raise ProxyError(f"{self._folder / name} cannot be written: {error.strerror}") from error
        self._files[name] = content

    async def _save(self, plan: Arrangement) -> None:
        """Keep what is wanted for our successor. A full disk must not stop requests: it is reported, no more."""
        wanted = (self._state, plan.slots, plan.layout)
        if wanted == self._saved:
            return
        try:
            await asyncio.to_thread(saved.save, self._folder, *wanted)
            self._saved, self._disk_trouble = wanted, ""
        except OSError as error:
            self._disk_trouble = f"the last known routes cannot be saved: {error.strerror}"

    def _count(self, rows: list[dict[str, str]]) -> None:
        self._counters.update(rows, keys_by_name(self._state, self._done.slots))

    def _look_for_drift(self, rows: list[dict[str, str]]) -> None:
        """Have everything read back when HAProxy has other servers than we remember: somebody else reloaded it."""
        there = {(row["pxname"], row["svname"]) for row in rows if ":" in row["svname"]}
        if self._settled and there != {key for key, server in self._servers.table.items() if server.here}:
            self._settled = False
            self._wake.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _lines(entries: list[str]) -> bytes:
    return "".join(f"{entry}\n" for entry in entries).encode()
