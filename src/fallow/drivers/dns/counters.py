"""What a name server counts, in plain numbers: ten thousands of answers a second leave no time for more."""

import bisect
from collections import deque
from dataclasses import dataclass, field

import dns.rcode

SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
RATE_SECONDS = 10.0  # over which questions a second are told


@dataclass(slots=True)
class NameCounters:
    """Counts since the server was made; `seconds` has a bucket for each bound of SECONDS, and one more."""

    udp: int = 0
    tcp: int = 0
    ignored: int = 0  # packets that are no questions
    limited: int = 0  # answers that were shortened or dropped, lest others be flooded with them
    connections_cut: int = 0
    rcodes: list[int] = field(default_factory=lambda: [0] * 16)
    seconds: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds_sum: float = 0.0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def queries(self) -> int:
        """Return how many questions were answered."""
        return self.udp + self.tcp

    def answered(self, rcode: int, seconds: float) -> None:
        """Count an answer and the time it took to make."""
        self.rcodes[rcode] += 1
        self.seconds[bisect.bisect_left(SECONDS, seconds)] += 1
        self.seconds_sum += seconds

    def by_rcode(self) -> dict[str, int]:
        """Return the answers of each rcode that was given."""
        return {dns.rcode.to_text(dns.rcode.Rcode(code)): count for code, count in enumerate(self.rcodes) if count}

    def per_second(self, now: float) -> float:
        """Return the questions a second since an earlier call, of some ten seconds ago at most."""
        self._marks.append((now, self.queries))
        while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_SECONDS:
            self._marks.popleft()
        at, count = self._marks[0]
        return (self.queries - count) / (now - at) if now > at else 0.0
