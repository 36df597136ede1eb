"""What is shown of DNS names."""

import json

import pytest
from cli_fake_api import FakeApi, listing
from conftest import Fallow

from fallow.model.names import DnsAnswer, DnsRecord, DnsServer, DnsStatus, NamesReport

RECORD = DnsRecord("a.node.fallow.internal", "A", 5, "10.0.0.1")
STATUS = DnsStatus(
    domain="fallow.internal",
    revision=7,
    age_seconds=3.0,
    hosts=2,
    services=1,
    endpoints=4,
    servers=(
        DnsServer(
            name="control plane",
            address="",
            current=True,
            report=NamesReport(revision=7, listens=("127.0.0.1:8453",), queries=12, queries_per_second=1.5),
        ),
        DnsServer(name="gw", address="10.0.0.9", current=False, report=NamesReport(revision=5)),
        DnsServer(name="gw2", address="10.0.0.8", current=False, report=NamesReport(message="disk\x1b[31m full")),
    ),
    ask="dig @127.0.0.1 -p 8453 a.node.fallow.internal",
)


def test_status(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/dns", STATUS)
    shown = fallow("dns", "status").out
    for part in ("fallow.internal", "2 of members, 1 of services with 4 endpoints", "revision 7, 3s ago", STATUS.ask):
        assert part in shown
    assert "127.0.0.1:8453" in shown
    assert "of revision 5" in shown
    assert "none yet" in shown
    assert "\x1b" not in shown
    assert json.loads(fallow("dns", "status", "--json").out)["endpoints"] == 4


def test_status_without_a_server(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/dns", DnsStatus(domain="d", revision=0, age_seconds=0, hosts=0, services=0, endpoints=0))
    assert "--dns-listen" in fallow("dns", "status").out


def test_list(api: FakeApi, fallow: Fallow) -> None:
    api.on("GET /v1/dns/records", listing(RECORD))
    (_, line) = fallow("dns", "list", "--project", "shop").out.splitlines()
    assert line.split() == ["a.node.fallow.internal", "5s", "A", "10.0.0.1"]
    assert api.asked[-1].query == {"project": "shop"}
    assert json.loads(fallow("dns", "list", "--json").out)["items"][0]["value"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("answer", "code", "shown"),
    [
        (DnsAnswer(name="a", type="A", rcode="NOERROR", answers=(RECORD,)), 0, "10.0.0.1"),
        (DnsAnswer(name="a", type="A", rcode="NXDOMAIN", meaning="there is no such name"), 1, "NXDOMAIN: there is no"),
    ],
)
def test_query(api: FakeApi, fallow: Fallow, answer: DnsAnswer, code: int, shown: str) -> None:
    api.on("GET /v1/dns/query", answer)
    ran = fallow("dns", "query", "a.node.fallow.internal", "A")
    assert ran.code == code
    assert shown in ran.out
    assert api.asked[-1].query == {"name": "a.node.fallow.internal", "type": "A"}
    ran = fallow("dns", "query", "a.node.fallow.internal", "--json")
    assert (ran.code, json.loads(ran.out)["rcode"]) == (code, answer.rcode)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--dns-listen", "53"),
        ("--dns-listen", ":53"),
        ("--dns-listen", "127.0.0.1:0"),
        ("--dns-listen", "off", "--dns-listen", "127.0.0.1:53"),
        ("--domain", "a b"),
        ("--domain", "in-addr.arpa"),
        ("--domain", ""),
    ],
)
@pytest.mark.parametrize("command", ["server", "up"])
def test_where_names_cannot_be_served(
    alone: Fallow, launched: list[object], command: str, wrong: tuple[str, ...]
) -> None:
    ran = alone(command, "--data", "d", *wrong)
    assert ran.code == 2
    assert launched == []


@pytest.mark.parametrize("command", ["server", "up", "gateway"])
def test_where_names_are_served(alone: Fallow, launched: list[object], command: str) -> None:
    places = ("[::]:53", "10.0.0.1:8453")
    domain = () if command == "gateway" else ("--domain", "Cluster.Example.")
    assert alone(command, "--data", "d", *domain, *(f"--dns-listen={place}" for place in places)).code == 0
    (options,) = launched
    assert options.dns_listen == places  # type: ignore[attr-defined]
    assert getattr(options, "domain", "cluster.example") == "cluster.example"
    launched.clear()
    assert alone(command, "--data", "d", "--dns-listen", "off").code == 0
    assert launched[0].dns_listen == (() if command == "gateway" else ("off",))  # type: ignore[attr-defined]
