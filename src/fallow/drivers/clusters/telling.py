"""Reports of shares: only those that differ from what was told, and with a rest in between."""

from collections.abc import Iterable

from fallow.model.shares import ShareReport

REST_SECONDS = 0.05  # between two looks at what changed: what changes meanwhile is told together
REST_FACTOR = 9.0  # a tenth of the time is enough for it
MOST_REST_SECONDS = 1.0


class Telling:
    """Remembers the newest report of each share that was told."""

    def __init__(self) -> None:
        self._told: dict[str, ShareReport] = {}

    def begin(self) -> None:
        """Forget all: whoever is told knows nothing yet."""
        self._told.clear()

    def news(self, found: Iterable[tuple[str, ShareReport | None]]) -> list[ShareReport]:
        """Return the reports that differ; they count as told. `found` are by deployment id, None: it has no share."""
        news = []
        for id_, report in found:
            if report is None:
                self._told.pop(id_, None)
            elif self._told.get(id_) != report:
                self._told[id_] = report
                news.append(report)
        return news


def rest_seconds(spent: float) -> float:
    """Return how long to rest after so many seconds of work."""
    return min(MOST_REST_SECONDS, max(REST_SECONDS, spent * REST_FACTOR))
