"""Where a control plane serves names: as told, at the usual place when nothing is told, or nowhere."""

import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from fallow.drivers.dns.failures import NameServerError
from fallow.drivers.dns.server import NameServer
from fallow.wiring import names
from fallow.wiring.names import serve_names


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    made = NameServer()
    yield made
    await made.close()


@pytest.fixture
def taken() -> Iterator[str]:
    """Give an address at which another program is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{other.getsockname()[1]}"


async def test_off_is_nowhere(server: NameServer) -> None:
    await serve_names(server, ("off",))
    assert server.listens == ()


async def test_the_usual_place_is_used_when_it_is_free_and_its_lack_is_no_fault(
    server: NameServer, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "DNS_LISTEN", taken)
    await serve_names(server, ())
    assert server.listens == ()
    monkeypatch.setattr(names, "DNS_LISTEN", "127.0.0.1:0")
    await serve_names(server, ())
    assert len(server.listens) == 1


async def test_a_place_that_was_asked_for_must_be_free(server: NameServer, taken: str) -> None:
    with pytest.raises(NameServerError, match="another program"):
        await serve_names(server, ("[::1]:0", taken))
