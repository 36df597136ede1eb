"""Joining and renewing against a small HTTPS server that answers as a control plane does."""

import asyncio
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from session_peer import TestCa

from fallow.agent import joining as agent_joining
from fallow.agent.identity import IdentityError, IdentityStore
from fallow.agent.joining import Application, NotApprovedError, Patience, join
from fallow.agent.outbox import Outbox
from fallow.agent.renewal import Renewal
from fallow.agent.session import Session, SessionRefused
from fallow.client import joining
from fallow.client.errors import BadAnswer, Unreachable, Untrusted
from fallow.drivers.authority import key_of_bundle
from fallow.model.credentials import SERVER_NAME, JoinCredential
from fallow.model.members import JoinRequest, RenewRequest, Role
from fallow.model.problems import Problem
from fallow.model.registrations import JoinWaiting, SignedBundle


def request_in(body):
    """Return what a machine says, once its signature is found right."""
    signed = msgspec.json.decode(body, type=SignedBundle)
    request = msgspec.json.decode(signed.bundle, type=JoinRequest)
    key_of_bundle(request.csr_pem, signed.bundle, signed.signature)
    return request


@dataclass
class Control:
    """Answers /v1/ca, /v1/join and /v1/renew."""

    ca: TestCa
    names: tuple = (SERVER_NAME,)
    requests: list = field(default_factory=list)
    refuse: Problem | None = None
    lose_answers: int = 0
    ca_pem: str = ""
    url: str = ""
    serving: set = field(default_factory=set)
    connections: int = 0
    waits: int = 0  # so often a machine is told to wait for approval

    async def start(self):
        context = self.ca.server_context(self.names, demand=False)
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.url = f"https://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader, writer):
        self.serving.add(asyncio.current_task())
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            self.serving.discard(asyncio.current_task())

    async def _one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
        path, body = head.split()[1], await reader.readexactly(size)
        self.requests.append((path, body))
        status, answer = self._answer(path, body)
        if path != "/v1/ca" and self.lose_answers:
            self.lose_answers -= 1
            return False
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)) + answer)
        await writer.drain()
        return True

    async def stop(self):
        self.server.close()
        await asyncio.gather(*self.serving)

    def _answer(self, path, body):
        if path == "/v1/ca":
            return 200, (self.ca_pem or self.ca.pem).encode()
        if self.refuse is not None:
            return self.refuse.status, msgspec.json.encode(self.refuse)
        if path == "/v1/join" and self.waits:
            self.waits -= 1
            return 202, msgspec.json.encode(
                JoinWaiting(registration_id="r", message="waits for approval", retry_after_seconds=0.01)
            )
        request = request_in(body) if path == "/v1/join" else msgspec.json.decode(body, type=RenewRequest)
        return 201, msgspec.json.encode(self.ca.identity(request.csr_pem, 7444))

    def joins(self):
        return [request_in(body) for body in self.asked("/v1/join")]

    def asked(self, path):
        return [body for found, body in self.requests if found == path]


@pytest.fixture
def ca(tmp_path):
    return TestCa(tmp_path)


@pytest.fixture
async def control(ca):
    made = await Control(ca).start()
    yield made
    await made.stop()


def token(ca, sha256=""):
    return JoinCredential(token_id="t1", secret="s3cret", ca_sha256=sha256 or ca.sha256).text()


def key_of(csr_pem):
    return x509.load_pem_x509_csr(csr_pem.encode()).public_key()


NODE = Application(role=Role.NODE, name="web-1")


async def test_a_token_becomes_an_identity(control, ca, tmp_path):
    joined = await join(control.url, token(ca) + "\n", NODE, tmp_path / "data")
    assert not joined.reused
    assert joined.identity.member_id == "n-1"
    assert joined.message == f"joined as node {joined.identity.name} at {joined.identity.lease.address}"
    (request,) = control.joins()
    assert (request.token, request.role, request.name) == (token(ca), Role.NODE, "web-1")
    assert (request.temporary_address, request.temporary_port) == ("", 0), "a loopback address means nothing elsewhere"
    assert abs(request.sent_at - time.time()) < 60
    assert control.connections == 1, "CA and bundle go over one connection"
    store = IdentityStore(tmp_path / "data")
    assert store.identity == joined.identity
    assert store.session_address() == ("127.0.0.1", 7444)
    assert store.tls().check_hostname
    for name in ("key.pem", "identity.json", "certificate.pem"):
        assert os.stat(tmp_path / "data" / name).st_mode & 0o777 == 0o600


async def test_joining_again_reuses_the_identity_and_not_the_token(control, ca, tmp_path):
    await join(control.url, token(ca), NODE, tmp_path / "data")
    again = await join(control.url, token(ca), NODE, tmp_path / "data")
    assert again.reused
    assert "the token was not used" in again.message
    assert len(control.asked("/v1/join")) == 1


async def test_a_lost_answer_is_asked_for_again_with_the_same_key(control, ca, tmp_path):
    control.lose_answers = 1
    with pytest.raises(Unreachable):
        await join(control.url, token(ca), NODE, tmp_path / "data")
    await join(control.url, token(ca), NODE, tmp_path / "data")
    first, second = (request.csr_pem for request in control.joins())
    assert key_of(first) == key_of(second)


async def test_a_machine_of_another_cluster_or_role_is_left_alone(control, ca, tmp_path):
    await join(control.url, token(ca), NODE, tmp_path / "data")
    with pytest.raises(IdentityError, match="another cluster"):
        await join(control.url, token(ca, "0" * 64), NODE, tmp_path / "data")
    with pytest.raises(IdentityError, match="of a node, not of a gateway"):
        await join(control.url, token(ca), Application(role=Role.GATEWAY), tmp_path / "data")


async def test_a_refused_machine_joins_anew_with_a_token(control, ca, tmp_path):
    await join(control.url, token(ca), NODE, tmp_path / "data")
    store = IdentityStore(tmp_path / "data")
    before = store.csr_pem()
    store.note_refusal("this member was removed")
    joined = await join(control.url, token(ca), NODE, tmp_path / "data")
    assert not joined.reused
    assert len(control.asked("/v1/join")) == 2
    assert key_of(IdentityStore(tmp_path / "data").csr_pem()) != key_of(before)
    assert (tmp_path / "data" / "identity.json.1").exists()


async def test_another_ca_gets_no_secret(control, ca, tmp_path):
    with pytest.raises(Untrusted, match="not the one this token was made for"):
        await join(control.url, token(ca, "0" * 64), NODE, tmp_path / "data")
    assert [path for path, _ in control.requests] == ["/v1/ca"]
    assert not any(b"s3cret" in body for _, body in control.requests)


async def test_a_server_that_only_shows_the_ca_gets_no_secret(ca, tmp_path):
    """Somebody in between may repeat the CA's certificate, which is public, but cannot prove its name."""
    other = tmp_path / "other"
    other.mkdir()
    thief = await Control(TestCa(other), ca_pem=ca.pem).start()
    namesake = await Control(ca, names=("localhost", "127.0.0.1")).start()
    for server in (thief, namesake):
        with pytest.raises(Untrusted):
            await join(server.url, token(ca), NODE, tmp_path / "data")
        assert [path for path, _ in server.requests] == ["/v1/ca"]
        await server.stop()


async def test_who_swaps_ca_or_certificate_or_both_gets_no_secret(ca, tmp_path):
    """Somebody in between has a CA of his own, and may repeat what he saw of ours."""
    other = tmp_path / "other"
    other.mkdir()
    own = TestCa(other)
    both = await Control(own).start()  # his certificate and his CA
    leaf = await Control(own, ca_pem=ca.pem).start()  # his certificate, our CA
    shown = await Control(ca, ca_pem=own.pem).start()  # our server, another CA
    for server, why in ((both, "not the one"), (leaf, "not issued by its CA"), (shown, "not the one")):
        with pytest.raises(Untrusted, match=why):
            await join(server.url, token(ca), NODE, tmp_path / "data")
        assert [path for path, _ in server.requests] == ["/v1/ca"]
        await server.stop()


@pytest.mark.parametrize(
    ("names", "usage", "begins", "why"),
    [
        (["n-1.node.fallow"], ExtendedKeyUsageOID.SERVER_AUTH, 0, "not that of a control plane"),
        ([SERVER_NAME], ExtendedKeyUsageOID.CLIENT_AUTH, 0, "not that of a control plane"),
        ([SERVER_NAME], ExtendedKeyUsageOID.SERVER_AUTH, 86400, "set the clock"),
        ([SERVER_NAME], ExtendedKeyUsageOID.SERVER_AUTH, -90 * 86400, "set the clock"),
    ],
)
def test_a_certificate_of_our_ca_for_something_else_is_no_servers(names, usage, begins, why):
    now = datetime.now(UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])

    def made(public_key, first):
        built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(public_key).serial_number(7)
        return built.not_valid_before(first).not_valid_after(first + timedelta(days=60))

    basic = x509.BasicConstraints(ca=True, path_length=0)
    root = made(ca_key.public_key(), now - timedelta(days=1)).add_extension(basic, critical=True)
    root = root.sign(ca_key, hashes.SHA256())
    leaf = made(key.public_key(), now + timedelta(seconds=begins - 10))
    leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage([usage]), critical=False).sign(ca_key, hashes.SHA256())
    with pytest.raises(Untrusted, match=why):
        joining.check_server("https://x", leaf.public_bytes(Encoding.DER), root, now.timestamp())


async def test_a_machine_waits_until_it_is_let_in(control, ca, tmp_path):
    control.waits, told = 3, []
    joined = await join(control.url, token(ca), NODE, tmp_path / "data", Patience(tell=told.append))
    assert joined.identity.member_id == "n-1"
    assert told == ["this machine waits for approval"], "it is told once"
    first, *_, last = control.joins()
    assert key_of(first.csr_pem) == key_of(last.csr_pem)
    assert first.sent_at < last.sent_at


async def test_a_machine_that_may_not_wait_longer_says_so_and_goes_on_later(control, ca, tmp_path):
    control.waits = 1_000_000
    with pytest.raises(NotApprovedError, match="still waits for approval"):
        await join(control.url, token(ca), NODE, tmp_path / "data", Patience(seconds=0.1))
    control.waits = 0
    assert not (await join(control.url, token(ca), NODE, tmp_path / "data")).reused


async def test_a_control_plane_that_cannot_decide_is_asked_again(control, ca, tmp_path, monkeypatch):
    monkeypatch.setattr(agent_joining, "RETRY_SECONDS", 0.01)
    control.refuse = Problem(type="urn:fallow:not-decided", title="Not decided yet", status=503)
    asking = asyncio.create_task(join(control.url, token(ca), NODE, tmp_path / "data"))
    async with asyncio.timeout(20):
        while len(control.asked("/v1/join")) < 3:
            await asyncio.sleep(0.01)
    control.refuse = None
    assert (await asking).identity.member_id == "n-1"
    monkeypatch.setattr(agent_joining, "AWAY_SECONDS", 0.0)
    control.refuse = Problem(type="urn:fallow:not-decided", title="Not decided yet", status=503)
    with pytest.raises(joining.JoinError, match="Not decided"):
        await join(control.url, token(ca), NODE, tmp_path / "other")


async def test_a_refusal_is_told_in_the_servers_words(control, ca, tmp_path):
    control.refuse = Problem(
        type="urn:fallow:token-used", title="Token used", status=403, detail="t1 was used", hint="make another"
    )
    with pytest.raises(joining.JoinError, match="Token used: t1 was used: make another") as refused:
        await join(control.url, token(ca), NODE, tmp_path / "data")
    assert "s3cret" not in str(refused.value)


async def test_what_is_no_control_plane_is_named(control, ca, tmp_path):
    control.ca_pem = "hello"
    with pytest.raises(BadAnswer, match="is this a control plane"):
        await join(control.url, token(ca), NODE, tmp_path / "data")
    control.server.close()
    await control.server.wait_closed()
    with pytest.raises(Unreachable, match="connection refused"):
        await join(control.url, token(ca), NODE, tmp_path / "data")


@pytest.mark.parametrize("url", ["http://x:1", "https://", "ftp://x", "https://u:p@x", "https://x?y=1"])
async def test_a_bad_url_or_token_is_refused_before_anything_is_sent(url, ca, tmp_path):
    with pytest.raises(ValueError, match="control plane"):
        await join(url, token(ca), NODE, tmp_path / "data")
    with pytest.raises(ValueError, match="join token"):
        await join("https://x", "nonsense", NODE, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert joining.join_url("control.example:7443/") == "https://control.example:7443"


async def test_an_expired_certificate_is_renewed_without_a_session(control, ca, tmp_path):
    now = [1000.0]
    store = IdentityStore(tmp_path / "data", clock=lambda: now[0])
    store.save(control.url, ca.identity(store.csr_pem(), 7444, seconds=60))
    renewal = Renewal(store, lambda: now[0], lambda: 0.0)
    assert renewal.due_in() == pytest.approx((store.expires_at() - 1000) / 2)
    await renewal.without_session(store.saved.url)
    assert not control.requests, "not due yet"
    now[0] = store.expires_at() + 5
    before = store.expires_at()
    await renewal.without_session(store.saved.url)
    assert store.expires_at() > before
    control.refuse = Problem(type="urn:fallow:member-removed", title="Member removed", status=403)
    now[0] = store.expires_at() + 5
    with pytest.raises(joining.JoinError, match="Member removed"):
        await renewal.without_session(store.saved.url)
    await renewal.without_session(store.saved.url)
    assert len(control.asked("/v1/renew")) == 2, "not again at once"


async def test_an_expired_member_that_was_removed_ends(control, ca, tmp_path):
    control.refuse = Problem(type="urn:fallow:member-removed", title="Member removed", status=403)
    store = IdentityStore(tmp_path / "data")
    store.save(control.url, ca.identity(store.csr_pem(), 1, seconds=-10))
    session = Session(store, None, Outbox())
    with pytest.raises(SessionRefused, match="Member removed"):
        await asyncio.wait_for(session.run(asyncio.Event()), 10)
    assert "Member removed" in store.refusal


def test_a_damaged_identity_says_what_to_do(ca, tmp_path):
    store = IdentityStore(tmp_path / "data")
    with pytest.raises(IdentityError, match="has not joined"):
        _ = store.identity
    store.key()
    (tmp_path / "data" / "identity.json").write_bytes(b"{")
    with pytest.raises(IdentityError, match="join again"):
        _ = store.identity
    stranger = IdentityStore(tmp_path / "stranger")
    with pytest.raises(IdentityError, match="another key"):
        store.save("https://x", ca.identity(stranger.csr_pem(), 1))
    (tmp_path / "data" / "key.pem").write_bytes(b"junk")
    with pytest.raises(IdentityError, match="cannot be read"):
        store.csr_pem()
