"""Sessions over real TLS on loopback: a CA, members with keys of their own, and connections that say anything."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from admission_rig import csr_of, new_key
from control_rig import Stored, ended, storing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from records import member, peer
from registry_rig import registry_parts

from fallow.client.frames import read_frame
from fallow.control.admission import Admission
from fallow.control.assignments import Assignments
from fallow.control.blobs import Blobs
from fallow.control.hub import Hub
from fallow.control.images import Images
from fallow.control.leader import Leadership
from fallow.control.networks import Networks
from fallow.control.observations import Observations
from fallow.control.peers import Peers
from fallow.control.plane import session_context
from fallow.control.servers import Servers
from fallow.control.sessions import Sessions
from fallow.control.settings import Settings
from fallow.control.shares import Shares
from fallow.control.upgrades import Upgrades
from fallow.control.vm_tokens import VmTokens
from fallow.drivers.authority import Authority, key_sha256_of_request
from fallow.drivers.packages import Packages
from fallow.model.credentials import SERVER_NAME
from fallow.model.frames import Frame
from fallow.model.image_frames import SetImageTasks
from fallow.model.members import Member, Role
from fallow.model.wire import PROTOCOL_VERSION, Hello, ToMember, decode_to_member, encode_frame
from fallow.store.contract import Check

T = TypeVar("T", bound=Frame)

GONE = (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError)


class Machine:
    """A member's key, its record, and the TLS context it dials with."""

    def __init__(self, authority: Authority, folder: Path, name: str, role: Role = Role.NODE) -> None:
        self.authority = authority
        self.folder = folder
        self.key = new_key()
        self.csr = csr_of(self.key)
        self.record: Member = member(
            name, id=f"{role[0]}-{name}", role=role, revision=0, key_sha256=key_sha256_of_request(self.csr),
        )  # fmt: skip

    def context(self, authority: Authority | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> Any:
        """Return the context, with another CA's signature or for another key when asked."""
        key = key or self.key
        issued = (authority or self.authority).issue_member(
            csr_of(key), self.record.role, self.record.id, time.time(), 3600.0
        )
        return client_context(self.authority, self.folder / f"{self.record.id}.pem", issued.certificate_pem, key)


def client_context(
    authority: Authority, file: Path, certificate_pem: str, key: ec.EllipticCurvePrivateKey
) -> ssl.SSLContext:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_text(certificate_pem + private.decode())
    context = ssl.create_default_context(cadata=authority.ca_pem)
    context.load_cert_chain(file)
    return context


class Connection:
    """One dialled connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, *frames: Frame) -> None:
        for frame in frames:
            self.writer.write(encode_frame(frame))
        await self.writer.drain()

    async def hear(self, seconds: float = 30.0) -> ToMember:
        """Return the next frame, but for the list of image tasks that every session begins with when it is empty."""
        async with asyncio.timeout(seconds):
            while True:
                frame = decode_to_member(await read_frame(self.reader))
                if frame != SetImageTasks(full=True):
                    return frame

    async def hear_a(self, kind: type[T]) -> T:
        """Return the next frame, which must be of this kind."""
        frame = await self.hear()
        assert isinstance(frame, kind), frame
        return frame

    async def hear_no_more(self) -> None:
        try:
            frame = await self.hear()
        except GONE:
            return
        raise AssertionError(frame)


class SessionRig:
    """The listener, what it hands frames to, and what was dialled."""

    def __init__(self, stored: Stored, folder: Path, authority: Authority | None = None, **changes: Any) -> None:
        self.stored = stored
        self.folder = folder
        self.authority = authority or Authority.create_or_load(folder / "ca")
        self.settings = Settings()
        self.hub = Hub(time.time)
        self.observations = Observations(stored.cache, stored.applier, time.time)
        self.assignments = Assignments(stored.cache, self.hub)
        self.networks = Networks(stored.cache, self.hub)
        self.images = Images(stored.cache, stored.applier, self.hub, time.time)
        self.blobs = Blobs(stored.cache)
        self.shares = Shares(stored.cache, stored.applier, time.time, lambda _: ())
        vm_tokens = VmTokens(
            stored.cache, stored.applier, self.settings, self.authority.ca_sha256, time.time, time.monotonic
        )
        self.servers = Servers(stored.cache, stored.applier, self.hub, vm_tokens, time.time)
        admission = Admission(stored.cache, stored.applier, self.authority, self.settings, time.time)
        leadership = Leadership(stored.store, stored.cache, peer("p1"), _never)
        self.peers = Peers(stored.cache, self.hub, leadership, self.authority, self.settings, folder)
        self.sessions = Sessions(
            cache=stored.cache,
            applier=stored.applier,
            hub=self.hub,
            images=self.images,
            admission=admission,
            assignments=self.assignments,
            networks=self.networks,
            peers=self.peers,
            observations=self.observations,
            blobs=self.blobs,
            upgrades=Upgrades(stored.cache, stored.applier, self.hub, Packages(folder / "packages"), time.time),
            pulls=registry_parts(stored.cache, stored.applier, folder, time.time).pulls,
            shares=self.shares,
            servers=self.servers,
            settings=self.settings,
            clock=time.time,
            **changes,
        )
        self.port = 0
        self._open: list[asyncio.StreamWriter] = []

    def machine(self, name: str, role: Role = Role.NODE) -> Machine:
        return Machine(self.authority, self.folder, name, role)

    async def member(self, name: str, role: Role = Role.NODE) -> Machine:
        """Return a machine that has joined."""
        machine = self.machine(name, role)
        await self.stored.write(machine.record)
        return machine

    async def dial(self, context: ssl.SSLContext) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=SERVER_NAME)
        self._open.append(writer)
        return Connection(reader, writer)

    async def session(self, machine: Machine, **more: Any) -> Connection:
        """Dial and say hello."""
        connection = await self.dial(machine.context())
        await connection.say(hello(machine, **more))
        return connection

    async def start(self) -> asyncio.Server:
        pair = self.folder / "server.pem"
        pair.write_text("".join(self.authority.issue_server([], time.time())))
        listener = await self.sessions.listen("127.0.0.1", 0, session_context(pair, self.authority.ca_pem))
        self.port = listener.sockets[0].getsockname()[1]
        return listener

    async def stop(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        await self.sessions.stop("the test is over")


async def _never(_fence: Check) -> None:
    await asyncio.Event().wait()


def hello(machine: Machine, **more: Any) -> Hello:
    values = {"protocol": PROTOCOL_VERSION, "agent_version": "1", "boot_id": "b", "facts": machine.record.facts}
    return msgspec.convert(values | more, Hello, from_attributes=True)


@asynccontextmanager
async def accepting(folder: Path, **changes: Any) -> AsyncIterator[SessionRig]:
    async with storing() as stored:
        rig = SessionRig(stored, folder, **changes)
        listener = await rig.start()
        parts = (rig.observations, rig.assignments, rig.networks, rig.images, rig.servers)
        loops = [asyncio.create_task(part.run()) for part in parts]
        try:
            yield rig
            assert not any(loop.done() for loop in loops)
        finally:
            listener.close()
            await rig.stop()
            for loop in loops:
                await ended(loop)
