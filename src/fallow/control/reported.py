"""What machines say of themselves at the beginning of a session: stored where it has changed, but not at every whim."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from fallow.decide.plan import Step
from fallow.model.members import Member
from fallow.model.wire import Hello
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict, StoreError

_log = structlog.get_logger("fallow.sessions")


class Reported:
    """Stores facts and variables, at most once in `seconds` for one member; `clock` gives UTC seconds.

    A member that says something else at every reconnect would otherwise write to the store each time. What comes too
    early is kept, and the newest of it written when the time has come. What is kept when this process ends is said
    again with the member's next session, wherever that is.
    """

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float], seconds: float) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._seconds = seconds
        self._resting: dict[str, Hello | None] = {}  # members written lately, with what they have said since
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def note(self, member_id: str, hello: Hello) -> None:
        """Store what a member says, now or in the end. Raises StoreError."""
        if member_id in self._resting:
            self._resting[member_id] = hello
            return
        await self._write(member_id, hello)

    def stop(self) -> None:
        """Write no more."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._writing:
            task.cancel()

    async def _write(self, member_id: str, hello: Hello) -> None:
        while True:
            member = self._cache.get("members", member_id)
            if not isinstance(member, Member) or (member.facts, member.variables) == (hello.facts, hello.variables):
                return
            changed = msgspec.structs.replace(
                member, facts=hello.facts, variables=hello.variables, updated_at=self._clock()
            )
            self._rest(member_id)
            try:
                await self._applier.commit(Step(puts=(changed,)))
            except Conflict as conflict:
                _log.debug("facts are written again", member=member_id, conflict=str(conflict))
            else:
                return

    def _rest(self, member_id: str) -> None:
        if member_id not in self._timers:
            loop = asyncio.get_running_loop()
            self._resting[member_id] = None
            self._timers[member_id] = loop.call_later(self._seconds, self._wake, member_id)

    def _wake(self, member_id: str) -> None:
        del self._timers[member_id]
        hello = self._resting.pop(member_id)
        if hello is not None:
            task = asyncio.create_task(self._write_late(member_id, hello))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write_late(self, member_id: str, hello: Hello) -> None:
        try:
            await self._write(member_id, hello)
        except StoreError as error:
            _log.warning("facts not stored; they are tried again", member=member_id, error=str(error))
            if self._resting.get(member_id) is None:  # nothing newer has been said meanwhile
                self._rest(member_id)
                self._resting[member_id] = hello
