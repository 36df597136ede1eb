"""A DNS client over real sockets; packets are written and read by a library that the server does not use."""

import asyncio
import socket
from typing import Any

import dnslib

SECONDS = 5.0


def question(name: Any, kind: str = "A", *, edns: int | None = None, **header: int) -> bytes:
    """Return a question; `name` as text, or as labels of bytes. `edns`: how many bytes an answer may have."""
    label = name if isinstance(name, str) else dnslib.DNSLabel(name)
    asked = dnslib.DNSRecord(
        dnslib.DNSHeader(id=0x1234, **header), q=dnslib.DNSQuestion(label, getattr(dnslib.QTYPE, kind))
    )
    if edns is not None:
        asked.add_ar(dnslib.EDNS0(udp_len=edns))
    return bytes(asked.pack())


class Listener(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.packets: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.packets.put_nowait((data, addr))


async def udp_raw(packet: bytes, port: int, host: str = "127.0.0.1", seconds: float = SECONDS) -> bytes:
    """Send a packet and return the answer, which must come from the address that was asked. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(
        Listener, family=socket.AF_INET6 if ":" in host else socket.AF_INET
    )
    try:
        transport.sendto(packet, (host, port))
        data, source = await asyncio.wait_for(listener.packets.get(), seconds)
        assert source[:2] == (host, port)
        return data
    finally:
        transport.close()


async def udp(name: Any, port: int, kind: str = "A", host: str = "127.0.0.1", **more: Any) -> dnslib.DNSRecord:
    return dnslib.DNSRecord.parse(await udp_raw(question(name, kind, **more), port, host))


async def tcp_read(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


async def tcp(name: Any, port: int, kind: str = "A", host: str = "127.0.0.1", **more: Any) -> dnslib.DNSRecord:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        packet = question(name, kind, **more)
        writer.write(len(packet).to_bytes(2, "big") + packet)
        return dnslib.DNSRecord.parse(await tcp_read(reader))
    finally:
        writer.close()


def values(answer: dnslib.DNSRecord) -> list[str]:
    return [str(record.rdata) for record in answer.rr]


def rcode(answer: dnslib.DNSRecord) -> str:
    return str(dnslib.RCODE.get(answer.header.rcode))
