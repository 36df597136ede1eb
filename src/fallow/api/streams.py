"""Long answers: begun only once their first step is known to work, and pulled as fast as the caller reads."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Generic, TypeVar

from litestar.response import Stream

from fallow.api.limits import Limits
from fallow.control.hub import HubError
from fallow.control.refusals import refuse

T = TypeVar("T")

FIRST_STEP_SECONDS = 0.05


class Steps(Generic[T]):
    """An asynchronous iterator that can be waited on with a time limit, without losing a value."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self._source = source
        self._pending: asyncio.Task[T | None] | None = None

    async def begin(self) -> None:
        """Wait a moment for the first value, and raise here what the source raises at its very start."""
        self._pending = asyncio.create_task(self._advance())
        done, _ = await asyncio.wait({self._pending}, timeout=FIRST_STEP_SECONDS)
        if done:
            self._pending.result()

    async def next(self, timeout_seconds: float | None = None) -> T | None:
        """Return the next value, or None at the end. Raises TimeoutError, and what the source raises."""
        if self._pending is None:
            self._pending = asyncio.create_task(self._advance())
        done, _ = await asyncio.wait({self._pending}, timeout=timeout_seconds)
        if not done:
            raise TimeoutError
        value, self._pending = self._pending.result(), None
        return value

    async def aclose(self) -> None:
        """Stop the source and release what it holds."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        if isinstance(self._source, AsyncGenerator):
            await self._source.aclose()

    async def _advance(self) -> T | None:
        async for value in self._source:
            return value
        return None


def check_room(limits: Limits) -> None:
    """Raise Refused (503) when as many streams are open as may be."""
    if limits.full:
        raise refuse(503, "too-many-streams", "Too many streams", "too many watches and logs are open", "try later")


async def text_stream(limits: Limits, lines: AsyncIterator[str]) -> Stream:
    """Answer with lines as they come. Raises HubError when the source fails at once."""
    check_room(limits)
    steps = Steps(lines)
    try:
        await steps.begin()
    except BaseException:
        await steps.aclose()
        raise
    return Stream(_text(limits, steps), media_type="text/plain; charset=utf-8")


async def _text(limits: Limits, steps: Steps[str]) -> AsyncGenerator[str, None]:
    with limits.stream():
        try:
            while (line := await steps.next()) is not None:
                yield line + "\n"
        except HubError as error:
            yield f"(the log breaks off here: {error})\n"
        finally:
            await steps.aclose()
