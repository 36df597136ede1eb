"""From the bytes of a question to the bytes of its answer (RFC 1035, 2308, 6891, 8482); no sockets here.

Decoding and encoding take a hundred times as long as looking an answer up, so both are done once: answers are kept by
what they depend on, and found again by all of a question's bytes but its id.
"""

from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from fallow.decide.zone import Found, Zone
from fallow.drivers.dns.encode import HEADER, MAX_RECORDS, MAX_UDP, Shape, encode

MAX_QUESTION = 4096  # bytes; an honest one has less than 400
PLAIN_UDP = 512  # bytes of an answer to who does not say that more may be sent
MAX_TCP = 65535
ORDERS = 4  # in which the same records are answered, one after the other
KEPT = 4096  # questions, and answers
KEPT_QUESTION = 512  # bytes of a question that is kept
KEPT_ANSWER = 4096  # bytes of an answer that is kept

_IN = dns.rdataclass.IN
_TRANSFERS = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)


@dataclass(slots=True)
class Kept:
    """One answer in all its orders, as what stands before and behind the question; encoded as each is first needed."""

    shape: Shape
    found: Found
    encoded: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    turn: int = 0

    def next(self, question: bytes) -> bytes:
        """Return the answer in the order whose turn it is, without its id and with the question as it was asked."""
        count = len(self.found.answers)
        orders = max(1, min(count, ORDERS), -(-count // MAX_RECORDS))
        turn = self.turn % orders
        self.turn = turn + 1
        parts = self.encoded.get(turn)
        if parts is None:
            parts = encode(self.shape, self.found, turn * count // orders)
            if len(parts[1]) <= KEPT_ANSWER:
                self.encoded[turn] = parts
        return parts[0] + question + parts[1]


class Answers:
    """Answers questions from the newest zone."""

    def __init__(self) -> None:
        self._zone: Zone | None = None
        self._asked: dict[bytes, tuple[Kept, bytes]] = {}  # by a packet but for its id, over UDP
        self._kept: dict[Shape, Kept] = {}
        self._older: dict[Shape, Kept] = {}  # of the zone before

    @property
    def zone(self) -> Zone | None:
        """Return what is answered from; None: nothing yet."""
        return self._zone

    def set(self, zone: Zone) -> None:
        """Answer from this zone from now on."""
        self._zone = zone
        self._older = self._kept or self._older
        self._kept, self._asked = {}, {}

    def reply(self, packet: bytes, stream: bool) -> bytes | None:
        """Return the answer to a packet; None when there is none to give, as to what is no question.

        `stream`: it came over TCP, so its answer may be long.
        """
        if len(packet) < HEADER or packet[2] & 0x80:
            return None  # an answer: to answer it could make two servers talk for ever
        known = None if stream else self._asked.get(packet[2:])
        if known is None:
            fault = _fault(packet)
            if fault is not None:
                return _bare(packet, fault)
            return self._new(packet, stream)
        return packet[:2] + known[0].next(known[1])

    def _new(self, packet: bytes, stream: bool) -> bytes:
        try:
            query = dns.message.from_wire(packet)
        except dns.message.UnknownTSIGKey:
            return _bare(packet, dns.rcode.NOTAUTH)
        except (dns.exception.DNSException, ValueError):
            return _bare(packet, dns.rcode.FORMERR)
        refusal = _refused(query)
        if refusal is None and self._zone is None:
            refusal = dns.rcode.SERVFAIL
        if refusal is not None:
            return _refusal(query, refusal)
        asked = query.question[0]
        question = _wire(asked.name) + asked.rdtype.to_bytes(2, "big") + asked.rdclass.to_bytes(2, "big")
        kept = self._keep(_shape(query, stream))
        if not stream and len(packet) <= KEPT_QUESTION:
            if len(self._asked) >= KEPT:
                self._asked.clear()  # whoever asks for thousands of different names costs us no more than time
            self._asked[packet[2:]] = (kept, question)
        return packet[:2] + kept.next(question)

    def _keep(self, shape: Shape) -> Kept:
        kept = self._kept.get(shape)
        if kept is None:
            assert self._zone is not None
            found = self._zone.find(shape.name, dns.rdatatype.to_text(dns.rdatatype.RdataType.make(shape.rdtype)))
            older = self._older.get(shape)
            kept = older if older is not None and older.found == found else Kept(shape, found)
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[shape] = kept
        return kept


def truncated(reply: bytes) -> bytes:
    """Return an answer to one question without its records, which says that they are to be had over TCP."""
    end = HEADER
    while reply[end]:
        end += reply[end] + 1
    flags = bytes((reply[2] | 0x02, reply[3] & 0xF0))
    return reply[:2] + flags + b"\0\1\0\0\0\0\0\0" + reply[HEADER : end + 5]


def rcode_of(reply: bytes) -> int:
    """Return the low bits of an answer's rcode, as its header has them."""
    return reply[3] & 0x0F


def _fault(packet: bytes) -> dns.rcode.Rcode | None:
    """Return why a packet is not worth reading beyond its header, if that is so."""
    if packet[2] & 0x78:
        return dns.rcode.NOTIMP
    if packet[4:6] != b"\0\1" or len(packet) > MAX_QUESTION:
        return dns.rcode.FORMERR
    return None


def _refused(query: dns.message.Message) -> dns.rcode.Rcode | None:
    """Return why a question is not looked up, if that is so."""
    if query.edns > 0:
        return dns.rcode.BADVERS
    if query.question[0].rdclass != _IN or query.question[0].rdtype in _TRANSFERS:
        return dns.rcode.REFUSED
    return None


def _shape(query: dns.message.Message, stream: bool) -> Shape:
    asked = query.question[0]
    edns = query.edns >= 0
    udp = min(max(query.payload, PLAIN_UDP), MAX_UDP) if edns else PLAIN_UDP
    return Shape(
        name=tuple(label.decode("latin-1").lower() for label in asked.name.labels[:-1]),
        rdtype=int(asked.rdtype),
        limit=MAX_TCP if stream else udp,
        edns=edns,
        flags=int(query.flags & (dns.flags.RD | dns.flags.CD)),
        edns_flags=query.ednsflags & dns.flags.DO if edns else 0,  # repeated, though nothing here is signed
    )


def _wire(name: dns.name.Name) -> bytes:
    """Return a name as a question holds it: in its own case, nothing left out."""
    return b"".join(bytes((len(label),)) + label for label in name.labels)


def _bare(packet: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """Return an answer of a header only: what else the packet says could not be read, or need not be."""
    flags = bytes((0x80 | packet[2] & 0x79, rcode))  # QR; opcode and RD as they were
    return packet[:2] + flags + b"\0\0\0\0\0\0\0\0"


def _refusal(query: dns.message.Message, rcode: dns.rcode.Rcode) -> bytes:
    response = dns.message.make_response(query, our_payload=MAX_UDP, pad=0)
    response.set_rcode(rcode)
    return response.to_wire(max_size=PLAIN_UDP)
