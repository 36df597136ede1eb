"""What machines say of themselves on a session: stored where it has changed, but not at every whim."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from fallow.decide.plan import Step
from fallow.model.members import Member
from fallow.model.network import is_wireguard_key
from fallow.model.wire import Hello
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict, StoreError

_log = structlog.get_logger("fallow.sessions")


class KeyTaken(Exception):  # noqa: N818 - an outcome, told to the member
    """Another member has the key already; the text says which."""


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a session began with, and the address it was seen to come from."""

    hello: Hello
    source_address: str


class Reported:
    """Stores facts, variables and what a network needs, at most once in `seconds` for one member.

    A member that says something else at every reconnect would otherwise write to the store each time. What comes too
    early is kept, and the newest of it written when the time has come. What is kept when this process ends is said
    again with the member's next session, wherever that is. `clock` gives UTC seconds.
    """

    def __init__(self, cache: Cache, applier: Applier, clock: Callable[[], float], seconds: float) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._seconds = seconds
        self._resting: dict[str, Greeting | None] = {}  # members written lately, with what they have said since
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def note(self, member_id: str, said: Greeting) -> None:
        """Store what a member says, now or in the end. Raises StoreError, and KeyTaken whenever it is."""
        if member_id in self._resting:
            self._check_key(member_id, said.hello.wireguard_key)
            self._resting[member_id] = said
            return
        await self._write(member_id, said)

    def stop(self) -> None:
        """Write no more."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._writing:
            task.cancel()

    async def _write(self, member_id: str, said: Greeting) -> None:
        while True:
            member = self._cache.get("members", member_id)
            if not isinstance(member, Member):
                return
            self._check_key(member_id, said.hello.wireguard_key)
            changed = _with(member, said)
            if changed == member:
                return
            now = self._clock()
            changed = msgspec.structs.replace(changed, updated_at=now, reported_at=now)
            self._rest(member_id)
            try:
                await self._applier.commit(Step(puts=(changed,)))
            except Conflict as conflict:
                _log.debug("facts are written again", member=member_id, conflict=str(conflict))
            else:
                return

    def _check_key(self, member_id: str, key: str) -> None:
        """Raise KeyTaken when a key is another member's: whoever had both would be taken for the other."""
        if not key:
            return
        if not is_wireguard_key(key):
            raise KeyTaken("the WireGuard key is none that anybody could have")
        for other in self._cache.snapshot().members_by_wireguard_key.get(key, ()):
            if other.id != member_id:
                raise KeyTaken(
                    f"the WireGuard key is that of member {other.name}: was the data folder copied? "
                    "Remove wireguard-*.key from this member's folder and start its agent again"
                )

    def _rest(self, member_id: str) -> None:
        if member_id not in self._timers:
            loop = asyncio.get_running_loop()
            self._resting[member_id] = None
            self._timers[member_id] = loop.call_later(self._seconds, self._wake, member_id)

    def _wake(self, member_id: str) -> None:
        del self._timers[member_id]
        said = self._resting.pop(member_id)
        if said is not None:
            task = asyncio.create_task(self._write_late(member_id, said))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write_late(self, member_id: str, said: Greeting) -> None:
        try:
            await self._write(member_id, said)
        except KeyTaken as taken:
            _log.warning("what a member said is not stored", member=member_id, reason=str(taken))
        except StoreError as error:
            _log.warning("facts not stored; they are tried again", member=member_id, error=str(error))
            if self._resting.get(member_id) is None:  # nothing newer has been said meanwhile
                self._rest(member_id)
                self._resting[member_id] = said


def _with(member: Member, said: Greeting) -> Member:
    """Return the member as it says it is."""
    hello = said.hello
    return msgspec.structs.replace(
        member,
        facts=hello.facts,
        variables=hello.variables,
        wireguard_key=hello.wireguard_key,
        session_address=said.source_address if hello.wireguard_key else "",  # nobody else dials it
        network_problem=member.network_problem if hello.wireguard_key else "",
    )
