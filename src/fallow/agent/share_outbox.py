"""Reports of shares on their way to the host."""

from collections.abc import Callable, Iterable

from fallow.agent.repeating import Repeating
from fallow.model.cluster_frames import SharesReported
from fallow.model.portions import portions
from fallow.model.shares import ShareReport

BATCH_REPORTS = 1000
MAX_BATCH_BYTES = 4 * 1024 * 1024  # but for a single report that is larger: ten thousand endpoints are 2 MiB


class ShareOutbox(Repeating[ShareReport, SharesReported]):
    """Holds the newest report of each share. `steady` gives seconds that nobody sets."""

    def __init__(self, steady: Callable[[], float]) -> None:
        super().__init__()
        self._steady = steady
        self._full = False  # what is packed next belongs to a full set
        self._sign = False
        self._packed_at = 0.0
        self.heard_at: float | None = None  # what was first sent then, by `steady`, has been answered since

    def begin(self, reports: Iterable[ShareReport]) -> None:
        """Send a full set first of all; whatever waited is part of it."""
        self._waiting = {report.deployment_id: report for report in reports}
        self._full = True
        self._changed.set()

    def put(self, reports: Iterable[ShareReport]) -> None:
        """Take in reports; an older one of the same share that has not left is forgotten."""
        self._waiting.update((report.deployment_id, report) for report in reports)
        self._changed.set()

    def forget(self, deployment_id: str) -> None:
        """Send no report of a share that is no more."""
        self._waiting.pop(deployment_id, None)

    def ask_for_a_sign(self) -> None:
        """Send something that is to be answered, even if there is nothing to report."""
        self._sign = True
        self._changed.set()

    @property
    def due(self) -> bool:
        """Say whether there is something to pack: a full set may be empty."""
        return bool(self._waiting) or self._full or self._sign

    def pack(self, batch: int) -> SharesReported:
        """Take the first ones, as many as one frame holds."""
        reports = next(portions(self._waiting.values(), BATCH_REPORTS, MAX_BATCH_BYTES), ())
        for report in reports:
            del self._waiting[report.deployment_id]
        full, more = self._full, self._full and bool(self._waiting)
        self._full, self._sign = more, False
        self._packed_at = self._steady()
        return SharesReported(batch=batch, full=full, more=more, reports=reports)

    def ack(self, batch: int) -> None:
        """Note that the host has stored a batch, and was alive after it was sent."""
        if self._flying is not None and self._flying.batch == batch:
            self.heard_at = self._packed_at
        super().ack(batch)

    def take_back(self, frame: SharesReported) -> None:
        """Let reports wait again, but for those of shares that there is a newer report of."""
        self._waiting = {**{report.deployment_id: report for report in frame.reports}, **self._waiting}
