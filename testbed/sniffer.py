"""Listening on a fabric's bridge: what anybody on the open network between the nodes could read."""

import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed import processes
from testbed.fabric import Fabric

# Every frame that passes, whole, with its length before it. The interface is in promiscuous mode as a bridge's port.
_LISTEN = """
import socket, struct, sys
sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
sniffer.bind((sys.argv[1], 0))
with open(sys.argv[2], "wb", buffering=0) as out:
    while True:
        frame = sniffer.recv(65535)
        out.write(struct.pack("!I", len(frame)) + frame)
"""


class Sniffer:
    """Hears everything on one node's cable while it is a context. Needs root."""

    def __init__(self, fabric: Fabric, cable: str) -> None:
        """`cable` is the name of the node's interface at the bridge."""
        self._path = Path(fabric.folder / f"sniffed-{cable}")
        self._path.unlink(missing_ok=True)
        words = [sys.executable, "-I", "-c", _LISTEN, cable, str(self._path)]
        self._process = processes.start(
            ["nsenter", f"--net=/run/netns/{fabric.namespace}", *words], fabric.folder / "sniffer.log"
        )
        fabric.remember(self._process)
        processes.wait_until(self._path.exists, 10, "the sniffer listens")

    def frames(self) -> list[bytes]:
        """Return the frames heard so far."""
        data, found, at = self._path.read_bytes(), [], 0
        while at + 4 <= len(data):
            (size,) = struct.unpack_from("!I", data, at)
            if at + 4 + size > len(data):
                break
            found.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        return found

    def between(self, one: str, other: str) -> list[bytes]:
        """Return the IPv4 packets, without the frame around them, that two addresses sent each other."""
        ends = {bytes(map(int, address.split("."))) for address in (one, other)}
        packets = (frame[14:] for frame in self.frames() if frame[12:14] == b"\x08\x00")
        return [packet for packet in packets if {packet[12:16], packet[16:20]} == ends]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.Popen.kill(self._process)
        self._process.wait(10)


def udp_ports(packet: bytes) -> tuple[int, int] | None:
    """Return source and destination port of an IPv4 packet; None when it is no UDP."""
    if packet[9] != 17:
        return None
    start = (packet[0] & 0x0F) * 4
    source, destination = struct.unpack_from("!HH", packet, start)
    return source, destination
