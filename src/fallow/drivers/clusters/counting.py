"""Standing questions of room, answered when they come and whenever an answer changes."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from fallow.decide.federation.room_answers import answers_to, summary_of
from fallow.decide.harvest.heard import HeardServers
from fallow.decide.snapshot import Snapshot
from fallow.decide.variables import Heard
from fallow.model.cluster_frames import RoomReported
from fallow.model.rooms import RoomQuestion

KINDS = frozenset({"replicas", "members", "deployments", "templates", "label-sets", "vms", "lendings", "server-pools"})
LEAST_REST_SECONDS = 0.5
REST_FACTOR = 9.0  # counting takes a tenth of the time at the most
LOOK_SECONDS = 10.0  # what nodes measure changes no record


class Counting:
    """Counts room and tells what differs. `snapshot` gives the newest, `heard` what nodes said last that they use.

    `included` says which orders the count of a snapshot includes: deployment id -> revision. `servers` gives what
    servers that lend said last, and `clock` UTC seconds.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        heard: Callable[[], Heard],
        included: Callable[[Snapshot], Mapping[str, int]],
        servers: Callable[[], HeardServers] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._snapshot = snapshot
        self._heard = heard
        self._included = included
        self._servers = servers
        self._clock = clock
        self._questions: tuple[RoomQuestion, ...] | None = None
        self._awake = asyncio.Event()
        self._told: RoomReported | None = None

    def ask(self, questions: tuple[RoomQuestion, ...] | None) -> None:
        """Answer these from now on; all of them are told again, and what is free in all. None: nobody asks any more."""
        self._questions = questions
        self._told = None
        self._awake.set()

    def changed(self, kinds: Collection[str]) -> None:
        """Look again after records of these kinds have changed."""
        if not KINDS.isdisjoint(kinds):
            self._awake.set()

    async def run(self, tell: Callable[[RoomReported], Awaitable[object]]) -> None:
        """Answer until cancelled; what cannot be sent (OSError, TimeoutError) is told when it is asked again."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            if self._questions is not None:
                spent = await self._answer(tell, self._questions)
                await asyncio.sleep(max(LEAST_REST_SECONDS, spent * REST_FACTOR))

    async def _answer(
        self, tell: Callable[[RoomReported], Awaitable[object]], questions: tuple[RoomQuestion, ...]
    ) -> float:
        """Tell the answers if they are others than were told; return how many seconds it took to find them."""
        began = time.perf_counter()
        snapshot, servers, now = self._snapshot(), self._servers(), self._clock()
        frame = RoomReported(
            answers=answers_to(snapshot, questions, self._heard(), servers, now),
            orders=dict(self._included(snapshot)),
            summary=summary_of(snapshot, servers, now),
        )
        spent = time.perf_counter() - began
        if frame != self._told:
            try:
                await tell(frame)
            except (OSError, TimeoutError):
                return spent
            if questions is self._questions:
                self._told = frame
        return spent
