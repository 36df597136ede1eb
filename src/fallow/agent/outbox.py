"""Observations on their way to the control plane: newest only, one batch at a time, repeated until acknowledged."""

import asyncio
import time
from collections.abc import Callable, Iterable

from fallow.model.deployments import Observation
from fallow.model.wire import Observed

BATCH_OBSERVATIONS = 500  # 500 of the longest messages stay far below the size of a frame
REPEAT_SECONDS = 2.0


class Outbox:
    """Holds at most one observation a replica, so it never grows beyond what the node runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, repeat_seconds: float = REPEAT_SECONDS) -> None:
        self._clock = clock
        self._repeat_seconds = repeat_seconds
        self._waiting: dict[str, Observation] = {}
        self._flying: Observed | None = None
        self._sent_at = 0.0
        self._batch = 0
        self._changed = asyncio.Event()

    def put(self, observations: Iterable[Observation]) -> None:
        """Take in observations; an older one of the same replica that has not left is forgotten."""
        for seen in observations:
            known = self._waiting.get(seen.replica_id)
            if known is None or known.serial < seen.serial:
                self._waiting[seen.replica_id] = seen
        self._changed.set()

    def ack(self, batch: int) -> None:
        """Forget what the control plane has stored; an answer to another batch says nothing."""
        if self._flying is not None and self._flying.batch == batch:
            self._flying = None
            self._changed.set()

    def restart(self) -> None:
        """Begin anew on a new session: what was not acknowledged is sent again."""
        if self._flying is not None:
            unstored, self._flying = self._flying.observations, None
            self.put(unstored)

    @property
    def empty(self) -> bool:
        """Say whether everything has been acknowledged."""
        return self._flying is None and not self._waiting

    async def next(self) -> Observed:
        """Return the next frame to send, when there is one: a new batch, or the last one once more."""
        while True:
            self._changed.clear()
            pause: float | None = None
            if self._flying is not None:
                pause = self._sent_at + self._repeat_seconds - self._clock()
                if pause <= 0:
                    self._sent_at = self._clock()
                    return self._flying
            elif self._waiting:
                return self._fly()
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _fly(self) -> Observed:
        ids = list(self._waiting)[:BATCH_OBSERVATIONS]
        self._batch += 1
        self._flying = Observed(batch=self._batch, observations=tuple(self._waiting.pop(id_) for id_ in ids))
        self._sent_at = self._clock()
        return self._flying
