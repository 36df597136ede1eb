"""The standing questions of the host, answered when they come and whenever an answer changes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from fallow.decide.federation.room_answers import answers_to, summary_of
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.rooms import RoomQuestion
from fallow.model.wire import Frame, RoomReported
from fallow.store.cache import Cache

KINDS = frozenset({"replicas", "members", "deployments", "templates", "label-sets"})
LEAST_REST_SECONDS = 0.5
REST_FACTOR = 9.0
LOOK_SECONDS = 10.0  # what nodes measure changes no record


class ClusterRooms:
    """Counts room and tells what differs. `included` says which orders a snapshot's count includes."""

    def __init__(
        self, cache: Cache, heard: Callable[[], Heard], included: Callable[[Snapshot], Mapping[str, int]]
    ) -> None:
        self._cache = cache
        self._heard = heard
        self._included = included
        self._questions: tuple[RoomQuestion, ...] = ()
        self._awake = asyncio.Event()
        self._told: RoomReported | None = None

    def ask(self, questions: tuple[RoomQuestion, ...]) -> None:
        """Answer these from now on; all of them are told again."""
        self._questions = questions
        self._told = None
        self._awake.set()

    def changed(self, kinds: Collection[str]) -> None:
        """Look again after records of these kinds have changed."""
        if not KINDS.isdisjoint(kinds):
            self._awake.set()

    async def run(self, send: Callable[[Frame], Awaitable[None]]) -> None:
        """Answer until cancelled; what cannot be sent is told when the host asks again."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            spent = await self._answer(send) if self._questions else 0.0
            await asyncio.sleep(max(LEAST_REST_SECONDS, spent * REST_FACTOR) if spent else 0.0)

    async def _answer(self, send: Callable[[Frame], Awaitable[None]]) -> float:
        """Send the answers if they are others than were told; return how many seconds it took to find them."""
        began = time.perf_counter()
        snapshot, questions = self._cache.snapshot(), self._questions
        frame = RoomReported(
            answers=answers_to(snapshot, questions, self._heard()),
            orders=dict(self._included(snapshot)),
            summary=summary_of(snapshot),
        )
        spent = time.perf_counter() - began
        if frame != self._told:
            try:
                await send(frame)
            except (OSError, TimeoutError):
                return spent
            if questions is self._questions:
                self._told = frame
        return spent
