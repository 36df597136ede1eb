"""Health probes made from the agent: engines do not run them everywhere."""

import asyncio
from collections.abc import Callable
from urllib.parse import quote

from fallow.decide.agent.messages import Probe, ProbeResult
from fallow.drivers.engine.contract import Engine, EngineError
from fallow.version import VERSION

COMMANDS_AT_ONCE = 4
STATUS_LINE_BYTES = 1024
LOOPBACK = "127.0.0.1"
# Docker's port proxy accepts connections for a container that does not listen, and closes them at once.
SETTLE_SECONDS = 0.05


class ProbeFailed(Exception):  # noqa: N818 - an outcome
    """The container did not answer well; the text says how."""


class Prober:
    """Makes probes through the network or the engine. `bind_address` tells where ports are published."""

    def __init__(self, engine: Engine, bind_address: Callable[[], str] = str) -> None:
        self._engine = engine
        self._bind_address = bind_address
        self._commands = asyncio.Semaphore(COMMANDS_AT_ONCE)

    async def probe(self, order: Probe) -> ProbeResult:
        """Return the outcome of one probe, within its timeout."""
        check = order.check
        try:
            if check.kind == "command":
                await self._command(order)
            elif check.kind in ("tcp", "http"):
                async with asyncio.timeout(check.timeout_seconds):
                    await self._connect(order)
        except ProbeFailed as failed:
            return ProbeResult(replica_id=order.replica_id, serial=order.serial, outcome="failed", text=str(failed))
        except TimeoutError:
            text = f"no answer in {check.timeout_seconds:g} s"
            return ProbeResult(replica_id=order.replica_id, serial=order.serial, outcome="failed", text=text)
        except EngineError as error:
            outcome = "unknown" if error.kind == "unreachable" else "failed"
            return ProbeResult(
                replica_id=order.replica_id,
                serial=order.serial,
                outcome=outcome,  # type: ignore[arg-type]
                text=str(error),
            )
        return ProbeResult(replica_id=order.replica_id, serial=order.serial, outcome="ok")

    async def _command(self, order: Probe) -> None:
        check = order.check
        async with self._commands:
            code = await self._engine.execute(order.container.id, check.command, check.timeout_seconds)
        if code != 0:
            raise ProbeFailed(f"the health command exited with code {code}")

    async def _connect(self, order: Probe) -> None:
        """Try the port where it is published on this machine, then the container's own address."""
        if order.port is None:
            raise ProbeFailed("the health check names no port, and the container has none")
        host_port = order.container.host_ports.get(f"{order.port}/tcp")
        published = [(self._bind_address() or LOOPBACK, host_port)] if host_port else []
        places = list(published)
        if order.container.address:
            places.append((order.container.address, order.port))
        if not places:
            raise ProbeFailed(f"port {order.port} is not published, and the container has no address")
        for host, port in places:
            try:
                reader, writer = await asyncio.open_connection(host, port, limit=STATUS_LINE_BYTES)
            except OSError as error:
                reason = f"{host}:{port}: {error.strerror or error}"
                continue
            try:
                return await _ask(
                    order, reader, writer, f"{host}:{port}", host == LOOPBACK or (host, port) in published
                )
            finally:
                writer.transport.abort()
        raise ProbeFailed(reason)


async def _ask(
    order: Probe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str, published: bool
) -> None:
    """Probe over an open connection, perhaps to a published port. Raises ProbeFailed."""
    if order.check.kind == "http":
        await _get(order.check.path, reader, writer, place)
        return
    if published:
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                first = await reader.read(1)
        except TimeoutError:
            return
        except OSError as error:
            raise ProbeFailed(f"{place}: {error.strerror or error}") from error
        if not first:
            raise ProbeFailed(f"{place}: closed at once")


async def _get(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, place: str) -> None:
    target = quote(path if path.startswith("/") else f"/{path}", safe="/?&=%:@+,;~!$'()*[]")
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: {place}\r\nUser-Agent: fallow-probe/{VERSION}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
    )
    try:
        await writer.drain()
        line = await reader.readline()
    except (OSError, ValueError) as error:
        raise ProbeFailed(f"{place}: {error}") from error
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ProbeFailed(f"{place}: no HTTP answer")
    status = int(words[1])
    if not 200 <= status < 400:
        raise ProbeFailed(f"{place}{target}: HTTP status {status}")
