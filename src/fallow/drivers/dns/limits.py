"""How much is sent to one network over UDP, where anybody may write anybody's address under a question.

A limit in bytes: small answers to many questions are what name servers are for, large ones are what an attacker wants
sent to a victim. What is past the limit is answered every other time by a few bytes that point to TCP, where senders
cannot be forged, so that honest askers behind the same network still get their answers.
"""

import enum
import socket

BYTES_PER_SECOND = 1_000_000  # to one IPv4 /24 or IPv6 /56: some 10,000 answers with one address


class Verdict(enum.Enum):
    """What to do with an answer."""

    SEND = enum.auto()
    SHORTEN = enum.auto()  # to what points to TCP
    DROP = enum.auto()


class ResponseLimit:
    """Counts bytes by network, from one second to the next. Who asks from this very machine is not limited."""

    def __init__(self, bytes_per_second: int = BYTES_PER_SECOND) -> None:
        self._limit = bytes_per_second
        self._second = 0
        self._sent: dict[str | bytes, int] = {}

    def judge(self, host: str, size: int, now: float) -> Verdict:
        """Say what to do with an answer of `size` bytes to `host`; `now` in seconds that nobody sets."""
        network = network_of(host)
        if not network:
            return Verdict.SEND
        second = int(now)
        if second != self._second:
            self._second = second
            self._sent.clear()  # also bounds it: to what a second's packets can name
        sent = self._sent[network] = self._sent.get(network, 0) + size
        if sent <= self._limit:
            return Verdict.SEND
        return Verdict.SHORTEN if sent // size % 2 else Verdict.DROP


def network_of(host: str) -> str | bytes:
    """Return what is counted as one asker, an IPv4 /24 or an IPv6 /56; empty: this machine."""
    if ":" not in host:
        return "" if host.startswith("127.") else host.rpartition(".")[0]
    if host.startswith("::ffff:") and "." in host:
        return network_of(host[7:])
    return "" if host == "::1" else socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:7]
