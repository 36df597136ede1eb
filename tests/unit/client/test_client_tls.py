"""Whom a client trusts: its CA's certificate for SERVER_NAME, whatever the URL says, and nobody else."""

from pathlib import Path

import pytest
from client_tls_server import Ca, http, serving

from fallow.client.addresses import check_url
from fallow.client.api import Client
from fallow.client.errors import Unreachable, Untrusted
from fallow.model.credentials import SERVER_NAME

VERSION = http(b'{"version":"1.2","schema":1}')
TOKEN = "fallow-api.id.hunter2"


def test_the_server_proves_to_be_the_control_plane_at_any_address(tmp_path: Path) -> None:
    ca, heard = Ca(), list[bytes]()
    with serving(ca.issue(tmp_path, SERVER_NAME), VERSION, heard) as port:
        for host in ("127.0.0.1", "localhost"):
            with Client(f"https://{host}:{port}", TOKEN, ca.pem) as client:
                assert client.version().version == "1.2"
    assert f"Authorization: Bearer {TOKEN}".encode() in heard[0]


@pytest.mark.parametrize("name", ["localhost", "other.fallow.internal"])
def test_another_name_is_not_trusted_even_when_the_ca_is_right(tmp_path: Path, name: str) -> None:
    """`localhost` is the URL's own host, so that it must be SERVER_NAME which is asked for."""
    ca, heard = Ca(), list[bytes]()
    with (
        serving(ca.issue(tmp_path, name), VERSION, heard) as port,
        Client(f"https://localhost:{port}", TOKEN, ca.pem) as client,
        pytest.raises(Untrusted, match="Hostname mismatch"),
    ):
        client.version()
    assert heard == []


def test_another_ca_is_not_trusted(tmp_path: Path) -> None:
    heard = list[bytes]()
    with (
        serving(Ca().issue(tmp_path, SERVER_NAME), VERSION, heard) as port,
        Client(f"https://localhost:{port}", TOKEN, Ca().pem) as client,
        pytest.raises(Untrusted),
    ):
        client.version()
    assert heard == []


def test_streams_check_the_server_too(tmp_path: Path) -> None:
    ca, heard = Ca(), list[bytes]()
    with (
        serving(ca.issue(tmp_path, "localhost"), VERSION, heard) as port,
        Client(f"https://localhost:{port}", TOKEN, ca.pem) as client,
    ):
        with pytest.raises(Untrusted):
            list(client.logs("r-1"))
        with pytest.raises(Untrusted):
            next(client.watch(("events",), 0))
    assert heard == []


def test_without_a_ca_the_hosts_own_name_and_the_systems_authorities_count(tmp_path: Path) -> None:
    with (
        serving(Ca().issue(tmp_path, "localhost"), VERSION, []) as port,
        Client(f"https://localhost:{port}", TOKEN) as client,
        pytest.raises(Untrusted),
    ):
        client.version()


def test_what_speaks_no_tls_is_unreachable() -> None:
    with (
        serving(None, VERSION, []) as port,
        Client(f"https://localhost:{port}", TOKEN, Ca().pem) as client,
        pytest.raises(Unreachable, match="does not speak TLS"),
    ):
        client.version()


def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    ca = Ca()
    with (
        serving(ca.issue(tmp_path, SERVER_NAME), VERSION, []) as port,
        Client(f"https://localhost:{port}", TOKEN, ca.pem) as client,
    ):
        assert client.version().schema == 1


@pytest.mark.parametrize("url", ["", "x", "ftp://x", "https://", "http://10.0.0.1", "https://x:99999", "https://x?y=1"])
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|https|query"):
        check_url(url)


@pytest.mark.parametrize("token", ["a\nb", "a b", "ä"])
def test_a_token_that_cannot_be_one_is_not_repeated(token: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        Client("https://x:1", token)
    assert token not in str(caught.value)


def test_the_token_is_in_no_repr() -> None:
    with Client("https://x:1", TOKEN, Ca().pem) as client:
        assert "hunter2" not in repr(client)


def test_a_ca_that_is_none() -> None:
    with pytest.raises(ValueError, match="PEM"):
        Client("https://x:1", TOKEN, "hello")
