"""The name server over real sockets, as a client sees it that shares no code with it."""

import asyncio
import itertools
import socket
import subprocess
from collections.abc import AsyncIterator
from shutil import which
from typing import Any

import dnslib
import pytest
from dns_client import question, rcode, tcp, tcp_read, udp, udp_raw, values

from fallow.decide.reverse import Reverse
from fallow.decide.zone import Zone
from fallow.drivers.dns.answers import MAX_QUESTION, MAX_UDP, PLAIN_UDP
from fallow.drivers.dns.failures import NameServerError
from fallow.drivers.dns.limits import ResponseLimit, Verdict, network_of
from fallow.drivers.dns.server import NameServer, TcpRoom
from fallow.model.names import HostName, ServiceEndpoint, ServiceName

DOMAIN = "fallow.internal"


def service(name: str, count: int) -> ServiceName:
    endpoints = (
        ServiceEndpoint(f"{name}-{number}-abcdefg", f"10.0.{number // 250}.{number % 250 + 1}", {"80/tcp": 20000})
        for number in range(count)
    )
    return ServiceName("shop", name, ("80/tcp",), tuple(endpoints))


def zone(revision: int = 7, **hosts: str) -> Zone:
    found = {("node", name): HostName("node", name, address) for name, address in (hosts or {"a": "10.0.0.1"}).items()}
    services = {
        ("shop", each.name): each
        for each in (service("web", 3), service("ten", 10), service("big", 60), service("huge", 1000))
    }
    return Zone(
        domain=DOMAIN, revision=revision, hosts=found, services=services, reverse=Reverse(domain=DOMAIN, hosts=found)
    )


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    made = NameServer()
    made.set(zone())
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def port(server: NameServer) -> int:
    return await server.listen("127.0.0.1", 0)


@pytest.mark.parametrize("ask", [udp, tcp])
async def test_names_are_answered_with_authority(port: int, ask: Any) -> None:
    answer = await ask("a.node.fallow.internal", port)
    assert values(answer) == ["10.0.0.1"]
    assert (answer.header.id, answer.header.qr, answer.header.aa, answer.header.ra) == (0x1234, 1, 1, 0)
    assert [record.ttl for record in answer.rr] == [5]
    assert answer.header.rd == 1, "as it was asked"
    assert (await ask("a.node.fallow.internal", port, rd=0)).header.rd == 0


@pytest.mark.parametrize("ask", [udp, tcp])
async def test_what_is_not_there_is_told_with_how_long_to_remember_it(port: int, ask: Any) -> None:
    for name, kind, expected in (("b.node", "A", "NXDOMAIN"), ("a.node", "AAAA", "NOERROR"), ("node", "A", "NOERROR")):
        answer = await ask(f"{name}.fallow.internal", port, kind)
        assert (rcode(answer), values(answer), answer.header.aa) == (expected, [], 1)
        (soa,) = answer.auth
        assert (str(soa.rname), soa.ttl, soa.rdata.times[4]) == ("fallow.internal.", 1, 1)


async def test_nothing_is_asked_or_told_of_names_of_others(port: int) -> None:
    answer = await udp("example.com", port)
    assert (rcode(answer), answer.header.aa, answer.rr, answer.auth) == ("REFUSED", 0, [], [])
    assert rcode(await udp(b"", port)) == "REFUSED"


async def test_the_case_of_the_question_is_repeated_and_does_not_matter(port: int) -> None:
    names = ["A.Node.Fallow.INTERNAL", "a.nODE.fallow.internal", "a.node.fallow.internal"]
    for name in names * 2:
        answer = await udp(name, port)
        assert values(answer) == ["10.0.0.1"]
        assert str(answer.q.qname) == str(answer.rr[0].rname) == f"{name}."


async def test_srv_brings_ports_and_addresses(port: int) -> None:
    answer = await udp("_80._tcp.web.shop.svc.fallow.internal", port, "SRV", edns=4096)
    targets = {f"web-{number}-abcdefg.web.shop.svc.fallow.internal." for number in range(3)}
    assert {(record.rdata.port, str(record.rdata.target)) for record in answer.rr} == {
        (20000, name) for name in targets
    }
    assert {str(record.rname) for record in answer.ar if record.rtype == dnslib.QTYPE.A} == targets


async def test_ten_endpoints_fit_with_their_addresses_into_one_packet(port: int) -> None:
    answer = await udp("_80._tcp.ten.shop.svc.fallow.internal", port, "SRV", edns=4096)
    assert (answer.header.tc, len(answer.rr)) == (0, 10)
    assert len([record for record in answer.ar if record.rtype == dnslib.QTYPE.A]) == 10


async def test_answers_begin_with_another_address_each_time(port: int) -> None:
    seen = [values(await udp("web.shop.svc.fallow.internal", port)) for _ in range(6)]
    assert {answer[0] for answer in seen[:3]} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert seen[:3] == seen[3:]
    assert all(sorted(answer) == sorted(seen[0]) for answer in seen)


async def test_of_a_huge_service_every_endpoint_is_told_in_turn(port: int) -> None:
    seen: set[str] = set()
    for _ in range(8):
        answer = await tcp("huge.shop.svc.fallow.internal", port)
        assert len(answer.rr) == 128
        seen |= set(values(answer))
    assert len(seen) == 1000
    srv = await tcp("huge.shop.svc.fallow.internal", port, "SRV")
    assert len(srv.rr) == 128


@pytest.mark.parametrize(
    ("edns", "allowed"), [(None, PLAIN_UDP), (0, PLAIN_UDP), (700, 700), (4096, MAX_UDP), (65535, MAX_UDP)]
)
async def test_what_is_too_long_for_udp_is_cut_and_had_over_tcp(port: int, edns: int | None, allowed: int) -> None:
    for name, kind in itertools.product(("web", "big", "huge"), ("A", "SRV", "ANY")):
        packet = question(f"{name}.shop.svc.fallow.internal", kind, edns=edns)
        answer = await udp_raw(packet, port)
        assert len(answer) <= allowed
    big = await udp("big.shop.svc.fallow.internal", port, "SRV", edns=edns)
    assert (big.header.tc, big.rr) == (1, [])
    whole = await tcp("big.shop.svc.fallow.internal", port, "SRV", edns=edns)
    assert (whole.header.tc, len(whole.rr)) == (0, 60)


async def test_additional_addresses_that_do_not_fit_are_left_out_without_a_word(port: int, server: NameServer) -> None:
    server.set(zone())
    answer = await udp("web.shop.svc.fallow.internal", port, "SRV", edns=512)
    assert (answer.header.tc, len(answer.rr)) == (0, 3)


async def test_edns_is_answered_by_edns_and_other_versions_are_told_ours(port: int) -> None:
    plain = await udp("a.node.fallow.internal", port)
    assert plain.ar == []
    answer = await udp("a.node.fallow.internal", port, edns=4096)
    (opt,) = answer.ar
    assert (opt.rtype, opt.rclass, opt.ttl) == (dnslib.QTYPE.OPT, MAX_UDP, 0)
    asked = dnslib.DNSRecord.parse(question("a.node.fallow.internal"))
    asked.add_ar(dnslib.EDNS0(udp_len=4096, flags="do"))
    answer = dnslib.DNSRecord.parse(await udp_raw(asked.pack(), port))
    assert answer.ar[0].ttl == 0x8000, "DO is repeated"
    asked = dnslib.DNSRecord.parse(question("a.node.fallow.internal"))
    asked.add_ar(dnslib.EDNS0(udp_len=4096, version=1))
    answer = dnslib.DNSRecord.parse(await udp_raw(asked.pack(), port))
    assert (answer.header.rcode, answer.ar[0].ttl >> 24, answer.rr) == (0, 1, []), "BADVERS is 16"


async def test_any_is_answered_with_little(port: int) -> None:
    answer = await udp("big.shop.svc.fallow.internal", port, "ANY")
    assert [record.rtype for record in answer.rr] == [dnslib.QTYPE.HINFO]


@pytest.mark.parametrize("ask", [udp, tcp])
@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
async def test_the_zone_is_not_handed_out(port: int, ask: Any, kind: str) -> None:
    answer = await ask("fallow.internal", port, kind)
    assert (rcode(answer), answer.rr) == ("REFUSED", [])


async def test_unknown_types_have_no_data_and_other_classes_are_refused(port: int) -> None:
    packet = bytearray(question("a.node.fallow.internal"))
    packet[-4:-2] = (65280).to_bytes(2, "big")
    answer = dnslib.DNSRecord.parse(await udp_raw(bytes(packet), port))
    assert (rcode(answer), answer.rr, len(answer.auth)) == ("NOERROR", [], 1)
    for class_ in (3, 4, 254, 255):  # CHAOS, HESIOD, NONE, ANY
        packet = bytearray(question("a.node.fallow.internal"))
        packet[-2:] = class_.to_bytes(2, "big")
        assert (await udp_raw(bytes(packet), port))[3] & 15 == dnslib.RCODE.REFUSED


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
async def test_only_questions_are_implemented(port: int, opcode: int) -> None:
    packet = bytearray(question("a.node.fallow.internal"))
    packet[2] |= opcode << 3
    answer = await udp_raw(bytes(packet), port)
    assert (answer[:2], answer[3] & 15, answer[2] >> 3 & 15) == (b"\x12\x34", dnslib.RCODE.NOTIMP, opcode)


def hostile() -> dict[str, bytes]:
    """Return packets that are no proper questions, and yet are answered that they are not."""
    good = question("a.node.fallow.internal")
    two = good[:4] + b"\0\2" + good[6:] + good[12:]
    loop = good[:12] + b"\xc0\x0c" + good[-4:]
    ahead = good[:12] + b"\x01a\xc0\x40" + good[-4:]
    chain = good[:12] + b"".join(b"\x01a" for _ in range(130)) + b"\xc0\x0c" + good[-4:]
    record = good[:10] + b"\0\1" + good[12:]
    return {
        "no question": good[:4] + b"\0\0" + good[6:12],
        "two questions": two,
        "a loop": loop,
        "a pointer ahead": ahead,
        "a long loop": chain,
        "cut off": good[:20],
        "a header that promises more": good[:6] + b"\xff\xff\xff\xff\xff\xff" + good[12:],
        "bytes at its end": good + b"\0" * 9,
        "label of 64": good[:12] + b"\x40" + b"a" * 64 + b"\0" + good[-4:],
        "a loop in a record": record + b"\xc0" + bytes((len(good),)) + b"\0\x29\x10\0\0\0\0\0\0\0",
        "options that end too late": record + b"\0\0\x29\x10\0\0\0\0\0\0\x04\0\x0a\0\xff",
        "two OPT": good[:10] + b"\0\2" + good[12:] + b"\0\0\x29\x10\0\0\0\0\0\0\0" * 2,
    }


@pytest.mark.parametrize("what", hostile())
async def test_what_is_malformed_is_said_to_be(port: int, what: str) -> None:
    packet = hostile()[what]
    answer = await udp_raw(packet, port)
    assert (answer[:2], answer[3] & 15) == (packet[:2], dnslib.RCODE.FORMERR)
    assert len(answer) <= max(12, len(packet))
    assert values(await udp("a.node.fallow.internal", port)) == ["10.0.0.1"]


async def test_what_is_no_question_is_not_answered(port: int, server: NameServer) -> None:
    good = question("a.node.fallow.internal")
    answer = await udp_raw(good, port)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setblocking(False)
        for packet in (
            answer,
            b"",
            b"\0",
            good[:11],
            b"\x12\x34\xff" + good[3:],
            b"x" * (MAX_QUESTION + 1),
            b"x" * 60000,
        ):
            sender.sendto(packet, ("127.0.0.1", port))
        sender.sendto(good, ("127.0.0.1", port))
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(sender, 65535), 5) == answer, "the first thing that comes back"
    assert server.counters.ignored == 7


@pytest.mark.parametrize(
    "labels",
    [
        [b"a.node", b"fallow", b"internal"],
        [b"a", b"node.fallow.internal"],
        [b"a\0", b"node", b"fallow", b"internal"],
        [b"*", b"node", b"fallow", b"internal"],
        [b"$(reboot)", b"node", b"fallow", b"internal"],
        [b"\xff\xfe\n", b"node", b"fallow", b"internal"],
        [b"a" * 63, b"b" * 63, b"c" * 63, b"fallow", b"internal"],
    ],
)
async def test_labels_may_hold_anything_and_match_nothing(port: int, labels: list[bytes]) -> None:
    packet = question(labels)
    answer = await udp_raw(packet, port)
    assert answer[3] & 15 in (dnslib.RCODE.NXDOMAIN, dnslib.RCODE.REFUSED)
    assert answer[12 : 12 + len(packet) - 12] == packet[12:], "the question is repeated, byte for byte"


async def test_without_a_zone_there_is_no_answer_yet() -> None:
    server = NameServer()
    try:
        answer = await udp("a.node.fallow.internal", await server.listen("127.0.0.1", 0))
        assert rcode(answer) == "SERVFAIL"
    finally:
        await server.close()


async def test_a_new_zone_is_answered_from_at_once(port: int, server: NameServer) -> None:
    assert values(await udp("a.node.fallow.internal", port)) == ["10.0.0.1"]
    server.set(zone(8, a="10.0.0.2", b="fd00::1"))
    assert values(await udp("a.node.fallow.internal", port)) == ["10.0.0.2"]
    assert values(await udp("b.node.fallow.internal", port, "AAAA")) == ["fd00::1"]
    server.set(zone(9, b="fd00::1"))
    answer = await udp("a.node.fallow.internal", port)
    assert rcode(answer) == "NXDOMAIN"
    assert answer.auth[0].rdata.times[0] == 9, "the serial"


# where it listens


@pytest.mark.parametrize(
    ("host", "asked"), [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]
)
async def test_it_listens_at_either_family(server: NameServer, host: str, asked: str) -> None:
    port = await server.listen(host, 0)
    assert values(await udp("a.node.fallow.internal", port, host=asked)) == ["10.0.0.1"]
    assert values(await tcp("a.node.fallow.internal", port, host=asked)) == ["10.0.0.1"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_an_answer_comes_from_the_address_that_was_asked(server: NameServer, host: str) -> None:
    port = await server.listen(host, 0)
    # All of 127/8 is this machine; the kernel alone would answer from 127.0.0.1.
    assert values(await udp("a.node.fallow.internal", port, host="127.0.0.53")) == ["10.0.0.1"]


async def test_an_address_that_is_taken_is_told(server: NameServer, port: int) -> None:
    other = NameServer()
    with pytest.raises(NameServerError, match="another program"):
        await other.listen("127.0.0.1", port)
    assert other.listens == ()


async def test_a_port_taken_over_udp_only_is_told_and_leaves_nothing_open(server: NameServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.53.7", 0))
        port = taken.getsockname()[1]
        with pytest.raises(NameServerError, match="over UDP"):
            await server.listen("127.0.53.7", port)
    await server.listen("127.0.53.7", port)


# TCP


async def test_a_connection_takes_several_questions_also_at_once(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    packets = [question(f"{name}.fallow.internal") for name in ("a.node", "b.node", "web.shop.svc")]
    writer.write(b"".join(len(packet).to_bytes(2, "big") + packet for packet in packets))
    answers = [dnslib.DNSRecord.parse(await tcp_read(reader)) for _ in packets]
    assert [rcode(answer) for answer in answers] == ["NOERROR", "NXDOMAIN", "NOERROR"]
    writer.write(len(packets[0]).to_bytes(2, "big") + packets[0])
    assert values(dnslib.DNSRecord.parse(await tcp_read(reader))) == ["10.0.0.1"]
    writer.close()


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side has closed."""
    try:
        async with asyncio.timeout(5):
            return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x20", b"\0\x20abc"])
async def test_who_dawdles_is_cut(sent: bytes) -> None:
    server = NameServer(room=TcpRoom(idle_seconds=0.2, query_seconds=0.2))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
        writer.write(sent)
        assert await closed(reader)
        writer.close()
    finally:
        await server.close()


async def test_a_byte_now_and_then_does_not_keep_a_question_open() -> None:
    server = NameServer(room=TcpRoom(idle_seconds=0.3, query_seconds=0.3))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))

        async def drip() -> None:
            for byte in itertools.repeat(b"\1"):
                writer.write(byte)
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await closed(reader)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
    finally:
        await server.close()


@pytest.mark.parametrize("size", [0, 11, MAX_QUESTION + 1, 65535])
async def test_a_question_of_an_impossible_length_ends_the_connection(port: int, size: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(size.to_bytes(2, "big") + b"\0" * min(size, 20))
    assert await closed(reader)
    writer.close()


async def test_who_holds_many_connections_idle_loses_them_to_who_comes() -> None:
    server = NameServer(room=TcpRoom(connections=4))
    try:
        port = await server.listen("127.0.0.1", 0)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        server.set(zone())
        assert values(await tcp("a.node.fallow.internal", port)) == ["10.0.0.1"]
        assert all([await closed(reader) for reader, _ in held[:8]])
        assert server.counters.connections_cut >= 8
        for _, writer in held:
            writer.close()
    finally:
        await server.close()


# floods


def test_a_network_gets_only_so_many_bytes_a_second() -> None:
    limit = ResponseLimit(1000)
    verdicts = [limit.judge(f"192.0.2.{number % 250}", 100, 5.5) for number in range(100)]
    assert verdicts[:10] == [Verdict.SEND] * 10
    assert verdicts.count(Verdict.SEND) == 10
    assert verdicts.count(Verdict.SHORTEN) == 45
    assert limit.judge("198.51.100.1", 100, 5.6) is Verdict.SEND, "others are not concerned"
    assert limit.judge("192.0.2.1", 100, 6.0) is Verdict.SEND, "the next second"


def test_what_counts_as_one_network() -> None:
    assert network_of("192.0.2.1") == network_of("192.0.2.200") == network_of("::ffff:192.0.2.9")
    assert network_of("192.0.2.1") != network_of("192.0.3.1")
    assert network_of("2001:db8:0:100::1") == network_of("2001:db8:0:1ff::2")
    assert network_of("2001:db8:0:100::1") != network_of("2001:db8:0:200::1")
    assert network_of("fe80::1%eth0")
    assert network_of("127.0.0.1") == network_of("::1") == network_of("::ffff:127.0.0.1") == ""


async def test_a_flood_of_forged_questions_is_not_made_larger() -> None:
    """What goes out to a network that did not ask is, past the limit, less than what came in."""

    class Strict(ResponseLimit):
        def judge(self, host: str, size: int, now: float) -> Verdict:
            return super().judge("192.0.2.1", size, 1.0)

    server = NameServer(limit=Strict(10_000))
    server.set(zone())
    try:
        port = await server.listen("127.0.0.1", 0)
        packet = question("web.shop.svc.fallow.internal", "SRV", edns=4096)
        came_in = went_out = 0
        for _ in range(200):
            came_in += len(packet)
            try:
                went_out += len(await udp_raw(packet, port, seconds=0.02))
            except TimeoutError:
                continue
        assert went_out < 10_000 + came_in / 2
        assert server.counters.limited > 100
    finally:
        await server.close()


async def test_what_is_shortened_points_to_tcp() -> None:
    class Always(ResponseLimit):
        def judge(self, host: str, size: int, now: float) -> Verdict:
            return Verdict.SHORTEN

    server = NameServer(limit=Always())
    server.set(zone())
    try:
        port = await server.listen("127.0.0.1", 0)
        for edns in (None, 4096):
            answer = await udp("Web.shop.svc.fallow.internal", port, edns=edns)
            assert (answer.header.tc, answer.rr, str(answer.q.qname)) == (1, [], "Web.shop.svc.fallow.internal.")
        assert len(values(await tcp("web.shop.svc.fallow.internal", port))) == 3
    finally:
        await server.close()


async def test_counters_tell_what_was_asked(port: int, server: NameServer) -> None:
    await udp("a.node.fallow.internal", port)
    await udp("b.node.fallow.internal", port)
    await tcp("example.com", port)
    counted = server.counters
    assert (counted.udp, counted.tcp, counted.by_rcode()) == (2, 1, {"NOERROR": 1, "NXDOMAIN": 1, "REFUSED": 1})
    assert sum(counted.seconds) == 3
    assert counted.per_second(10.0) == 0.0
    await udp("a.node.fallow.internal", port)
    assert counted.per_second(12.0) == 0.5


@pytest.mark.skipif(which("dig") is None, reason="needs dig")
@pytest.mark.parametrize("options", [(), ("+tcp",), ("+nocookie", "+noedns"), ("+dnssec",), ("+bufsize=512",)])
async def test_dig_is_content(port: int, options: tuple[str, ...]) -> None:
    command = ["dig", "@127.0.0.1", "-p", str(port), *options, "+norecurse", "web.shop.svc.fallow.internal", "SRV"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=20)
    assert "flags: qr aa;" in done.stdout
    assert done.stdout.count("SRV\t0 100 20000 web-") == 3
    assert "WARNING" not in done.stdout
    assert "malformed" not in (done.stdout + done.stderr).lower()
