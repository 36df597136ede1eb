"""Hollow agents: thousands of members in one process, real to a control plane and empty inside.

Real: a key and a join of its own for each (on one connection: the CA fetched, it and the server checked against the
token, then the bundle, signed, as `fallow join` does it), a TLS 1.3 session with its own certificate, every frame, a
heartbeat at the pace the control plane asks for, serial numbers and acknowledged batches. Each calls from a loopback
address of its own, so that it has all host ports of that address. Hollow: there is no engine and no journal; an
assignment is answered at once as running and healthy, and as stopped when it is to be stopped. An order to pull is
answered at once as done, with the images it then has.

Started by the other benchmarks, which send one command a line and read one JSON line in answer:

    python benchmarks/hollow.py URL --first 0 --count 1000
"""

import argparse
import asyncio
import asyncio.sslproto
import functools
import hmac
import json
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fallow.client.joining import ca_key_sha256, check_server, signed
from fallow.model.credentials import SERVER_NAME, parse_join_credential
from fallow.model.deployments import Activity, Health, Observation
from fallow.model.frames import Frame
from fallow.model.image_frames import ImagesReported, ImageTasksReported, ImageTasksStored, SetImageTasks
from fallow.model.image_jobs import ImageOrder, TaskReport
from fallow.model.images import NodeImage
from fallow.model.members import Facts, Identity, JoinRequest, Role
from fallow.model.wire import (
    PROTOCOL_VERSION,
    Assign,
    Assignment,
    Heartbeat,
    Hello,
    Observed,
    ObservedAck,
    Reject,
    Usage,
    Welcome,
    decode_to_member,
    encode_frame,
)
from fallow.version import VERSION

FACTS = Facts(hostname="hollow", os="Debian 12", architecture="amd64", cpus=32.0, memory_bytes=2**36, disk_bytes=2**40)
BEAT = encode_frame(Heartbeat(usage=Usage(cpus=1.5, memory_bytes=2**33, disk_free_bytes=2**39, containers=2)))
BEAT_TICK_SECONDS = 0.02

asyncio.sslproto.SSLProtocol.max_size = 16 * 1024  # or a read buffer of 256 KiB for each of thousands of connections


class Agent(asyncio.Protocol):
    """One member: what it is, and its session once that is open."""

    def __init__(self, index: int, url: str, answered: Callable[[str, bool], None]) -> None:
        parts = urlsplit(url)
        self.api = (parts.hostname or "", parts.port or 443)
        self.source = f"127.{1 + index // 62500}.{index // 250 % 250}.{1 + index % 250}"
        self.name = f"hollow-{index}"
        self.identity: Identity | None = None
        self.heartbeat_seconds = 0.0
        self.transport: asyncio.Transport | None = None
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.unacknowledged: set[int] = set()
        self._answered = answered
        self._buffer = bytearray()
        self._serial = 0
        self._pulled: dict[str, NodeImage] = {}
        self._batch = 0
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fallow member")])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.key, hashes.SHA256())
        self.csr_pem = request.public_bytes(serialization.Encoding.PEM).decode()

    async def join(self, token: str) -> None:
        """Become a member as `fallow.client.joining` does. Raises OSError and ValueError."""
        host, port = self.api
        reader, writer = await asyncio.open_connection(
            host, port, ssl=unverified(), server_hostname=SERVER_NAME, local_addr=(self.source, 0)
        )
        try:
            ca_pem = (await self._ask(reader, writer, "GET", "/v1/ca", b"")).decode()
            if not hmac.compare_digest(ca_key_sha256(ca_pem), parse_join_credential(token).ca_sha256):
                raise ValueError("another CA than the token's")
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            check_server(host, shown, x509.load_pem_x509_certificate(ca_pem.encode()), time.time())
            body = msgspec.json.encode(signed(self._request(token, writer), self.key))
            answer = await self._ask(reader, writer, "POST", "/v1/join", body)
            self.identity = msgspec.json.decode(answer, type=Identity)
        finally:
            writer.close()

    def _request(self, token: str, writer: asyncio.StreamWriter) -> JoinRequest:
        return JoinRequest(
            token=token,
            csr_pem=self.csr_pem,
            role=Role.NODE,
            name=self.name,
            facts=FACTS,
            temporary_address=self.source,
            temporary_port=writer.get_extra_info("sockname")[1],
            sent_at=time.time(),
        )

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str, body: bytes
    ) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.api[0]}:{self.api[1]}\r\nUser-Agent: fallow/{VERSION}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}\r\n".encode() + body)
        head_bytes = await reader.readuntil(b"\r\n\r\n")
        lines = head_bytes.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        answer = await reader.readexactly(length)
        if head_bytes.split(b" ", 2)[1:2] not in ([b"200"], [b"201"]):
            raise ValueError(f"{method} {path}: {head_bytes[:100]!r} {answer[:300]!r}")
        return answer

    async def open(self, folder: Path) -> None:
        """Open the session and wait for the welcome. Raises OSError and ValueError."""
        identity = self.identity
        assert identity is not None
        context = _trusting(identity.ca_pem)
        chain = folder / self.name
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain.touch(mode=0o600)
        chain.write_bytes(key + identity.certificate_pem.encode())
        context.load_cert_chain(chain)
        chain.unlink()
        await asyncio.get_running_loop().create_connection(
            lambda: self,
            identity.session_host or self.api[0],
            identity.session_port,
            ssl=context,
            server_hostname=SERVER_NAME,
            local_addr=(self.source, 0),
        )
        await self.welcomed

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        facts = msgspec.structs.replace(FACTS, engine="hollow 1.0", agent_version=VERSION)
        self.send(Hello(protocol=PROTOCOL_VERSION, agent_version=VERSION, boot_id=self.name, facts=facts))

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the session has ended."""
        self.transport = None
        if not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError(f"the session ended before a welcome: {exc}"))

    def data_received(self, data: bytes) -> None:
        """Take in whole frames."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4 and len(buffer) >= 4 + (size := int.from_bytes(buffer[:4], "big")):
            frame = decode_to_member(bytes(buffer[4 : 4 + size]))
            del buffer[: 4 + size]
            self._received(frame)

    def _received(self, frame: Frame) -> None:
        if isinstance(frame, Assign):
            self._answer(frame.assignments)
        elif isinstance(frame, SetImageTasks):
            self._pull(frame.orders)
        elif isinstance(frame, ObservedAck | ImageTasksStored):
            self.unacknowledged.discard(frame.batch)
        elif isinstance(frame, Welcome):
            self.heartbeat_seconds = frame.heartbeat_seconds
            self.welcomed.set_result(None)
        elif isinstance(frame, Reject) and not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError(frame.reason))

    def _answer(self, assignments: Iterable[Assignment]) -> None:
        observations = []
        for wanted in assignments:
            self._answered(wanted.replica_id, wanted.run)
            self._serial += 1
            observations.append(
                Observation(
                    replica_id=wanted.replica_id,
                    serial=self._serial,
                    activity=Activity.RUNNING if wanted.run else Activity.STOPPED,
                    health=Health.HEALTHY if wanted.run else Health.UNKNOWN,
                    container_id="0" * 64,
                    started=True,
                    at=time.time(),
                )
            )
        if observations:
            self._batch += 1
            self.unacknowledged.add(self._batch)
            self.send(Observed(batch=self._batch, observations=tuple(observations)))

    def _pull(self, orders: Iterable[ImageOrder]) -> None:
        reports = []
        for order in orders:
            self._answered(order.task_id, True)
            self._pulled[order.reference] = NodeImage(
                id=f"sha256:{len(self._pulled):064x}", references=(order.reference,)
            )
            log = ("pulled",)
            reports.append(TaskReport(task_id=order.task_id, attempt=order.attempt, state="done", log=log))
        if reports:
            self._batch += 1
            self.unacknowledged.add(self._batch)
            self.send(ImageTasksReported(batch=self._batch, reports=tuple(reports)))
            self.send(ImagesReported(images=tuple(self._pulled.values())))

    def send(self, frame: Frame) -> None:
        """Send a frame if there is a session."""
        if self.transport is not None:
            self.transport.write(encode_frame(frame))


@functools.cache  # as they hold nothing of one agent
def unverified() -> ssl.SSLContext:
    """Return what connects without believing anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _trusting(ca_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    return context


class Hollow:
    """The agents of this process, and what they have received."""

    def __init__(self, url: str, first: int, count: int) -> None:
        self.run: dict[str, float] = {}  # replica id -> when its assignment came, UTC seconds
        self.stop: dict[str, float] = {}
        self.agents = [Agent(index, url, self._note) for index in range(first, first + count)]
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)

    def _note(self, replica_id: str, run: bool) -> None:
        (self.run if run else self.stop).setdefault(replica_id, time.time())

    async def join(self, token: str, parallel: int, steps: frozenset[str]) -> dict[str, Any]:
        """Let every agent join and open its session, or only one of these `steps`, `parallel` of them at a time."""
        waiting = iter(self.agents)
        joins: list[float] = []
        opens: list[float] = []
        failures: list[str] = []

        async def work() -> None:
            for agent in waiting:
                try:
                    begun = time.perf_counter()
                    if "join" in steps:
                        await agent.join(token)
                    joined = time.perf_counter()
                    if "open" in steps:
                        await agent.open(Path(self._folder.name))
                except (OSError, ValueError, EOFError) as error:
                    failures.append(f"{type(error).__name__}: {error}")
                    continue
                joins.append(joined - begun)
                opens.append(time.perf_counter() - joined)

        began = time.time()
        await asyncio.gather(*(work() for _ in range(parallel)))
        return {
            "began": began,
            "ended": time.time(),
            "opened": len(opens),
            "join_median_ms": round(1000 * statistics.median(joins or [0.0]), 1),
            "open_median_ms": round(1000 * statistics.median(opens or [0.0]), 1),
            "failed": len(failures),
            "first_failures": failures[:3],
        }

    def received(self) -> dict[str, Any]:
        """Return what came since the last call, and what still waits for an acknowledgement."""
        answer = {
            "run": self.run,
            "stop": self.stop,
            "connected": sum(agent.transport is not None for agent in self.agents),
            "unacknowledged": sum(len(agent.unacknowledged) for agent in self.agents),
        }
        self.run, self.stop = {}, {}
        return answer

    async def beat(self) -> None:
        """Send every open session its heartbeats, spread evenly over the interval."""
        due = 0.0
        while True:
            seconds = next((agent.heartbeat_seconds for agent in self.agents if agent.heartbeat_seconds), 1.0)
            due += len(self.agents) * BEAT_TICK_SECONDS / seconds
            now = int(due)
            for agent in self.agents[:now]:
                if agent.transport is not None and agent.welcomed.done():
                    agent.transport.write(BEAT)
            self.agents = self.agents[now:] + self.agents[:now]
            due -= now
            await asyncio.sleep(BEAT_TICK_SECONDS)


async def serve(url: str, first: int, count: int) -> None:
    """Do what standard input says until it ends."""
    loop = asyncio.get_running_loop()
    hollow = Hollow(url, first, count)
    beating = asyncio.create_task(hollow.beat())
    _answer({"ready": count})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        if command["do"] == "join":
            steps = frozenset(command["steps"])
            _answer(await hollow.join(command["token"], command["parallel"], steps))
        else:
            _answer(hollow.received())
    beating.cancel()


def _answer(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run agents until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--first", type=int, default=0, help="index of the first agent; it names and addresses them")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    asyncio.run(serve(options.url, options.first, options.count))
    os._exit(0)  # thousands of sessions need not be closed in good order


if __name__ == "__main__":
    main()
