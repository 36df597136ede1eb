"""Reports on their way to the control plane: one batch at a time, repeated until it is acknowledged."""

import asyncio
from typing import Generic, Protocol, TypeVar

REPEAT_SECONDS = 2.0


class Batched(Protocol):
    """A frame that is acknowledged by the number of its batch."""

    @property
    def batch(self) -> int:
        """Return the number."""


T = TypeVar("T")
F = TypeVar("F", bound=Batched)


class Repeating(Generic[T, F]):
    """Holds at most one report a subject, the newest, so it never grows beyond what there is to report of."""

    def __init__(self, repeat_seconds: float = REPEAT_SECONDS) -> None:
        self._repeat_seconds = repeat_seconds
        self._waiting: dict[str, T] = {}
        self._flying: F | None = None
        self._sent_at = 0.0
        self._batch = 0
        self._changed = asyncio.Event()

    def pack(self, batch: int) -> F:
        """Take reports from those that wait, and return them as a frame."""
        raise NotImplementedError

    def take_back(self, frame: F) -> None:
        """Let the reports of a frame wait again, but for those that there are newer ones of."""
        raise NotImplementedError

    @property
    def due(self) -> bool:
        """Say whether there is something to pack."""
        return bool(self._waiting)

    def ack(self, batch: int) -> None:
        """Forget what the control plane has stored; an answer to another batch says nothing."""
        if self._flying is not None and self._flying.batch == batch:
            self._flying = None
            self._changed.set()

    def restart(self) -> None:
        """Begin anew on a new session: what was not acknowledged is sent again."""
        if self._flying is not None:
            unstored, self._flying = self._flying, None
            self.take_back(unstored)
            self._changed.set()

    @property
    def empty(self) -> bool:
        """Say whether everything has been acknowledged."""
        return self._flying is None and not self._waiting

    async def next(self) -> F:
        """Return the next frame to send, when there is one: a new batch, or the last one once more."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            pause: float | None = None
            if self._flying is not None:
                pause = self._sent_at + self._repeat_seconds - loop.time()
                if pause <= 0:
                    self._sent_at = loop.time()
                    return self._flying
            elif self.due:
                self._batch += 1
                self._sent_at = loop.time()
                self._flying = self.pack(self._batch)
                return self._flying
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue
