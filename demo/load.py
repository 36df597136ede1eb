"""Real requests, counted: half of the clients keep their connection, half open a new one each time; none retries."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Failure:
    """One request that was not answered as it should be."""

    at: float  # of its start, UTC seconds
    phase: str
    why: str


class Load:
    """Sends requests from several threads at an even pace, and counts them under the phase they began in."""

    def __init__(
        self, host: str, port: int, names: Sequence[str], *, clients: int = 8, pace_seconds: float = 0.04
    ) -> None:
        """Prepare; `names` are the virtual hosts asked in turn, each client waits `pace_seconds` between requests."""
        self._address = (host, port)
        self._usual = self._names = tuple(names)
        self.pace_seconds = pace_seconds
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.phase = "steady"
        self.sent: Counter[str] = Counter()
        self.failures: list[Failure] = []
        self.served_by: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(clients)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the requests under way."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(TIMEOUT_SECONDS + 5)

    def ask_too(self, name: str, one_in: int) -> None:
        """Let one in so many requests be for a further virtual host."""
        turns = len(self._usual)
        self._names = (*(self._usual[number % turns] for number in range(one_in - 1)), name)

    def ask_as_before(self) -> None:
        """Leave that host out again; a request for it may still be under way for a moment."""
        self._names = self._usual

    def failed(self, phase: str) -> int:
        """Return how many requests of a phase failed."""
        return sum(failure.phase == phase for failure in self.failures)

    def _client(self, number: int) -> None:
        keep = number % 2 == 0
        connection: http.client.HTTPConnection | None = None
        turn = number
        while not self._stop.is_set():
            turn += 1
            names = self._names
            began, phase = time.time(), self.phase
            if connection is None:
                connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT_SECONDS)
            try:
                why, replica = self._ask(connection, names[turn % len(names)], keep)
            except (OSError, http.client.HTTPException) as error:
                why, replica = f"{type(error).__name__}: {error}", ""
            self._count(phase, began, why, replica)
            if not keep or why:
                connection.close()
                connection = None
            self._stop.wait(self.pace_seconds)

    def _ask(self, connection: http.client.HTTPConnection, name: str, keep: bool) -> tuple[str, str]:
        """Send one request; return why it failed, empty when it did not, and the replica that answered."""
        headers = {"Host": name} if keep else {"Host": name, "Connection": "close"}
        connection.request("GET", "/", headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        if answer.status != 200:
            return f"status {answer.status}", ""
        return "", body.split("\n", 1)[0][:80]

    def _count(self, phase: str, began: float, why: str, replica: str) -> None:
        with self._lock:
            self.sent[phase] += 1
            self.slowest[phase] = max(self.slowest.get(phase, 0.0), time.time() - began)
            if why:
                self.failures.append(Failure(began, phase, why))
            else:
                self.served_by[replica] += 1
