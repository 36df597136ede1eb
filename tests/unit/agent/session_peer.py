"""The other end of a session, for tests: a CA, certificates and a TLS server that says what the test wants said."""

import asyncio
import datetime
import hashlib
import ssl
import time
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fallow.agent.identity import IdentityStore
from fallow.model import wire
from fallow.model.credentials import SERVER_NAME, member_uri
from fallow.model.members import Identity, Lease, Role

LEASE = Lease(address="10.0.0.5")


class TestCa:
    """A certificate authority that lives as long as a test."""

    __test__ = False

    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._build(name, name, self.key.public_key(), 86400, ca=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def sha256(self):
        spki = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).hexdigest()

    def _build(self, subject, issuer, public_key, seconds, ca=False, names=()):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(seconds=300))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            usage = (
                ExtendedKeyUsageOID.SERVER_AUTH
                if isinstance(names[0], x509.DNSName)
                else ExtendedKeyUsageOID.CLIENT_AUTH
            )
            builder = builder.add_extension(x509.SubjectAlternativeName(list(names)), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, csr_pem, role=Role.NODE, member_id="n-1", seconds=3600):
        """Return a member's certificate for the key of a request."""
        request = x509.load_pem_x509_csr(csr_pem.encode())
        assert request.is_signature_valid
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, member_id)])
        names = [x509.UniformResourceIdentifier(member_uri(role, member_id))]
        certificate = self._build(subject, self.certificate.subject, request.public_key(), seconds, names=names)
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def identity(self, csr_pem, port, role=Role.NODE, seconds=3600, member_id="n-1"):
        return Identity(
            member_id=member_id,
            name="web-1",
            role=role,
            certificate_pem=self.issue(csr_pem, role, member_id, seconds),
            ca_pem=self.pem,
            session_host="127.0.0.1",
            session_port=port,
            lease=LEASE,
        )

    def store(self, folder, port, role=Role.NODE, seconds=3600, url="https://127.0.0.1:1"):
        """Return the identity store of a machine that has joined."""
        found = IdentityStore(folder)
        found.save(url, self.identity(found.csr_pem(), port, role, seconds))
        return found

    def server_context(self, names=(SERVER_NAME,), demand=True):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._build(
            subject, self.certificate.subject, key.public_key(), 3600, names=[x509.DNSName(name) for name in names]
        )
        path = self.folder / f"server-{names[0]}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        if demand:
            context.load_verify_locations(cadata=self.pem)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass
class Peer:
    """Accepts sessions one after the other and keeps every frame; `welcome` False leaves the greeting to the test."""

    ca: TestCa
    welcome: bool = True
    heartbeat_seconds: float = 0.05
    ack: bool = True
    frames: list = field(default_factory=list)
    hellos: list = field(default_factory=list)
    refuse_with: wire.Reject | None = None
    sessions: int = 0
    writer: asyncio.StreamWriter | None = None
    certificates: list = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    greet_with: list = field(default_factory=list)
    server: asyncio.Server | None = None
    serving: dict = field(default_factory=dict)

    async def start(self, names=(SERVER_NAME,)):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.ca.server_context(names))
        return self.server.sockets[0].getsockname()[1]

    async def stop(self):
        self.server.close()
        for writer in self.serving.values():
            writer.transport.abort()
        await asyncio.gather(*self.serving)
        self.writer = None

    async def _serve(self, reader, writer):
        self.serving[asyncio.current_task()] = writer
        try:
            self.certificates.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            hello = await self._next(reader)
            self.hellos.append(hello)
            self.sessions += 1
            if self.refuse_with is not None:
                self._put(writer, self.refuse_with)
                await writer.drain()
                return
            self.writer = writer
            if self.welcome:
                self._put(
                    writer,
                    wire.Welcome(member_id="n-1", name="web-1", heartbeat_seconds=self.heartbeat_seconds, lease=LEASE),
                )
                for frame in self.greet_with:
                    self._put(writer, frame)
            await self._notify()
            while True:
                frame = await self._next(reader)
                self.frames.append(frame)
                if isinstance(frame, wire.Observed) and self.ack:
                    self._put(writer, wire.ObservedAck(batch=frame.batch))
                await self._notify()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.serving.pop(asyncio.current_task())
            writer.close()

    async def _next(self, reader):
        size = int.from_bytes(await reader.readexactly(4), "big")
        return wire.decode_from_member(await reader.readexactly(size))

    def _put(self, writer, frame):
        writer.write(wire.encode_frame(frame))

    async def _notify(self):
        async with self.news:
            self.news.notify_all()

    def send(self, frame):
        self._put(self.writer, frame)

    def send_raw(self, data):
        self.writer.write(data)

    def drop(self):
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None

    def of(self, kind):
        return [frame for frame in self.frames if isinstance(frame, kind)]

    @property
    def observed(self):
        """Return the newest observation of every replica."""
        found = {}
        for frame in (*self.hellos, *self.of(wire.Observed)):
            for seen in frame.observations:
                found[seen.replica_id] = seen
        return found

    async def until(self, met, seconds=10.0):
        async with self.news, asyncio.timeout(seconds):
            await self.news.wait_for(met)


async def until(met, seconds=10.0):
    """Wait until something is true; for things that tell nobody when they change."""
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, "it did not come true"
        await asyncio.sleep(0.005)
