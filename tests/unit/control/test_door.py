"""The door: handshakes that never end are few, and do not keep others out."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from control_rig import until

from fallow.control.door import Door, Room
from fallow.drivers.authority import Authority
from fallow.model.credentials import SERVER_NAME


class Inside(asyncio.Protocol):
    """A connection whose handshake is done; it tells its peer so."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"welcome\n")


class Place:
    """A door, and what knocks at it."""

    def __init__(self, door: Door, ca_pem: str, stack: contextlib.ExitStack) -> None:
        self.door = door
        self.address = door.sockets[0].getsockname()
        self._client = ssl.create_default_context(cadata=ca_pem)
        self._stack = stack

    def knock(self, count: int, source: str = "127.0.0.1", said: bytes = b"\x16\x03\x01") -> list[socket.socket]:
        """Return connections that never get further."""
        found = []
        for _ in range(count):
            line = self._stack.enter_context(socket.create_connection(self.address, 5, (source, 0)))
            line.sendall(said)
            found.append(line)
        return found

    async def enter(self, source: str = "127.0.0.1") -> bytes:
        """Return what one that does everything right is told."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(
                *self.address, ssl=self._client, server_hostname=SERVER_NAME, local_addr=(source, 0)
            )
            try:
                return await reader.readline()
            finally:
                writer.transport.abort()


@asynccontextmanager
async def opened(folder: Path, **room: Any) -> AsyncIterator[Place]:
    authority = Authority.create_or_load(folder / "ca")
    pair = folder / "server.pem"
    pair.write_text("".join(authority.issue_server([], time.time())))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    door = Door(socket.create_server(("127.0.0.1", 0), backlog=512), Inside, context, Room(**room))
    try:
        with contextlib.ExitStack() as stack:
            yield Place(door, authority.ca_pem, stack)
    finally:
        door.close()
        await door.wait_closed()


def is_open(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


async def test_who_finishes_the_handshake_comes_in_and_no_longer_counts(tmp_path: Path) -> None:
    async with opened(tmp_path, per_source=1, in_all=1) as place:
        for _ in range(3):
            assert await place.enter() == b"welcome\n"
        await until(lambda: place.door.waiting == 0)


async def test_the_oldest_of_a_full_source_makes_room(tmp_path: Path) -> None:
    async with opened(tmp_path, per_source=3, in_all=10, grace_seconds=0.0) as place:
        first, *others = place.knock(3)
        await until(lambda: place.door.waiting == 3)
        assert await place.enter() == b"welcome\n"
        await until(lambda: not is_open(first))
        assert all(map(is_open, others))


async def test_in_a_crowd_the_last_has_to_come_again_and_other_sources_do_not_notice(tmp_path: Path) -> None:
    async with opened(tmp_path, per_source=3, in_all=10, grace_seconds=60.0) as place:
        waiting = place.knock(3)
        await until(lambda: place.door.waiting == 3)
        with pytest.raises(OSError):
            await place.enter()
        assert all(map(is_open, waiting))
        assert await place.enter("127.0.0.2") == b"welcome\n"


async def test_when_all_is_full_the_largest_crowd_makes_room(tmp_path: Path) -> None:
    async with opened(tmp_path, per_source=4, in_all=5, grace_seconds=0.0) as place:
        (lone,) = place.knock(1, "127.0.0.3")
        await until(lambda: place.door.waiting == 1)
        crowd = place.knock(4, "127.0.0.2")
        await until(lambda: place.door.waiting == 5)
        assert await place.enter("127.0.0.4") == b"welcome\n"
        await until(lambda: not is_open(crowd[0]))
        assert is_open(lone)


async def test_who_takes_too_long_or_speaks_something_else_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path, handshake_seconds=0.2) as place:
        silent, other = [*place.knock(1, said=b""), *place.knock(1, said=b"GET / HTTP/1.1\r\n\r\n")]
        await until(lambda: not is_open(other))
        await until(lambda: not is_open(silent))
        await until(lambda: place.door.waiting == 0)


async def test_it_goes_on_after_the_system_could_give_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fallow.control.door.PAUSE_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(24, "Too many open files")]

    async def failing(listening: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", failing)
    async with opened(tmp_path) as place:
        assert await place.enter() == b"welcome\n"
        assert not failures
