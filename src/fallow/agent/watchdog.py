"""Whether a pull still gets on: by its bytes, since engines wait for a silent registry without end."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fallow.drivers.engine.contract import PullProgress

T = TypeVar("T")

POLL_SECONDS = 1.0
UNPACK_SECONDS = 900.0  # Podman says nothing while it unpacks
_UNPACKING = ("Extracting", "Pull complete")
_NEARLY = 0.98  # engines count a layer's bytes a little differently than its manifest


class Stalled(Exception):  # noqa: N818 - an outcome
    """Nothing more came; the text says for how long."""


class StallWatch:
    """Ends a pull when for `stall_seconds` no byte more came. `total_bytes` is the image's size, 0 when not known.

    Once all bytes are there the engine may take longer, up to UNPACK_SECONDS, without a word. What the engine says
    does not count as such: Docker counts down the seconds to its next try.
    """

    def __init__(self, stall_seconds: float, total_bytes: int) -> None:
        self._stall_seconds = stall_seconds
        self._total_bytes = total_bytes
        self._seen = (0, 0)
        self._at = asyncio.get_running_loop().time()

    def note(self, progress: PullProgress) -> None:
        """Take in what the engine says."""
        seen = (progress.current_bytes, progress.total_bytes)
        if seen != self._seen or progress.text in _UNPACKING:
            self._seen = seen
            self._at = asyncio.get_running_loop().time()

    async def over(self, pull: Coroutine[Any, Any, T], poll: Callable[[], None]) -> T:
        """Return what the pull returns; cancelled when it stalls. `poll` is called every second, and may `note`.

        Raises Stalled, and what the pull raises.
        """
        task = asyncio.create_task(pull)
        try:
            while not task.done():
                poll()
                left = self._at + self._limit() - asyncio.get_running_loop().time()
                if left <= 0:
                    raise Stalled(f"no byte more for {self._limit():g} s, after {self._seen[0]}")
                await asyncio.wait({task}, timeout=min(left, POLL_SECONDS))
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _limit(self) -> float:
        current, total = self._seen
        whole = max(self._total_bytes, total)
        unpacking = bool(whole) and current >= whole * _NEARLY
        return max(self._stall_seconds, UNPACK_SECONDS) if unpacking else self._stall_seconds
