"""The newest report of every server, in memory: by when it was heard, not by what any clock on a server says."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping

from fallow.decide.harvest.heard import HeardServer
from fallow.model.servers import ServerReport


class HeardReports(Mapping[str, HeardServer]):
    """A live mapping of server ids to what they said last. `steady` gives seconds that nobody sets.

    Ages are true whenever they are looked at: a report that nothing followed grows old in here.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._reports: dict[str, tuple[float, ServerReport]] = {}  # when it was made, by `steady`
        self._told: dict[str, dict[str, float]] = {}  # peer id -> server id -> of when the report was that it was told

    def __getitem__(self, server_id: str) -> HeardServer:
        at, report = self._reports[server_id]
        return HeardServer(report=report, age_seconds=max(0.0, self._steady() - at))

    def __contains__(self, server_id: object) -> bool:
        return server_id in self._reports

    def __iter__(self) -> Iterator[str]:
        return iter(self._reports)

    def __len__(self) -> int:
        return len(self._reports)

    def note(self, server_id: str, report: ServerReport, age_seconds: float) -> bool:
        """Take in a report unless a newer one is known; say whether loops should look at it at once.

        They should when something has to go from now on, when that has become urgent, and when lending ends or begins.
        What is said again a second later wakes nobody.
        """
        at = self._steady() - age_seconds
        before_at, before = self._reports.get(server_id, (-math.inf, None))
        if at <= before_at:
            return False
        self._reports[server_id] = (at, report)
        if before is None:
            return True
        return (_presses(report) and not _presses(before)) or (report.urgent, report.lends) != (
            before.urgent,
            before.lends,
        )

    def news(self, peer_id: str, server_ids: Collection[str]) -> dict[str, tuple[ServerReport, float]]:
        """Return the reports of these servers that a peer has not been told yet, each with its age in seconds.

        They count as told from now on; when the connection to the peer ends, `peer_gone` has them told again.
        """
        now, told = self._steady(), self._told.setdefault(peer_id, {})
        found = {}
        for id_ in self._reports.keys() & server_ids:
            at, report = self._reports[id_]
            if told.get(id_, -math.inf) < at:
                told[id_] = at
                found[id_] = (report, max(0.0, now - at))
        return found

    def peer_gone(self, peer_id: str) -> None:
        """Forget what a peer was told."""
        self._told.pop(peer_id, None)

    def forget(self, server_id: str) -> None:
        """Drop all that is known of a server that was removed."""
        self._reports.pop(server_id, None)
        for told in self._told.values():
            told.pop(server_id, None)


def _presses(report: ServerReport) -> bool:
    return report.relief_cpus > 0 or report.relief_memory_bytes > 0
