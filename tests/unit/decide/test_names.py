"""Which names there are, and what is answered: from records, through zones and what is sent of them."""

import ipaddress
from typing import Any

import msgspec
import pytest
from records import NOW, deployment, member, replica, snapshot

from fallow.decide.names import Names, changed, difference, render, whole
from fallow.decide.reverse import zones_of
from fallow.decide.zone import Found, Zone
from fallow.model.containers import ContainerSpec, PortSpec
from fallow.model.deployments import DeploymentSpec, ReplicaState
from fallow.model.labels import Variable
from fallow.model.members import Lease, MemberState, Role
from fallow.model.meta import Record
from fallow.model.names import DNS_PORT_VARIABLE, MAX_DOMAIN, domain_name
from fallow.model.pools import Pool

DOMAIN = "fallow.internal"
WEB = deployment(
    spec=DeploymentSpec(
        replicas=3,
        container=ContainerSpec(image="shop:1", ports=(PortSpec(container=80), PortSpec(container=53, protocol="udp"))),
    )
)


def at(name: str, address: str, **changes: Any) -> Any:
    return member(name, lease=Lease(address=address), **changes)


def serving(slot: int, node: str = "n-a", address: str = "10.0.0.1", **changes: Any) -> Any:
    values = {"node_id": node, "address": address, "host_ports": {"80/tcp": 20000 + slot}}
    return replica(WEB, slot, **(values | changes))


def pool(cidr: str) -> Pool:
    return Pool(id="main", created_at=NOW, updated_at=NOW, cidr=cidr)


def zone(*records: Record) -> Zone:
    return render(snapshot(*records), DOMAIN).zone


def ask(found: Zone, name: str, wanted: str = "A") -> Found:
    return found.find(tuple(name.split(".")), wanted)


def values(found: Zone, name: str, wanted: str = "A") -> list[str]:
    answer = ask(found, name, wanted)
    assert answer.rcode == "NOERROR"
    return [record.value for record in answer.answers]


def rcode(found: Zone, name: str, wanted: str = "A") -> str:
    """Return the answer's kind; NODATA when there is a name but nothing of the type."""
    answer = ask(found, name, wanted)
    if answer.rcode != "REFUSED" and not answer.answers:
        assert [record.type for record in answer.authority] == ["SOA"], "others must be told for how long it is so"
    return "NODATA" if answer.rcode == "NOERROR" and not answer.answers else answer.rcode


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (MemberState.JOINING, False),
        (MemberState.READY, True),
        (MemberState.SUSPECT, True),
        (MemberState.DEAD, False),
    ],
)
def test_a_member_has_a_name_while_it_is_ready_or_suspect(state: MemberState, named: bool) -> None:
    found = zone(at("a", "10.0.0.1", state=state))
    assert rcode(found, "a.node.fallow.internal") == ("NOERROR" if named else "NXDOMAIN")


def test_nodes_and_gateways_have_addresses_of_either_family() -> None:
    found = zone(at("a", "10.0.0.1"), at("b", "FD00:0::1"), at("g", "10.0.0.9", role=Role.GATEWAY))
    assert values(found, "a.node.fallow.internal") == ["10.0.0.1"]
    assert values(found, "b.node.fallow.internal", "AAAA") == ["fd00::1"]
    assert rcode(found, "b.node.fallow.internal", "A") == "NODATA"
    assert values(found, "g.gateway.fallow.internal") == ["10.0.0.9"]
    assert rcode(found, "g.node.fallow.internal") == "NXDOMAIN"


def test_a_service_has_its_ready_endpoints_and_no_others() -> None:
    found = zone(
        WEB,
        at("a", "10.0.0.1"),
        at("s", "10.0.0.2", state=MemberState.SUSPECT),
        serving(0),
        serving(1, node="n-s", address="10.0.0.2"),
        serving(2, healthy_since=0.0),
        serving(3, state=ReplicaState.LEAVING),
        serving(4, state=ReplicaState.PLACED, healthy_since=0.0),
        serving(5, state=ReplicaState.LOST),
        serving(6, node="n-gone"),
    )
    assert values(found, "web.shop.svc.fallow.internal") == ["10.0.0.1"]
    assert values(found, "web.shop.svc.fallow.internal", "SRV") == ["0 100 20000 web-0.web.shop.svc.fallow.internal"]
    assert values(found, "web-0.web.shop.svc.fallow.internal") == ["10.0.0.1"]
    for gone in range(1, 7):
        assert rcode(found, f"web-{gone}.web.shop.svc.fallow.internal") == "NXDOMAIN"


def test_a_service_without_a_ready_endpoint_exists_but_has_no_address() -> None:
    found = zone(WEB)
    for name, kind in (("web", "A"), ("web", "SRV"), ("_80._tcp.web", "SRV"), ("_53._udp.web", "SRV")):
        assert rcode(found, f"{name}.shop.svc.fallow.internal", kind) == "NODATA"


def test_srv_names_one_port_and_brings_the_addresses() -> None:
    ports = {"host_ports": {"80/tcp": 20001, "53/udp": 20002}}
    found = zone(WEB, at("a", "10.0.0.1"), serving(0, **ports), serving(1, address="fd00::1", **ports))
    answer = ask(found, "_53._udp.web.shop.svc.fallow.internal", "SRV")
    assert [record.value.split()[2] for record in answer.answers] == ["20002", "20002"]
    assert [(record.name, record.type, record.value) for record in answer.additional] == [
        ("web-0.web.shop.svc.fallow.internal", "A", "10.0.0.1"),
        ("web-1.web.shop.svc.fallow.internal", "AAAA", "fd00::1"),
    ]
    assert len(values(found, "web.shop.svc.fallow.internal", "SRV")) == 4
    assert rcode(found, "_80._udp.web.shop.svc.fallow.internal", "SRV") == "NXDOMAIN"
    assert rcode(found, "_81._tcp.web.shop.svc.fallow.internal", "SRV") == "NXDOMAIN"


def test_two_replicas_of_one_node_give_one_address() -> None:
    found = zone(WEB, at("a", "10.0.0.1"), serving(0), serving(1))
    assert values(found, "web.shop.svc.fallow.internal") == ["10.0.0.1"]
    assert len(values(found, "web.shop.svc.fallow.internal", "SRV")) == 2


@pytest.mark.parametrize(
    "name",
    ["node", "gateway", "svc", "shop.svc", "_tcp.web.shop.svc", "_udp.web.shop.svc"],
)
def test_where_names_only_begin_there_is_no_data_and_yet_a_name(name: str) -> None:
    assert rcode(zone(WEB), f"{name}.fallow.internal") == "NODATA"


@pytest.mark.parametrize(
    "name",
    ["x", "a.b.node", "other.svc", "x.shop.svc", "a.x.web.shop.svc", "_tcp._tcp.web.shop.svc", "_sctp.web.shop.svc"],
)
def test_what_there_is_not_is_said_to_be_not(name: str) -> None:
    assert rcode(zone(WEB), f"{name}.fallow.internal") == "NXDOMAIN"


@pytest.mark.parametrize("name", ["example.com", "internal", "com", "a.node.fallow.internal.com", "notfallow.internal"])
def test_names_of_others_are_refused(name: str) -> None:
    assert ask(zone(), name) == Found(rcode="REFUSED")


def test_the_root_is_refused() -> None:
    assert zone().find((), "NS").rcode == "REFUSED"


def test_labels_are_never_read_as_text() -> None:
    found = zone(WEB, at("a", "10.0.0.1"), serving(0))
    assert found.find(("a.node", "fallow", "internal"), "A").rcode == "NXDOMAIN"
    assert found.find(("a", "node", "fallow.internal"), "A").rcode == "REFUSED"
    assert found.find(("a", "node.fallow", "internal"), "A").rcode == "REFUSED"
    for labels in (("1", "0.0", "10"), ("1", "0", "0.10"), ("1.0.0.10",)):
        assert found.find((*labels, "in-addr", "arpa"), "PTR").rcode == "REFUSED"


def test_the_apex_has_soa_and_name_server() -> None:
    dns = (Variable(name=DNS_PORT_VARIABLE, value="53"),)
    found = zone(
        at("g1", "10.0.0.9", role=Role.GATEWAY, variables=dns),
        at("g2", "10.0.0.8", role=Role.GATEWAY),
        at("g3", "10.0.0.7", role=Role.GATEWAY, variables=dns, state=MemberState.SUSPECT),
        at("n", "10.0.0.6", variables=dns),
    )
    assert values(found, DOMAIN, "SOA") == ["ns.fallow.internal hostmaster.fallow.internal 10 60 10 86400 1"]
    answer = ask(found, DOMAIN, "NS")
    assert [record.value for record in answer.answers] == ["ns.fallow.internal"]
    assert [record.value for record in answer.additional] == ["10.0.0.9"], "only gateways that serve names are asked"
    assert rcode(found, DOMAIN, "A") == "NODATA"


def test_any_is_answered_with_next_to_nothing() -> None:
    found = zone(WEB, at("a", "10.0.0.1"), serving(0))
    answer = ask(found, "web.shop.svc.fallow.internal", "ANY")
    assert [(record.type, record.value) for record in answer.answers] == [("HINFO", '"RFC8482" ""')]
    assert rcode(found, "nothing.node.fallow.internal", "ANY") == "NXDOMAIN"


def test_addresses_lead_back_to_names() -> None:
    found = zone(
        pool("10.86.0.0/16"),
        at("a", "10.86.0.1"),
        at("b", "192.0.2.7"),
        at("g", "192.0.2.7", role=Role.GATEWAY),
        at("six", "fd00::1"),
    )
    assert values(found, "1.0.86.10.in-addr.arpa", "PTR") == ["a.node.fallow.internal"]
    assert values(found, "7.2.0.192.in-addr.arpa", "PTR") == ["g.gateway.fallow.internal", "b.node.fallow.internal"]
    assert values(found, ipaddress.ip_address("fd00::1").reverse_pointer, "PTR") == ["six.node.fallow.internal"]


def test_reverse_zones_are_those_of_pools_and_single_addresses() -> None:
    found = zone(pool("10.86.0.0/16"), at("a", "10.86.0.1"), at("b", "192.0.2.7"))
    assert rcode(found, "2.0.86.10.in-addr.arpa", "PTR") == "NXDOMAIN"
    assert rcode(found, "0.86.10.in-addr.arpa", "PTR") == "NODATA"
    assert rcode(found, "1.86.10.in-addr.arpa", "PTR") == "NXDOMAIN"
    assert rcode(found, "x.1.0.86.10.in-addr.arpa", "PTR") == "NXDOMAIN"
    assert values(found, "86.10.in-addr.arpa", "NS") == ["ns.fallow.internal"]
    assert values(found, "7.2.0.192.in-addr.arpa", "SOA")
    for outside in ("10.in-addr.arpa", "in-addr.arpa", "arpa", "8.2.0.192.in-addr.arpa", "2.0.192.in-addr.arpa"):
        assert rcode(found, outside, "PTR") == "REFUSED"


@pytest.mark.parametrize(
    ("cidr", "zones"),
    [
        ("10.86.0.0/16", ["86.10.in-addr.arpa"]),
        ("10.86.2.0/23", ["2.86.10.in-addr.arpa", "3.86.10.in-addr.arpa"]),
        ("192.0.2.4/31", ["4.2.0.192.in-addr.arpa", "5.2.0.192.in-addr.arpa"]),
        ("fd00:86::/32", ["6.8.0.0.0.0.d.f.ip6.arpa"]),
        ("fd00:86::/31", ["6.8.0.0.0.0.d.f.ip6.arpa", "7.8.0.0.0.0.d.f.ip6.arpa"]),
    ],
)
def test_a_pool_gives_reverse_zones_that_are_no_wider_than_itself(cidr: str, zones: list[str]) -> None:
    assert sorted(zones_of(ipaddress.ip_network(cidr))) == zones


@pytest.mark.parametrize(
    "hostile",
    ["a.b", "a b", "a\n", "A", "*", "", "-a", "a" * 64, "a\0", "$(reboot)", "a;b", "x.fallow.internal"],
)
def test_what_is_no_plain_label_gets_no_name(hostile: str) -> None:
    odd = msgspec.structs.replace(at("b", "10.0.0.2"), name=hostile)
    found = zone(
        WEB, odd, at("a", "10.0.0.1"), serving(0, id=hostile), deployment(hostile), pool("10.0.0.0/8")
    )  # fmt: skip
    records = list(found.records())
    assert "web.shop.svc.fallow.internal" not in {record.name for record in records}
    labels = [label for record in records for label in record.name.split(".")]
    assert hostile not in labels or hostile == ""
    assert all(record.name.isascii() and " " not in record.name for record in records)


@pytest.mark.parametrize("address", ["", "host.example", "0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0", "10.0.0.1\n"])
def test_what_is_no_address_is_never_answered(address: str) -> None:
    found = zone(WEB, at("a", address), serving(0, address=address))
    assert rcode(found, "a.node.fallow.internal") == "NXDOMAIN"
    assert rcode(found, "web.shop.svc.fallow.internal") == "NODATA"


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a.b", "a_b.c", "a b", "x.arpa", "arpa", "a.b\n", "é.fr", "a" * 101]
)
def test_what_cannot_be_a_domain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be the domain"):
        domain_name(text)


def test_the_longest_names_fit() -> None:
    domain = domain_name(".".join(["d" * 49] * 2) + ".")
    assert len(domain) <= MAX_DOMAIN
    long = deployment("n" * 40, project="p" * 40)
    own = replica(long, 0, id="n" * 40 + "-12345-abcdefg", address="10.0.0.1", host_ports={"65535/tcp": 65535})
    found = render(snapshot(long, own, at("a", "10.0.0.1")), domain).zone
    srv = found.find(("_65535", "_tcp", long.name, long.project, "svc", *domain.split(".")), "SRV")
    assert len(srv.additional[0].name) <= 253
    assert len(srv.answers[0].name) <= 253


# from one zone to the next


def again(before: Names, *records: Record, revision: int) -> Names:
    return render(snapshot(*records, revision=revision), DOMAIN, before)


def test_what_says_nothing_new_keeps_the_zone() -> None:
    first = render(snapshot(WEB, at("a", "10.0.0.1"), serving(0)), DOMAIN)
    second = again(first, WEB, at("a", "10.0.0.1", state_reason="other"), serving(0, reason=None), revision=11)
    assert second.zone is first.zone
    third = again(second, WEB, at("a", "10.0.0.1"), serving(0, state=ReplicaState.LEAVING), revision=12)
    assert (third.zone.revision, third.zone.hosts) == (12, first.zone.hosts)


def test_a_node_that_dies_takes_its_endpoints_along_though_no_replica_has_changed() -> None:
    node, web, own = at("a", "10.0.0.1"), WEB, serving(0)
    before = snapshot(web, node, own)
    first = render(before, DOMAIN)
    assert values(first.zone, "web.shop.svc.fallow.internal") == ["10.0.0.1"]
    after = snapshot(web, at("a", "10.0.0.1", state=MemberState.SUSPECT), own, revision=11)
    vars(after)["replicas_by_deployment"] = before.replicas_by_deployment  # as the cache hands indexes on
    second = render(after, DOMAIN, first)
    assert rcode(second.zone, "web.shop.svc.fallow.internal") == "NODATA"
    assert values(second.zone, "a.node.fallow.internal") == ["10.0.0.1"]


def test_of_many_endpoints_only_one_that_differs_is_made_anew() -> None:
    node, replicas = at("a", "10.0.0.1"), [serving(slot) for slot in range(9)]
    first = render(snapshot(WEB, node, *replicas), DOMAIN)
    replicas[4] = serving(4, address="10.0.0.7")
    second = again(first, WEB, node, *replicas, revision=11)
    (then,), (now,) = first.zone.services.values(), second.zone.services.values()
    same = [was is found for was, found in zip(then.endpoints, now.endpoints, strict=True)]
    assert same == [slot != 4 for slot in range(9)]
    assert now.endpoints[4].address == "10.0.0.7"


def test_a_member_that_is_removed_takes_its_endpoints_along() -> None:
    first = render(snapshot(WEB, at("a", "10.0.0.1"), serving(0)), DOMAIN)
    second = again(first, WEB, serving(0), revision=11)
    assert rcode(second.zone, "web.shop.svc.fallow.internal") == "NODATA"


def test_what_differs_is_sent_and_makes_the_same_zone() -> None:
    nodes = [at(f"n{number}", f"10.0.0.{number}") for number in range(1, 9)]
    first = render(snapshot(WEB, deployment("db"), *nodes), DOMAIN).zone
    second = zone(WEB, at("n1", "10.0.1.1"), *nodes[1:7], serving(0, node="n-n2"), pool("10.0.0.0/16"))
    change = difference(first, second)
    assert [host.name for host in change.hosts] == ["n1"]
    assert change.gone_hosts == (("node", "n8"),)
    assert change.gone_services == (("shop", "db"),)
    assert changed(first, change) == second
    assert changed(None, whole(second)) == second
    assert changed(first, whole(second)) == second


def test_when_most_is_different_all_is_sent() -> None:
    first, second = zone(at("a", "10.0.0.1")), zone(at("b", "10.0.0.2"))
    assert difference(first, second) == whole(second)


def test_a_change_to_other_names_is_refused() -> None:
    nodes = [at(f"n{number}", f"10.0.0.{number}") for number in range(1, 9)]
    first = zone(*nodes)
    change = difference(first, render(snapshot(*nodes[1:], revision=11), DOMAIN).zone)
    assert change.since == 10
    for other in (None, zone().__class__(domain=DOMAIN, revision=9, reverse=first.reverse)):
        with pytest.raises(ValueError, match="revision 10 came"):
            changed(other, change)
