"""Connections that never finish a request, or do not speak HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from api_rig import Rig

from fallow.api import bodies, connections
from fallow.api.connections import Connection

Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
SECONDS = 0.3


@pytest.fixture
async def dial(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Dial]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SECONDS)
    monkeypatch.setattr(bodies, "BODY_SECONDS", SECONDS)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    config = uvicorn.Config(rig.app, http=Connection, log_config=None, lifespan="off")
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()

    def connection() -> Any:
        return Connection(config, state, {})

    server = await loop.create_server(connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    opened: list[asyncio.StreamWriter] = []

    async def open_one() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    yield open_one
    for writer in opened:
        writer.close()
    server.close()
    await asyncio.gather(*state.tasks, return_exceptions=True)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("begun", [b"", b"GET /v1/version HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nX: a\r\n" * 3])
async def test_who_never_finishes_a_head_is_cut_off(dial: Dial, begun: bytes) -> None:
    reader, writer = await dial()
    writer.write(begun)
    answer = await read_all(reader)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")


async def test_a_head_begun_after_an_answer_must_be_finished_too(dial: Dial) -> None:
    reader, writer = await dial()
    writer.write(b"GET /v1/version HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/")
    assert (await read_all(reader)).startswith(b"HTTP/1.1 200 OK")


async def test_a_body_must_arrive_in_time(dial: Dial) -> None:
    reader, writer = await dial()
    head = b"POST /v1/join HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    writer.write(head)
    answer = await read_all(reader)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:fallow:too-slow"


async def test_a_slow_answer_is_not_cut_off(dial: Dial, rig: Rig) -> None:
    reader, writer = await dial()
    credential = rig.credentials["viewer"].encode()
    writer.write(b"GET /v1/watch HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + credential + b"\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"event: bookmark"), 10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readuntil(b"\0"), 4 * SECONDS)
    assert not reader.at_eof()


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_a_problem_document(dial: Dial, sent: bytes) -> None:
    reader, writer = await dial()
    writer.write(sent)
    head, _, body = (await read_all(reader)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(body)["type"] == "urn:fallow:bad-request"


async def test_too_many_connections_are_turned_away(dial: Dial) -> None:
    for _ in range(3):
        await dial()
    reader, _ = await dial()
    assert await read_all(reader) == b""
