"""The servers inside HAProxy: what is there, and how one comes, is drained and goes.

A server leaves in steps: no new requests (drain), no sessions left or its time is over, maintenance, deleted. Requests
and connections that a worker from before a reload is still busy with count too.
"""

import enum
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fallow.drivers.proxy.config import endpoint_id, is_backup, server_name, server_words
from fallow.drivers.proxy.contract import ProxyError
from fallow.drivers.proxy.runtime import Drift, Runtime, command
from fallow.model.routes import Endpoint

Key = tuple[str, str]  # names of backend and server

_CUT_SECONDS = 3.0  # after its deadline, to end sessions again: an old worker tries a GET again where it was
_QUIET_READINGS = 2  # a request may be on its way to its server while the first reading is taken


class Phase(enum.Enum):
    """What a server does."""

    SERVING = "serving"
    HELD = "held"  # unwanted, but serving until a wanted one of its backend is reachable
    DRAINING = "draining"


@dataclass(slots=True)
class Server:
    """One server; `here` says whether the current worker has it, or only a worker from before a reload."""

    endpoint: Endpoint
    phase: Phase = Phase.SERVING
    here: bool = True
    deadline: float = 0.0
    quiet: int = 0


class Servers:
    """Every server that may have requests. Methods that speak to HAProxy raise ProxyError; Drift when it disagrees."""

    def __init__(self, runtime: Runtime, drain_seconds: float) -> None:
        self._runtime = runtime
        self._drain_seconds = drain_seconds
        self.table: dict[Key, Server] = {}
        self.changes = 0  # grows with every change of the table

    @property
    def in_service(self) -> dict[Key, Endpoint]:
        """Return the endpoints that get requests from the current worker."""
        return {
            key: server.endpoint
            for key, server in self.table.items()
            if server.here and server.phase is not Phase.DRAINING
        }

    @property
    def draining(self) -> bool:
        """Say whether `advance` has something to do."""
        return any(server.phase is Phase.DRAINING for server in self.table.values())

    @property
    def leaving(self) -> frozenset[str]:
        """Return the ids of endpoints that are not wanted but may still have requests."""
        return frozenset(server.endpoint.id for server in self.table.values() if server.phase is not Phase.SERVING)

    @property
    def occupied(self) -> set[str]:
        """Return the names of backends that have servers in the current worker."""
        return {backend for (backend, _), server in self.table.items() if server.here}

    def missing(self, wanted: Mapping[Key, Endpoint]) -> dict[Key, Endpoint]:
        """Return those of `wanted` that the current worker does not have."""
        return {key: found for key, found in wanted.items() if key not in self.table or not self.table[key].here}

    async def serve(self, wanted: Mapping[Key, Endpoint]) -> None:
        """Make every one of `wanted` get requests, with the weight it should have."""
        for key, endpoint in wanted.items():
            server = self.table.get(key)
            if server is None or not server.here:
                await self._add(key, endpoint)
            else:
                await self._keep(key, server, endpoint)

    async def _add(self, key: Key, endpoint: Endpoint) -> None:
        place = "/".join(key)
        answer = await self._runtime.ask(
            command("add", "server", place, *server_words(endpoint).split()),
            command("enable", "health", place),
            command("set", "server", place, "state", "ready"),
        )
        if answer.strip() != "New server registered.":
            raise Drift(f"HAProxy did not take endpoint {endpoint.id}: {answer.strip()}")
        self.table[key] = Server(endpoint)
        self.changes += 1

    async def _keep(self, key: Key, server: Server, endpoint: Endpoint) -> None:
        place = "/".join(key)
        if server.phase is Phase.DRAINING:
            await self._tell(command("enable", "health", place), command("set", "server", place, "state", "ready"))
            self.changes += 1
        if server.endpoint.weight != endpoint.weight:
            await self._tell(command("set", "server", place, "weight", str(endpoint.weight)))
        server.endpoint, server.phase, server.quiet = endpoint, Phase.SERVING, 0

    def held(self, wanted: Mapping[Key, Endpoint], serving: Mapping[Key, Endpoint], now: float) -> set[Key]:
        """Return what serves, is not wanted, and is to go on: where none of a backend's wanted endpoints serves.

        Held for no longer than a drain takes: by then the container may be stopped and its port be given to another.
        """
        unserved = {backend for backend, _ in wanted} - {backend for backend, _ in serving}
        return {
            key
            for key, server in self.table.items()
            if key[0] in unserved
            and key not in wanted
            and (server.phase is Phase.SERVING or (server.phase is Phase.HELD and now < server.deadline))
        }

    async def retire(self, wanted: Mapping[Key, Endpoint], held: Collection[Key], now: float) -> None:
        """Begin to drain what serves and is neither wanted nor held."""
        for key, server in self.table.items():
            if key in wanted or server.phase is Phase.DRAINING:
                continue
            if server.phase is Phase.SERVING:
                server.deadline = now + self._drain_seconds
            if key in held:
                server.phase = Phase.HELD
            else:
                if server.here:
                    await self._tell(command("set", "server", "/".join(key), "state", "drain"))
                server.phase, server.quiet = Phase.DRAINING, 0
            self.changes += 1

    def reloaded(self, in_file: Mapping[Key, Endpoint]) -> None:
        """Note that a new worker runs, which has the servers `in_file`; all others only old workers have."""
        for key, server in self.table.items():
            server.here = key in in_file
        for key, endpoint in in_file.items():
            if key not in self.table or self.table[key].phase is Phase.DRAINING:
                self.table[key] = Server(endpoint)
        self.changes += 1

    async def advance(self, now: float) -> None:
        """Take every drain as far as it goes: delete servers without sessions, and end sessions past the deadline."""
        draining = [(key, server) for key, server in self.table.items() if server.phase is Phase.DRAINING]
        if not draining:
            return
        old_workers = (await self._runtime.processes()).old_workers
        sessions = await self._runtime.sessions(old_workers)
        for key, server in draining:
            busy = sessions.get(key, 0) > 0
            server.quiet = 0 if busy else server.quiet + 1
            if busy and now >= server.deadline:
                await self._cut(key, server, old_workers)
            if server.quiet < _QUIET_READINGS and now < server.deadline + _CUT_SECONDS:
                continue
            if server.here and not await self._delete(key):
                continue
            del self.table[key]
            self.changes += 1

    async def read_back(self, now: float) -> None:
        """Make the table what the current worker really has, endpoints that we did not know of included."""
        rows = {(row.backend, row.name): row for row in await self._runtime.servers() if ":" in row.name}
        for key, server in list(self.table.items()):
            if server.here and key not in rows:
                server.here = False  # what drained may still have sessions in an old worker
                if server.phase is not Phase.DRAINING:
                    del self.table[key]
        for key, row in rows.items():
            known = self.table.get(key)
            server = known if known is not None and known.here else Server(_endpoint(row.name, row.address, row.port))
            server.endpoint = _endpoint(row.name, row.address, row.port, row.weight)
            if not row.ready:
                server.phase = Phase.DRAINING
                server.deadline = server.deadline or now + self._drain_seconds
            elif server.phase is Phase.DRAINING:
                server.phase = Phase.SERVING
            self.table[key] = server
        self.changes += 1

    async def _delete(self, key: Key) -> bool:
        place = "/".join(key)
        answer = await self._runtime.ask(
            command("set", "server", place, "state", "maint"), command("del", "server", place)
        )
        # Idle connections to the server may need a moment to be closed; the next round tries again.
        return "Server deleted." in answer or "No such server." in answer

    async def _cut(self, key: Key, server: Server, old_workers: Iterable[int]) -> None:
        """End its sessions. A GET that is cut off is tried again: on another endpoint, as this is in maintenance."""
        place = "/".join(key)
        if server.here:
            await self._runtime.ask(
                command("set", "server", place, "state", "maint"), command("shutdown", "sessions", "server", place)
            )
        await self._runtime.end_old_sessions(*key, old_workers)

    async def _tell(self, *commands: str) -> None:
        answer = (await self._runtime.ask(*commands)).strip()
        if answer:
            raise Drift(f"HAProxy answered: {answer}")


def place_of(backend: str, endpoint: Endpoint) -> Key:
    """Return the names of an endpoint's backend and server."""
    return backend, server_name(endpoint)


def _endpoint(name: str, address: str, port: int, weight: int = 100) -> Endpoint:
    if not 1 <= port <= 65535:
        raise ProxyError(f"HAProxy has a server {name!r} without a port")
    return Endpoint(id=endpoint_id(name), address=address, port=port, weight=weight, backup=is_backup(name))
