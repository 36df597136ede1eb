"""Asking the control plane before a pull: what exactly, from whom, with which login."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import structlog

from fallow.model.frames import Frame
from fallow.model.image_frames import PullAsked, PullGranted
from fallow.model.images import PullGrant
from fallow.model.references import MAX_REFERENCE
from fallow.model.wire import IMAGES_PROTOCOL

_log = structlog.get_logger("fallow.agent.grants")

ANSWER_SECONDS = 15.0  # a control plane that lives answers much sooner, also when a registry does not answer it
SESSION_SECONDS = 3.0  # so long a pull waits for a session: an agent that has just started will soon have one
SILENCE_SECONDS = 30.0  # so long a control plane that did not answer is not asked again


class Grants:
    """The questions that are open on the session. `send` raises OSError or TimeoutError when there is none."""

    def __init__(self, send: Callable[[Frame], Awaitable[None]], answer_seconds: float = ANSWER_SECONDS) -> None:
        self._send = send
        self._answer_seconds = answer_seconds
        self._open: dict[str, asyncio.Future[PullGrant | None]] = {}
        self._numbers = itertools.count(1)
        self._speaks = False
        self._met = asyncio.Event()  # while there is a session
        self._silent_until = 0.0

    def opened(self, protocol: int) -> None:
        """Note a new session, and what its control plane speaks: an older one does not know the question."""
        self._speaks = protocol >= IMAGES_PROTOCOL
        self._met.set()
        self._silent_until = 0.0

    def closed(self) -> None:
        """Give up what was asked on the session that has ended."""
        self._speaks = False
        self._met.clear()
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_result(None)

    def received(self, frame: PullGranted) -> None:
        """Take in an answer; one that nobody waits for any more is dropped."""
        waiting = self._open.get(frame.pull_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame.grant)

    async def _can_ask(self) -> bool:
        """Wait a moment for a session when there is none; say whether its control plane knows the question."""
        try:
            async with asyncio.timeout(min(SESSION_SECONDS, self._answer_seconds)):
                await self._met.wait()
        except TimeoutError:
            self._silent_until = asyncio.get_running_loop().time() + SILENCE_SECONDS
        return self._speaks

    async def ask(self, reference: str, *, replica_id: str = "", task_id: str = "") -> PullGrant | None:
        """Return the answer; None when there is none, and the node has to pull as if there were no control plane."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._silent_until or len(reference) > MAX_REFERENCE or not await self._can_ask():
            return None
        pull_id = str(next(self._numbers))
        waiting: asyncio.Future[PullGrant | None] = loop.create_future()
        self._open[pull_id] = waiting
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._send(
                    PullAsked(pull_id=pull_id, reference=reference, replica_id=replica_id, task_id=task_id)
                )
                return await waiting
        except TimeoutError:
            self._silent_until = loop.time() + SILENCE_SECONDS
            _log.warning("the control plane does not say how to pull; pulling as it is", image=reference)
            return None
        except (OSError, ValueError):
            return None
        finally:
            del self._open[pull_id]
