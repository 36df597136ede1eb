"""What members say of their networks: stored when it has changed, and told as an event."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from fallow.control.ids import new_id
from fallow.decide.events import event
from fallow.decide.plan import Step
from fallow.model.members import Member
from fallow.model.network import NetworkReport
from fallow.store.applier import Applier
from fallow.store.cache import Cache
from fallow.store.contract import Conflict, StoreError

_log = structlog.get_logger("fallow.sessions")

REST_SECONDS = 5.0  # so long a member that has just been written is not written again
STORED_CHARS = 256


class NetworkReports:
    """Stores what keeps members from having their lease's address. `clock` gives UTC seconds."""

    def __init__(
        self, cache: Cache, applier: Applier, clock: Callable[[], float], rest_seconds: float = REST_SECONDS
    ) -> None:
        self._cache = cache
        self._applier = applier
        self._clock = clock
        self._rest_seconds = rest_seconds
        self._newest: dict[str, str] = {}  # the problem each member said last that is not yet looked at
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def note(self, member_id: str, report: NetworkReport) -> None:
        """Take in what a member says; of what it says in quick succession the last counts."""
        self._newest[member_id] = report.problem[:STORED_CHARS]
        if member_id not in self._tasks:
            self._tasks[member_id] = asyncio.create_task(self._store(member_id))

    def stop(self) -> None:
        """Write no more."""
        for task in self._tasks.values():
            task.cancel()

    async def _store(self, member_id: str) -> None:
        try:
            while (problem := self._newest.pop(member_id, None)) is not None:
                try:
                    if await self._write(member_id, problem):
                        await asyncio.sleep(self._rest_seconds)
                except StoreError as error:
                    _log.warning("network report not stored; trying again", member=member_id, error=str(error))
                    self._newest.setdefault(member_id, problem)
                    await asyncio.sleep(self._rest_seconds)
        finally:
            del self._tasks[member_id]

    async def _write(self, member_id: str, problem: str) -> bool:
        """Store the problem if it is another than before; say whether it was. Raises StoreError."""
        while True:
            member = self._cache.get("members", member_id)
            if not isinstance(member, Member) or member.network_problem == problem:
                return False
            now = self._clock()
            changed = msgspec.structs.replace(member, network_problem=problem, updated_at=now)
            reason, text = ("NetworkBroken", problem) if problem else ("NetworkReady", "its lease's address works")
            told = event(
                new_id(), now, f"{member.role}:{member.name}", "member", member.id, member.name, reason,
                f"{member.role} {member.name} at {member.lease.address}: {text}", "warning" if problem else "info",
            )  # fmt: skip
            try:
                await self._applier.commit(Step(puts=(changed, told)))
            except Conflict as conflict:
                _log.debug("network report is written again", member=member_id, conflict=str(conflict))
            else:
                return True
