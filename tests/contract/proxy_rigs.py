"""What the proxy contract's tests need of a back-end: endpoints to serve, and requests to send."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fallow.drivers.proxy.contract import Proxy
from fallow.drivers.proxy.fake import FakeDisk, FakeProxy, Request
from fallow.drivers.proxy.haproxy import HAProxy
from fallow.model.routes import Backend, Endpoint, HttpRoute, ProxyReport, ProxyState, TcpRoute
from testbed import parts
from testbed.ports import free_port

DEADLINE_SECONDS = 10.0
HOST = "shop.test"
KEY = "shop/web:80"


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until the condition holds, at most DEADLINE_SECONDS."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = condition()
            if (found if isinstance(found, bool) else await found) is True:
                return
            await asyncio.sleep(0.01)


async def reported(proxy: Proxy, condition: Callable[[ProxyReport], bool]) -> ProxyReport:
    """Return the first report that fulfils the condition."""
    found: list[ProxyReport] = []

    async def fulfilled() -> bool:
        found.append(await proxy.report())
        return condition(found[-1])

    await until(fulfilled)
    return found[-1]


def web(revision: int, *endpoints: Endpoint, host: str = HOST, path: str = "/", key: str = KEY) -> ProxyState:
    """Return a state with one http route."""
    return ProxyState(
        revision=revision,
        http=(HttpRoute(host=host, path=path, backend=key),),
        backends=(Backend(key=key, endpoints=endpoints),),
    )


def wire(revision: int, listen: int, *endpoints: Endpoint, key: str = "shop/db:5432") -> ProxyState:
    """Return a state with one tcp route."""
    return ProxyState(
        revision=revision,
        tcp=(TcpRoute(listen=listen, backend=key),),
        backends=(Backend(key=key, mode="tcp", endpoints=endpoints),),
    )


def both(revision: int, one: ProxyState, other: ProxyState) -> ProxyState:
    """Return a state with everything of two."""
    return ProxyState(
        revision=revision,
        http=one.http + other.http,
        tcp=one.tcp + other.tcp,
        backends=one.backends + other.backends,
    )


@dataclass
class Answer:
    """A response; `status` 0 when there was none."""

    status: int
    body: str = ""


class Held(Protocol):
    """A request under way."""

    async def finish(self) -> Answer:
        """Let its endpoint answer, and return the answer."""


class Rig(Protocol):
    """A proxy under test, not yet started."""

    proxy: Any

    async def endpoint(self, name: str) -> Endpoint:
        """Return an endpoint that answers every request with its name."""

    async def kill(self, endpoint: Endpoint) -> None:
        """Make it answer no more; its connections break."""

    async def revive(self, endpoint: Endpoint) -> None:
        """Make it answer again at its address and port."""

    async def get(self, host: str, path: str = "/") -> Answer:
        """Send a request through the proxy."""

    async def get_by_port(self, port: int) -> Answer:
        """Connect to a TCP port of the proxy and send a request."""

    async def hold(self, host: str) -> Held:
        """Begin a request and return when it has reached its endpoint."""

    async def successor(self) -> None:
        """Leave the proxy alone and make `proxy` a new one, not started, with what the old one kept."""


class FakeRig:
    """A FakeProxy."""

    def __init__(self) -> None:
        self._disk = FakeDisk()
        self.proxy = FakeProxy(self._disk)
        self._port = 1000

    async def endpoint(self, name: str) -> Endpoint:
        self._port += 1
        return Endpoint(id=name, address="10.0.0.1", port=self._port)

    async def kill(self, endpoint: Endpoint) -> None:
        self.proxy.unreachable.add((endpoint.address, endpoint.port))

    async def revive(self, endpoint: Endpoint) -> None:
        self.proxy.unreachable.discard((endpoint.address, endpoint.port))

    async def get(self, host: str, path: str = "/") -> Answer:
        return self._answered(self.proxy.begin(host, path))

    async def get_by_port(self, port: int) -> Answer:
        answer = self._answered(self.proxy.connect(port))
        return answer if answer.status == 200 else Answer(0)

    async def hold(self, host: str) -> "FakeHeld":
        return FakeHeld(self, self.proxy.begin(host, "/hold"))

    async def successor(self) -> None:
        await self.proxy.release()
        self.proxy = FakeProxy(self._disk)

    def _answered(self, request: Request) -> Answer:
        self.proxy.finish(request)
        return Answer(request.status, request.endpoint.id if request.endpoint else "")


@dataclass
class FakeHeld:
    """A request to a FakeProxy."""

    rig: FakeRig
    request: Request

    async def finish(self) -> Answer:
        return self.rig._answered(self.request)


@dataclass(eq=False)
class Server:
    """An HTTP server on the loopback address; `/hold` waits for `gate`, `/vanish` breaks the connection."""

    name: str
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    requests: list[str] = field(default_factory=list)  # the heads, as received
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head)
        path = head.split(" ")[1]
        if path == "/vanish":
            raise ConnectionResetError
        if path == "/hold":
            self.held += 1
            await self.gate.wait()
        body = self.name.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()


class HttpClient:
    """A client that never tries again; `keep` uses one connection as long as the proxy leaves it open."""

    def __init__(self, port: int, keep: bool = False) -> None:
        self._port = port
        self._keep = keep
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, host: str, path: str = "/", method: str = "GET", headers: str = "") -> Answer:
        """Return the answer; status 0 when the connection broke before it."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return await self._request(host, path, method, headers)
        except (OSError, asyncio.IncompleteReadError):
            await self.close()
            return Answer(0)

    async def close(self) -> None:
        """Close the connection kept."""
        if self._pair is not None:
            self._pair[1].close()
            with contextlib.suppress(OSError):
                await self._pair[1].wait_closed()
            self._pair = None

    async def _request(self, host: str, path: str, method: str, headers: str) -> Answer:
        if self._pair is None:
            self._pair = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._pair
        connection = "" if self._keep else "connection: close\r\n"
        length = "content-length: 0\r\n" if method == "POST" else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{connection}{length}{headers}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length_given = next((line for line in head.split("\r\n") if line.startswith("content-length:")), ":0")
        body = (await reader.readexactly(int(length_given.partition(":")[2]))).decode()
        if not self._keep or "connection: close" in head:
            await self.close()
        return Answer(int(head.split(" ")[1]), body)


class HAProxyRig:
    """A real HAProxy on the loopback address, with real servers behind it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self._options = options
        self.servers: dict[str, Server] = {}
        self.clients: list[HttpClient] = []
        self.proxy = self._make()

    def _make(self) -> HAProxy:
        return HAProxy(self.folder, http_port=self.port, bind_address="127.0.0.1", **self._options)

    async def endpoint(self, name: str) -> Endpoint:
        server = self.servers[name] = Server(name)
        await server.start()
        return Endpoint(id=name, address="127.0.0.1", port=server.port)

    async def kill(self, endpoint: Endpoint) -> None:
        await self.servers[endpoint.id].kill()

    async def revive(self, endpoint: Endpoint) -> None:
        await self.servers[endpoint.id].start()

    def client(self, keep: bool = False, port: int = 0) -> HttpClient:
        self.clients.append(HttpClient(port or self.port, keep))
        return self.clients[-1]

    async def get(self, host: str, path: str = "/") -> Answer:
        return await self.client().request(host, path)

    async def get_by_port(self, port: int) -> Answer:
        return await self.client(port=port).request("any.test")

    async def hold(self, host: str) -> "RealHeld":
        before = sum(server.held for server in self.servers.values())
        task = asyncio.create_task(self.client().request(host, "/hold"))
        await until(lambda: sum(server.held for server in self.servers.values()) > before)
        return RealHeld(self, task)

    async def successor(self) -> None:
        await self.proxy.release()
        self.proxy = self._make()

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for server in self.servers.values():
            server.gate.set()
            await server.kill()
        if not self.folder.exists():
            return
        with contextlib.suppress(Exception):
            await self.proxy.start(None)  # whoever let go of it, it is stopped here
        await self.proxy.stop()


@dataclass
class RealHeld:
    """A request to a real server."""

    rig: HAProxyRig
    task: asyncio.Task[Answer]

    async def finish(self) -> Answer:
        for server in self.rig.servers.values():
            server.gate.set()
        return await self.task


@contextlib.asynccontextmanager
async def rig_of(kind: str, folder: Path, **options: Any) -> AsyncIterator[Any]:
    """Yield a rig, and clean up everything it made."""
    if kind == "fake":
        yield FakeRig()
        return
    parts.require("haproxy")
    rig = HAProxyRig(folder, **options)
    try:
        yield rig
    finally:
        await rig.close()
