"""A real registry behind HTTPS with a CA of a company's own, and behind an HTTP proxy."""

import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from registry_images import Shelf, tiny
from test_registry import free_port

from fallow.drivers.registry import Access, RegistryError
from fallow.drivers.registry.certificates import read_certificates
from fallow.drivers.registry.http import HttpRegistry
from fallow.drivers.registry.requests import Timeouts
from fallow.model.images import RegistryLogin
from fallow.model.references import parse_reference
from testbed import parts, registry
from testbed.blobs import digest_of
from testbed.certificates import OwnCa
from testbed.faulty import Fault, FaultyRegistry
from testbed.forward_proxy import ForwardProxy

pytestmark = pytest.mark.real
LOGIN = RegistryLogin(username="ci", password="hunter2-for-the-registry")


class Company:
    """A registry whose certificate only its own CA vouches for."""

    def __init__(self, folder: Path) -> None:
        self.ca = OwnCa(folder)
        self.other = OwnCa(folder, "other-ca")
        self._stored = registry.Registry.on_loopback(folder / "registry", port=free_port())
        self.front = FaultyRegistry(self._stored.address, certificate=self.ca.issue("127.0.0.1"))
        self.image = tiny("own")
        Shelf(self._stored.address).put("shop/api", "1", self.image)

    def close(self) -> None:
        self.front.close()
        self._stored.close()

    def access(self, ca: OwnCa | None, proxy: str = "", login: RegistryLogin | None = None) -> Access:
        pem = ca.file.read_text() if ca is not None else ""
        return Access(host=self.front.address, ca_pem=pem, proxy=proxy, login=login)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    parts.require("registry")
    found = Company(tmp_path_factory.mktemp("company"))
    yield found
    found.close()


@pytest.fixture
def company(stored: Company) -> Company:
    stored.front.faults.clear()
    stored.front.seen.clear()
    return stored


@pytest.fixture
async def client() -> AsyncIterator[HttpRegistry]:
    found = HttpRegistry(Timeouts(connect_seconds=2.0, stall_seconds=2.0, whole_seconds=5.0))
    yield found
    await found.close()


async def resolve(client: HttpRegistry, company: Company, access: Access) -> str:
    reference = parse_reference(f"{company.front.address}/shop/api:1")
    return (await client.resolve(access, reference)).digest


async def test_its_own_ca_is_enough_and_nothing_less(client: HttpRegistry, company: Company) -> None:
    for ca in (None, company.other):
        with pytest.raises(RegistryError, match="certificate") as caught:
            await resolve(client, company, company.access(ca, login=LOGIN))
        assert caught.value.kind == "unreachable"
    assert company.front.seen == [], "nothing was asked of who showed no certificate that is trusted"
    assert await resolve(client, company, company.access(company.ca)) == company.image.digest


async def test_a_connection_that_was_trusted_serves_nobody_who_does_not_trust_it(
    client: HttpRegistry, company: Company
) -> None:
    await resolve(client, company, company.access(company.ca))
    with pytest.raises(RegistryError, match="certificate"):
        await resolve(client, company, company.access(None))


async def test_blobs_come_that_way_too(client: HttpRegistry, company: Company) -> None:
    (layer, *_) = company.image.layers
    digest = digest_of(layer)
    async with client.open_blob(company.access(company.ca), "shop/api", digest) as opened:
        assert b"".join([chunk async for chunk in opened.chunks]) == layer


async def test_tokens_are_asked_for_with_the_same_trust(client: HttpRegistry, company: Company) -> None:
    realm = f'Bearer realm="https://{company.front.address}/token",service="own"'
    company.front.faults = [
        Fault(path="/manifests/", times=1, status=401, headers={"WWW-Authenticate": realm}),
        Fault(path="/token", status=200, body=lambda _: b'{"token": "a-token"}'),
    ]
    assert await resolve(client, company, company.access(company.ca, login=LOGIN)) == company.image.digest
    assert any(path.startswith("/token") for path in company.front.paths())


async def test_a_redirect_to_a_host_of_another_ca_is_not_followed(
    client: HttpRegistry, company: Company, tmp_path: Path
) -> None:
    elsewhere = FaultyRegistry(company.front.address, certificate=OwnCa(tmp_path).issue("127.0.0.1"))
    try:
        place = {"Location": f"https://{elsewhere.address}/v2/"}
        company.front.faults = [Fault(path="/manifests/", status=307, headers=place)]
        with pytest.raises(RegistryError, match="certificate"):
            await resolve(client, company, company.access(company.ca))
        assert elsewhere.seen == []
    finally:
        elsewhere.close()


async def test_through_a_proxy(client: HttpRegistry, company: Company) -> None:
    proxy = ForwardProxy()
    try:
        access = company.access(company.ca, f"http://{proxy.address}", LOGIN)
        assert await resolve(client, company, access) == company.image.digest
        assert set(proxy.seen) == {("127.0.0.1", company.front.address)}
        before = len(proxy.seen)
        assert await resolve(client, company, company.access(company.ca)) == company.image.digest
        assert len(proxy.seen) == before, "without it the proxy is not asked"
        with pytest.raises(RegistryError, match="certificate"):
            await resolve(client, company, company.access(None, f"http://{proxy.address}"))
    finally:
        proxy.close()


async def test_a_proxy_that_is_dead_or_refuses(client: HttpRegistry, company: Company) -> None:
    refusing = FaultyRegistry()
    refusing.faults = [Fault(status=403)]
    try:
        for address in (f"127.0.0.1:{free_port()}", refusing.address):
            with pytest.raises(RegistryError) as caught:
                await resolve(client, company, company.access(company.ca, f"http://{address}"))
            assert caught.value.kind == "unreachable"
    finally:
        refusing.close()
    assert company.front.seen == []


def test_certificates_are_read(company: Company) -> None:
    both = company.ca.file.read_text() + "# the other one\n" + company.other.file.read_text()
    assert [each.subject for each in read_certificates(both)] == ["CN=own-ca", "CN=other-ca"]
    ssl.create_default_context().load_verify_locations(cadata=both)


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no certificate"):
        read_certificates(text)


def test_a_private_key_among_them_is_refused(company: Company) -> None:
    _, key = company.ca.issue("127.0.0.2")
    with pytest.raises(ValueError, match="private key"):
        read_certificates(company.ca.file.read_text() + key.read_text())


def test_too_many_are_refused(company: Company) -> None:
    with pytest.raises(ValueError, match="33"):
        read_certificates(company.ca.file.read_text() * 33)
