"""A proxy in memory, for simulations: it decides as the real one does, and requests are begun and finished by hand."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from fallow.drivers.proxy.checks import check_state
from fallow.drivers.proxy.contract import ProxyError
from fallow.model.routes import Backend, BackendStats, Endpoint, ProxyReport, ProxyState

Key = tuple[str, str]  # a backend's key and mode


@dataclass
class FakeDisk:
    """What survives a FakeProxy."""

    state: ProxyState | None = None


@dataclass(eq=False)
class Request:
    """A request or connection under way; without an endpoint it was answered by the proxy, with `status`."""

    status: int
    backend: str = ""
    endpoint: Endpoint | None = None


@dataclass
class _Pool:
    """The endpoints of one backend: wanted and serving, or unwanted and serving until a wanted one is reachable."""

    serving: list[Endpoint] = field(default_factory=list)
    held: list[Endpoint] = field(default_factory=list)
    requests: int = 0
    errors_5xx: int = 0

    @property
    def usable(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.serving if endpoint.weight > 0] or self.held


class FakeProxy:
    """Keeps no time: drains last until their requests are finished or `cut` is called.

    `unreachable` holds addresses and ports that do not answer; it may be changed at any time.
    """

    def __init__(self, disk: FakeDisk | None = None) -> None:
        self.unreachable: set[tuple[str, int]] = set()
        self._disk = disk or FakeDisk()
        self._running = False
        self._state = ProxyState()
        self._pools: dict[Key, _Pool] = {}
        self._under_way: set[Request] = set()
        self._refused: set[str] = set()

    async def start(self, last_known: ProxyState | None) -> None:
        """Serve `last_known`, else what is on the disk, without asking whether its endpoints answer."""
        if self._running:
            raise ProxyError("the proxy is started already")
        state = last_known or self._disk.state or ProxyState()
        check_state(state)
        self._running = True
        self._take(state, {(backend.key, backend.mode): list(backend.endpoints) for backend in state.backends})

    async def apply(self, state: ProxyState) -> None:
        """Do `state`, with those of its endpoints that are reachable or served already."""
        self._must_run()
        check_state(state)
        if state.same_content(self._state) and not self._refused:
            self._state = state
            return
        self._take(state, {(backend.key, backend.mode): self._admitted(backend) for backend in state.backends})

    async def report(self) -> ProxyReport:
        """Return what it does now."""
        self._must_run()
        wanted: set[tuple[str, str, str]] = {
            (found.key, found.mode, endpoint.id) for found in self._state.backends for endpoint in found.endpoints
        }
        in_use = {request.endpoint.id for request in self._under_way if request.endpoint and not _is(request, wanted)}
        held = {endpoint.id for pool in self._pools.values() for endpoint in pool.held}
        return ProxyReport(
            applied_revision=self._state.revision,
            draining=tuple(sorted(in_use | held)),
            refused=tuple(sorted(self._refused)),
            backends=tuple(self._stats(key, pool) for (key, _), pool in sorted(self._pools.items())),
        )

    async def version(self) -> str:
        """Return a name and version."""
        return "fake 1.0"

    async def stop(self) -> None:
        """Stop it."""
        self._running = False
        self._under_way.clear()

    async def release(self) -> None:
        """Forget it, as if our process had been killed."""
        self._running = False

    def begin(self, host: str, path: str) -> Request:
        """Begin a request; pass it to `finish` when its endpoint has answered."""
        self._must_run()
        name = host.lower().partition(":")[0].removesuffix(".")
        fitting = [route for route in self._state.http if route.host.lower() in {name, ""} and _below(path, route.path)]
        if not fitting:
            return Request(404)
        best = max(fitting, key=lambda route: (route.host != "", len(route.path.rstrip("/"))))
        return self._send((best.backend, "http"))

    def connect(self, port: int) -> Request:
        """Begin a TCP connection; refused (status 503) when nothing listens or nothing serves."""
        self._must_run()
        for route in self._state.tcp:
            if route.listen == port:
                return self._send((route.backend, "tcp"))
        return Request(503)

    def finish(self, request: Request) -> None:
        """End a request."""
        self._under_way.discard(request)

    def cut(self, endpoint_ids: Iterable[str]) -> None:
        """End all requests of endpoints, as a drain's deadline does."""
        ids = set(endpoint_ids)
        self._under_way = {found for found in self._under_way if not (found.endpoint and found.endpoint.id in ids)}

    def _send(self, key: Key) -> Request:
        pool = self._pools[key]
        pool.requests += 1
        answering = [found for found in pool.usable if (found.address, found.port) not in self.unreachable]
        if not answering:
            pool.errors_5xx += 1
            return Request(503)
        answering = [endpoint for endpoint in answering if not endpoint.backup] or answering
        load = {endpoint.id: 0 for endpoint in answering}
        for request in self._under_way:
            if request.endpoint is not None and request.endpoint.id in load:
                load[request.endpoint.id] += 1
        chosen = min(answering, key=lambda endpoint: (load[endpoint.id], endpoint.id))
        request = Request(200, f"{key[0]} {key[1]}", chosen)
        self._under_way.add(request)
        return request

    def _admitted(self, backend: Backend) -> list[Endpoint]:
        pool = self._pools.get((backend.key, backend.mode), _Pool())
        known = {(found.id, found.address, found.port) for found in pool.serving}
        return [
            found
            for found in backend.endpoints
            if (found.id, found.address, found.port) in known or (found.address, found.port) not in self.unreachable
        ]

    def _take(self, state: ProxyState, admitted: dict[Key, list[Endpoint]]) -> None:
        pools: dict[Key, _Pool] = {}
        self._refused = set()
        for backend in state.backends:
            key = (backend.key, backend.mode)
            old = self._pools.get(key, _Pool())
            serving = admitted[key]
            self._refused.update({found.id for found in backend.endpoints} - {found.id for found in serving})
            hold = not serving and bool(backend.endpoints)
            pools[key] = _Pool(serving, old.serving + old.held if hold else [], old.requests, old.errors_5xx)
        self._pools, self._state = pools, state
        self._disk.state = state

    def _stats(self, key: str, pool: _Pool) -> BackendStats:
        active = sum(1 for request in self._under_way if request.backend.split(" ")[0] == key)
        return BackendStats(
            key=key,
            requests=pool.requests,
            errors_5xx=pool.errors_5xx,
            active=active,
            endpoints_up=sum((found.address, found.port) not in self.unreachable for found in pool.usable),
        )

    def _must_run(self) -> None:
        if not self._running:
            raise ProxyError("the proxy is not started")


def _is(request: Request, wanted: set[tuple[str, str, str]]) -> bool:
    key, _, mode = request.backend.rpartition(" ")
    return request.endpoint is not None and (key, mode, request.endpoint.id) in wanted


def _below(path: str, prefix: str) -> bool:
    return (path + "/").startswith(prefix.rstrip("/") + "/")
