"""Machines whose clock is a day off: certificates are renewed at their half-life all the same, and sessions held."""

import asyncio
import datetime
import ssl
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from session_peer import Peer, TestCa, until

from fallow.agent import renewal as renewal_module
from fallow.agent.identity import IdentityStore
from fallow.agent.outbox import Outbox
from fallow.agent.renewal import Renewal
from fallow.agent.session import Session
from fallow.drivers.authority import Authority
from fallow.model import wire
from fallow.model.credentials import SERVER_NAME
from fallow.model.members import Facts

DAY = 86400.0


@pytest.fixture
def ca(tmp_path):
    return TestCa(tmp_path)


def skewed(ca, folder, skew, seconds=DAY, port=1):
    """Return the identity of a machine whose clock is off by `skew`, just given by a control plane that is not."""
    store = IdentityStore(folder, clock=lambda: time.time() + skew)
    identity = ca.identity(store.csr_pem(), port, seconds=seconds)
    store.save("https://127.0.0.1:1", msgspec.structs.replace(identity, issued_at=time.time()))
    return store


@pytest.mark.parametrize("skew", [-DAY, 0.0, DAY])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_half_of_the_life_counts_by_whatever_clock(ca, tmp_path, skew, chance):
    store = skewed(ca, tmp_path / "data", skew)
    now = time.time() + skew
    assert store.renew_at(chance) - now == pytest.approx(DAY * (0.5 + 0.1 * chance), abs=5)
    assert store.expires_at() - now == pytest.approx(DAY, abs=5)
    assert store.clock_skew() == pytest.approx(skew, abs=5)
    due = Renewal(store, lambda: now, lambda: chance).due_in()
    assert due == pytest.approx(DAY * (0.5 + 0.1 * chance), abs=5)


def test_a_control_plane_that_does_not_say_when_is_believed_as_before(ca, tmp_path):
    store = ca.store(tmp_path / "data", 1, seconds=DAY)
    assert store.clock_skew() == 0.0
    assert store.renew_at(0.0) - time.time() == pytest.approx(DAY / 2, abs=5)


@pytest.mark.parametrize("skew", [-DAY, DAY])
def test_the_certificate_of_a_control_plane_holds_by_a_clock_that_is_a_day_off(tmp_path: Path, skew: float) -> None:
    """Also on the day on which the control plane was made."""
    now = time.time()
    authority = Authority.create_or_load(tmp_path / "ca", now)
    pem, _ = authority.issue_server([], now)
    roots = Store([x509.load_pem_x509_certificate(authority.ca_pem.encode())])
    at = datetime.datetime.fromtimestamp(now + skew, tz=datetime.UTC)
    verifier = PolicyBuilder().store(roots).time(at).build_server_verifier(x509.DNSName(SERVER_NAME))
    assert verifier.verify(x509.load_pem_x509_certificate(pem.encode()), [])


class Quiet:
    """A member that says hello and no more."""

    def hello(self):
        return wire.Hello(protocol=2, agent_version="1", boot_id="b", facts=Facts())

    def usage(self):
        return wire.Usage()

    def opened(self, welcome):
        """Nothing."""

    def received(self, frame):
        """Nothing."""

    def closed(self):
        """Nothing."""


async def test_a_certificate_the_control_plane_takes_for_expired_is_renewed_whatever_our_clock_says(
    ca, tmp_path, monkeypatch
):
    """Our clock was put back by a day after it was issued: by it the certificate is fresh."""
    peer = Peer(ca)
    port = await peer.start()
    store = IdentityStore(tmp_path / "data", clock=lambda: time.time() - DAY)
    identity = ca.identity(store.csr_pem(), port, seconds=-10)
    store.save("https://127.0.0.1:1", identity)
    asked = []

    async def renew(url, ca_pem, request):
        asked.append(request.member_id)
        return ca.identity(request.csr_pem, port, seconds=DAY)

    monkeypatch.setattr(renewal_module.joining, "renew", renew)
    stop = asyncio.Event()
    session = Session(store, Quiet(), Outbox(), clock=lambda: time.time() - DAY, chance=lambda: 0.0)
    task = asyncio.create_task(session.run(stop))
    await until(lambda: session.connected)
    assert asked == ["n-1"]
    stop.set()
    await task
    await peer.stop()


def test_a_clock_that_makes_the_control_plane_unbelievable_is_named(ca, tmp_path):
    session = Session(skewed(ca, tmp_path / "data", 40 * DAY), Quiet(), Outbox())
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 10, "certificate has expired"
    told = session._explained(error)
    assert "not valid by this machine's clock" in told
    assert "set the clock (it was off by 40d" in told
