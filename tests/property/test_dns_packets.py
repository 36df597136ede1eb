"""Whatever bytes come, the name server answers within bounds or not at all, and never fails."""

from typing import Any

import dns.message
from hypothesis import example, given
from hypothesis import strategies as st

from fallow.decide.reverse import Reverse
from fallow.decide.zone import Zone
from fallow.drivers.dns.answers import MAX_UDP, PLAIN_UDP, Answers, truncated
from fallow.model.names import HostName, ServiceEndpoint, ServiceName

HOSTS = {("node", "a"): HostName("node", "a", "10.0.0.1"), ("node", "b"): HostName("node", "b", "fd00::1")}
WEB = ServiceName(
    "shop",
    "web",
    ("80/tcp",),
    tuple(ServiceEndpoint(f"web-{number}", f"10.0.0.{number}", {"80/tcp": 20000}) for number in range(1, 100)),
)
ZONE = Zone(
    domain="fallow.internal",
    revision=2**40,
    hosts=HOSTS,
    services={("shop", "web"): WEB},
    reverse=Reverse(domain="fallow.internal", hosts=HOSTS, pools=frozenset({"10.in-addr.arpa"})),
)
ANSWERS = Answers()
ANSWERS.set(ZONE)

OURS = [b"web", b"shop", b"svc", b"node", b"a", b"_80", b"_tcp", b"web-7", b"ns", b"1", b"0", b"10", b"ip6"]
LABELS = st.one_of(st.sampled_from(OURS), st.binary(min_size=1, max_size=63))
WHOLE = st.sampled_from([[b"web", b"shop", b"svc"], [b"_80", b"_tcp", b"Web", b"shop", b"svc"], [b"a", b"node"], []])
ENDS = st.sampled_from(
    [b"\x06FALLOW\x08internal\0", b"\x07in-addr\x04arpa\0", b"\x03ip6\x04arpa\0", b"\0", b"\xc0\x0c"]
)
COUNTS = st.sampled_from([0, 0, 0, 1, 2, 65535])


def number(most: int) -> Any:
    return st.integers(0, most)


@st.composite
def questions(draw: Any) -> bytes:
    """Return what is much like a question, and often is one."""
    labels = draw(st.one_of(WHOLE, st.lists(LABELS, max_size=6)))
    name = b"".join(bytes((len(label),)) + label for label in labels) + draw(ENDS)
    kinds = st.one_of(st.sampled_from([1, 2, 6, 12, 28, 33, 41, 250, 251, 252, 255]), number(65535))
    kind, class_ = draw(kinds), draw(st.sampled_from([1, 1, 1, 1, 3, 255]))
    extra = draw(st.sampled_from([b"", b"\0\0\x29"]))
    if extra:
        extra += draw(number(65535)).to_bytes(2, "big") + bytes(draw(st.lists(number(255), min_size=4, max_size=4)))
        options = draw(st.binary(max_size=40))
        extra += len(options).to_bytes(2, "big") + options
    flags = draw(st.sampled_from([0, 0x0100, 0x0110, 0x0120])) | draw(
        st.sampled_from([0, 0, 0, number_of_opcode(draw)])
    )
    counts = [draw(st.sampled_from([1, 1, 1, 1, 0, 2])), draw(COUNTS), draw(COUNTS), int(bool(extra)) or draw(COUNTS)]
    header = draw(number(65535)).to_bytes(2, "big") + flags.to_bytes(2, "big")
    header += b"".join(count.to_bytes(2, "big") for count in counts)
    return header + name + kind.to_bytes(2, "big") + class_.to_bytes(2, "big") + extra


def number_of_opcode(draw: Any) -> int:
    return int(draw(number(15))) << 11


def check(packet: bytes, stream: bool) -> None:
    for _ in range(2):  # the second is answered from what is kept
        reply = ANSWERS.reply(packet, stream)
        if reply is None:
            assert len(packet) < 12 or packet[2] & 0x80
            return
        assert reply[:2] == packet[:2], "the id is repeated"
        assert reply[2] & 0x80, "it is an answer"
        assert reply[2] & 0x78 == packet[2] & 0x78, "the opcode is repeated"
        assert not reply[3] & 0x80, "we never recurse"
        assert len(reply) <= (65535 if stream else MAX_UDP)
        if reply[4:6] == b"\0\1" and not reply[2] & 0x78:
            read = dns.message.from_wire(reply)
            assert read.id == int.from_bytes(packet[:2], "big")
            asked = dns.message.from_wire(packet)
            assert read.question == asked.question
            if not stream and asked.edns < 0:
                assert len(reply) <= PLAIN_UDP
            short = truncated(reply)
            assert dns.message.from_wire(short).question == asked.question
            assert len(short) <= len(packet)


@given(st.binary(max_size=600), st.booleans())
@example(b"\0" * 12, False)
def test_bytes_without_sense(packet: bytes, stream: bool) -> None:
    check(packet, stream)


@given(questions(), st.booleans())
def test_questions_of_every_kind(packet: bytes, stream: bool) -> None:
    check(packet, stream)


@given(questions(), st.data())
def test_questions_with_a_few_bytes_changed(packet: bytes, data: Any) -> None:
    changed = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(changed[: data.draw(st.integers(0, len(packet)))]), False)
