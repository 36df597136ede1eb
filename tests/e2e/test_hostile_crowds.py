"""A real control plane and those who only stand in the door: handshakes that never end, beside a member at work."""

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path

import pytest
from victim import Victim, join

from fallow.model.credentials import SERVER_NAME
from fallow.model.members import Facts
from fallow.model.wire import Heartbeat, Hello, Usage, Welcome, decode_to_member, encode_frame
from testbed import processes

HALF_OPEN = 1000
HELLO = Hello(protocol=1, agent_version="x", boot_id="b", facts=Facts(cpus=4, memory_bytes=2**32, architecture="amd64"))
OPENING = b"\x16\x03\x01\x02\x00"  # a handshake record that announces 512 bytes, which never come


pytestmark = pytest.mark.usefixtures("unharmed_victim")


class Member:
    """A member that beats while the test goes on."""

    def __init__(self, victim: Victim, chain: Path) -> None:
        self._victim = victim
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(cadata=victim.ca_pem)
        self._context.load_cert_chain(chain)

    async def open(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._victim.session_port, ssl=self._context, server_hostname=SERVER_NAME,
                local_addr=(source, 0),
            )  # fmt: skip
            writer.write(encode_frame(HELLO))
            frame = decode_to_member(await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big")))
            assert isinstance(frame, Welcome), frame
            return reader, writer


async def patient(member: Member, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a session as agents do: who is turned away in a crowd comes again."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await member.open(source)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.05)


async def beat(writer: asyncio.StreamWriter, cpus: list[float]) -> None:
    while True:
        cpus[0] += 0.25
        writer.write(encode_frame(Heartbeat(usage=Usage(cpus=cpus[0]))))
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("port", ["session_port", "port"])
async def test_a_thousand_half_open_handshakes_keep_nobody_out(victim: Victim, port: str) -> None:
    (identity, chain), (_, other_chain) = [await asyncio.to_thread(join, victim) for _ in range(2)]
    _, writer = await Member(victim, chain).open()
    cpus = [0.0]
    beating = asyncio.create_task(beat(writer, cpus))

    def view(member_id: str) -> dict[str, object]:
        until = time.monotonic() + 10
        while True:
            try:
                return dict(victim.ask("GET", f"/v1/members/{member_id}").body)
            except OSError:  # in a crowd, who comes last has to come again
                assert time.monotonic() < until

    with contextlib.ExitStack() as stack:
        lines = []
        for number in range(HALF_OPEN):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", getattr(victim, port)), 10))
            with contextlib.suppress(OSError):  # in a crowd the last are turned away at once
                line.sendall(OPENING)
            line.setblocking(False)
            lines.append(line)
            if number % 20 == 0:
                await asyncio.sleep(0)
        await asyncio.to_thread(
            processes.wait_until, lambda: sum(map(cut, lines)) >= HALF_OPEN // 3, 10, "what is too much is turned away"
        )
        for _ in range(3):  # from another address, and, since what stands there is old by now, from the same
            for source in ("127.0.0.2", "127.0.0.1"):
                _, newcomer = await patient(Member(victim, other_chain), source)
                newcomer.transport.abort()
        before = cpus[0]
        seen = await asyncio.to_thread(view, str(identity["member_id"]))
        assert seen["connected"]
        assert isinstance(seen["used_cpus"], float)
        await asyncio.to_thread(
            processes.wait_until,
            lambda: float(str(view(identity["member_id"])["used_cpus"])) > before,
            5,
            "a later beat",
        )
    beating.cancel()
    writer.transport.abort()


def cut(line: socket.socket) -> bool:
    try:
        return line.recv(64) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_a_flood_of_hellos_of_one_member_leaves_one_session(victim: Victim) -> None:
    identity, chain = await asyncio.to_thread(join, victim)
    member = Member(victim, chain)
    opened = [await member.open() for _ in range(30)]
    for reader, _ in opened[:-1]:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
    view = await asyncio.to_thread(victim.ask, "GET", f"/v1/members/{identity['member_id']}")
    assert view.body["connected"]
    assert not opened[-1][0].at_eof()
    for _, writer in opened:
        writer.transport.abort()
