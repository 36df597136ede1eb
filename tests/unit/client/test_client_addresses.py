"""Several processes of one control plane: a request goes to one that is there, and to one only."""

import json
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from client_tls_server import Ca, http, serving

from fallow.client.addresses import MOST_URLS, check_urls
from fallow.client.api import Client
from fallow.client.contexts import Context, resolve, save_context
from fallow.client.errors import Unreachable, Untrusted
from fallow.model.credentials import SERVER_NAME
from testbed.ports import free_port

VERSION = http(b'{"version":"1.2","schema":1}')
TOKEN = "fallow-api.id.hunter2"
URLS = "https://c1:7443,https://c2:7443,https://c3:7443"


class Processes:
    """Processes at c1, c2 and c3, of which some are `away` and some are silent once they were asked."""

    def __init__(self, away: set[str], silent: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.away, self.silent, self.asked = away, silent, list[str]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.asked.append(host)
        assert request.headers["Host"] == f"{host}:7443"
        if host in self.away:
            raise httpx.ConnectError(f"{host} is away")
        if host in self.silent:
            raise httpx.ReadTimeout(f"{host} does not answer")
        return httpx.Response(200, content=json.dumps({"version": host, "schema": 1}).encode())


def client_of(processes: Processes) -> Client:
    return Client(URLS, TOKEN, inner=httpx.MockTransport(processes))


def test_the_one_that_was_reached_is_asked_again() -> None:
    processes = Processes({"c1"})
    client = client_of(processes)
    assert client.url == "https://c1:7443"
    assert [client.version().version for _ in range(3)] == ["c2", "c2", "c2"]
    assert processes.asked == ["c1", "c2", "c2", "c2"]
    assert client.url == "https://c2:7443"
    processes.away = {"c2", "c3"}
    assert client.version().version == "c1"
    assert processes.asked[4:] == ["c2", "c3", "c1"]


def test_what_may_have_been_sent_is_not_sent_to_another() -> None:
    processes = Processes({"c1"}, {"c2"})
    with pytest.raises(Unreachable, match=r"https://c2:7443 cannot be reached: it did not answer in time"):
        client_of(processes).version()
    assert processes.asked == ["c1", "c2"]


def test_when_all_are_away_all_are_named() -> None:
    processes = Processes({"c1", "c2", "c3"})
    with pytest.raises(Unreachable, match=r"https://c1:7443, https://c2:7443, https://c3:7443 .* c1 is away"):
        client_of(processes).version()
    assert processes.asked == ["c1", "c2", "c3"]


def test_each_proves_who_it_is(tmp_path: Path) -> None:
    ca, heard, other = Ca(), list[bytes](), list[bytes]()
    with ExitStack() as stack:
        foreign = stack.enter_context(serving(Ca().issue(tmp_path, SERVER_NAME), VERSION, other))
        ours = stack.enter_context(serving(ca.issue(tmp_path, SERVER_NAME), VERSION, heard))
        urls = f"https://127.0.0.1:{free_port(20000)},https://127.0.0.1:{foreign},https://127.0.0.1:{ours}"
        with Client(urls, TOKEN, ca.pem) as client:
            assert client.version().version == "1.2"
            assert client.url.endswith(f":{ours}")
            assert client.certificate_expires_at() is not None
        assert f"Host: 127.0.0.1:{ours}".encode() in heard[0]
        with Client(urls.rpartition(",")[0], TOKEN, ca.pem) as client, pytest.raises(Unreachable, match="refused"):
            client.version()
        with Client(f"https://127.0.0.1:{foreign}", TOKEN, ca.pem) as client, pytest.raises(Untrusted):
            client.version()
    assert other == []


def test_urls_are_checked_one_by_one() -> None:
    assert check_urls("https://c1:7443/, https://c2:7443,https://c1:7443") == ("https://c1:7443", "https://c2:7443")


@pytest.mark.parametrize(
    "text",
    ["", "https://c1,", "https://c1,c2", "https://c1,http://localhost", "https://c1/a,https://c2/b", "https://c1,http://c2",
     ",".join(f"https://c{number}" for number in range(MOST_URLS + 1))],
)  # fmt: skip
def test_urls_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|https"):
        check_urls(text)


def test_one_of_a_contexts_own_addresses_gets_its_token(tmp_path: Path) -> None:
    path = tmp_path / "contexts.json"
    save_context(Context(name="prod", url="https://c1:1,https://c2:1", token="t"), path=path)
    found = resolve("prod", {"FALLOW_URL": "https://c2:1"}, path)
    assert (found.url, found.token) == ("https://c2:1", "t")
    assert resolve("prod", {"FALLOW_URL": "https://c3:1"}, path).token == ""
